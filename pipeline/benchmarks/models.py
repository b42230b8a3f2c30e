"""EMBEDDER of `guie bench` as something that embeds: of any width, exported or the raw features of an encoder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline import config, files
from pipeline.benchmarks import pixels
from pipeline.config.sidecar import completed
from pipeline.data import host_resize, preprocessing
from pipeline.data.preprocessing import normalize
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.halves import Halves, Pixels
from pipeline.models import catalogue, encoders
from pipeline.models.encoders import KERAS_FILE, ImageEncoder
from pipeline.retrieval.vectors import unit_length

OWN = "its own"
CONFIGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Asked:
    """What the command says of a model."""

    embedder: str
    weights: str = ""
    image_size_px: int | None = None  # None: the benchmark's, else the encoder's own
    trust: bool = False
    way: str = "own"  # of the benchmark for raw features, see table.Benchmark
    benchmark_px: int | None = None


@dataclass(frozen=True)
class Model:
    submission: Submission
    pixels: str  # in a few words


def opened(asked: Asked) -> Model:
    """Raises BadInput: nothing there, not a model, an unknown name, a name without weights, options for no encoder."""
    encoder = _encoder(asked)
    if encoder is None:
        if asked.weights or asked.image_size_px:
            raise BadInput(f"--weights and --image-size are of an encoder by name or file, {asked.embedder} is none")
        path = Path(asked.embedder)
        inside = path / "submission.zip"
        handle = str(inside) if inside.is_file() else asked.embedder
        return Model(embedders.load(handle, asked.trust, widest=None), OWN)
    return _raw_features(encoder, asked)


def _encoder(asked: Asked) -> config.Encoder | None:
    """The section `encoder` of a config, a name or a Keras file; None of what was exported."""
    path = Path(asked.embedder)
    if path.suffix in CONFIGS and path.is_file():
        encoder = config.load(config.Run, path).encoder
        return replace(encoder, weights=asked.weights) if asked.weights else encoder
    if path.suffix == ".keras":
        if not path.is_file():
            raise BadInput(f"{path}: expected a Keras file, nothing is there")
        return completed(config.Encoder(name=f"{KERAS_FILE}{path}"))
    if path.exists() or "://" in asked.embedder or path.suffix == ".zip":
        return None
    entry = catalogue.find(asked.embedder)  # raises BadInput, and names the nearest
    if not asked.weights:
        raise BadInput(
            f"--weights: say where the weights of {asked.embedder} come from: preset, open_clip:TAG, file:PATH or none"
        )
    return config.Encoder(name=asked.embedder, weights=asked.weights, fit=entry.facts.fit)


def _raw_features(encoder: config.Encoder, asked: Asked) -> Model:
    if size := asked.image_size_px or asked.benchmark_px:
        encoder = replace(encoder, image_size_px=size)
    catalogue.expect(encoder)
    built = encoders.build(encoder)
    way = built.preprocess.fit if asked.way == "own" else asked.way
    identity = [asdict(encoder), way, preprocessing.identity(built.preprocess), _identity(encoder)]
    submission = Submission(
        asked.embedder, _whole(built, way), built.width, files.fingerprint(identity), _halves(built, way)
    )
    return Model(submission, pixels.said(way, built.preprocess))


def _identity(encoder: config.Encoder) -> str:
    """Of the weights' file, where they are of one."""
    for prefix, word in ((KERAS_FILE, encoder.name), ("file:", encoder.weights)):
        if word.startswith(prefix):
            return files.identity(word.removeprefix(prefix))
    return ""


def _halves(built: ImageEncoder, way: str) -> Halves:
    side = built.preprocess.image_size_px

    def resize(image: np.ndarray) -> Pixels:
        if way == "uned":
            return {"images": pixels.uned(image, side)}
        return {"images": host_resize.resize(image, built.preprocess)}

    return Halves(resize, _features(built), 3 * side * side)


def _features(built: ImageEncoder) -> Callable[[Pixels], np.ndarray]:
    """{"images": float32 [B, S, S, 3] in 0…255} → the encoder's features at unit length, float32 [B, width]."""
    side = built.preprocess.image_size_px

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(built.model(normalize(images, built.preprocess), training=False), tf.float32)

    return lambda batch: unit_length(forward(tf.constant(batch["images"])).numpy())


def _whole(built: ImageEncoder, way: str) -> embedders.Embed:
    halves = _halves(built, way)
    return lambda images: halves.embed({"images": np.stack([halves.resize(each)["images"] for each in images])})
