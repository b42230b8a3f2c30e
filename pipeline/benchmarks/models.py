"""EMBEDDER of `guie bench` as something that embeds: of any width, exported or the raw features of an encoder."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import config, files
from pipeline.benchmarks import pixels
from pipeline.config.sidecar import completed
from pipeline.data import host_resize, preprocessing
from pipeline.data.parts import Named
from pipeline.data.preprocessing import normalize
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.embedding.chunks import embed_into
from pipeline.evaluation.halves import Halves, Pixels
from pipeline.models import any_size, catalogue, encoders
from pipeline.models.encoders import KERAS_FILE, ImageEncoder
from pipeline.retrieval.vectors import unit_length
from pipeline.vectors.store import Store

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


def embedded(
    model: Model, folder: Path, items: Iterable[Named], total: int, *, batch_size: int, dtype: str = "float32"
) -> Store:
    """The store of a part's images in `folder`; goes on where it was killed. `dtype`: of the vectors on disk."""
    what = f"bench: {folder.name}"
    return embed_into(folder, model.submission, items, batch_size=batch_size, dtype=dtype, what=what, total=total)


def _encoder(asked: Asked) -> config.Encoder | None:
    """The section `encoder` of a config, a name or a Keras file; None of what was exported."""
    path = Path(asked.embedder)
    if path.suffix in CONFIGS and path.is_file():
        encoder = config.load(config.Run, path).encoder
        return replace(encoder, weights=asked.weights) if asked.weights else encoder
    if path.suffix == ".keras":
        if not path.is_file():
            raise BadInput(f"{path}: expected a Keras file, nothing is there")
        if asked.weights:
            raise BadInput(f"--weights is of an encoder by name, {path} has its own")
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
    size = asked.image_size_px or asked.benchmark_px
    if asked.way == "aspect":
        entry = catalogue.expect(encoder)
        native = entry.image_size_px if entry else encoder.image_size_px
        encoder = replace(encoder, fit="aspect")
        size = size or (entry and native and pixels.ilias_px(entry.family, native)) or None
    if size:
        encoder = replace(encoder, image_size_px=size)
    catalogue.expect(encoder)
    built = encoders.build(encoder)
    way = built.preprocess.fit if asked.way == "own" else asked.way
    halves = _halves(built, way)
    fingerprint = files.fingerprint([_identity(encoder), way, preprocessing.identity(built.preprocess)])
    submission = Submission(asked.embedder, _whole(halves), built.width, fingerprint, halves)
    return Model(submission, pixels.said(way, built.preprocess))


def _identity(encoder: config.Encoder) -> dict[str, Any]:
    """The section `encoder`, of a file what it holds in place of where it lies."""
    held = asdict(encoder)
    for key, prefix in (("name", KERAS_FILE), ("weights", "file:")):
        if held[key].startswith(prefix):
            held[key] = files.identity(held[key].removeprefix(prefix))
    return held


def _halves(built: ImageEncoder, way: str) -> Halves:
    side = built.preprocess.image_size_px

    def resize(image: np.ndarray) -> Pixels:
        found = pixels.uned(image, side) if way == "uned" else host_resize.resize(image, built.preprocess)
        return {"images": found}

    return Halves(resize, _features(built, None if way == "aspect" else side), 3 * side * side)


def _features(built: ImageEncoder, side: int | None) -> Callable[[Pixels], np.ndarray]:
    """{"images": [B, H, W, 3] in 0…255} → the encoder's features at unit length, float32 [B, width].

    `side`: of the squares that it takes; None: images of any size.
    """
    network = any_size.forward(built) if side is None else partial(built.model, training=False)

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(network(normalize(images, built.preprocess)), tf.float32)

    return lambda batch: unit_length(forward(tf.constant(batch["images"], tf.float32)).numpy())


def _whole(halves: Halves) -> embedders.Embed:
    return lambda images: halves.embed({"images": np.stack([halves.resize(each)["images"] for each in images])})
