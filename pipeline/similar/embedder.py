"""Pictures → unit vectors to compare: by the encoder alone, or by the embedder that `guie similar train` trained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline import files
from pipeline.config import Encoder
from pipeline.data import preprocessing
from pipeline.data.array_cache import ArrayCache
from pipeline.data.image_cache import cache_images
from pipeline.data.preprocessing import prepare_all
from pipeline.errors import BadInput
from pipeline.models import catalogue, encoders
from pipeline.models.weights.variables import weights_digest
from pipeline.retrieval.vectors import unit_length
from pipeline.similar.crop import Box, Detector, crop_image
from tfrecords.sources import Item

STATE = "embedder.npz"  # in the run folder: what `guie similar train` trained
CACHE = "embedded"  # in the run folder: an `ArrayCache` of what was computed from images
WHOLE = (-1, -1, -1, -1)  # the box, in the cache, of an image that is not cropped


@dataclass(frozen=True)
class Stored:
    """Images that could be read, with their vectors."""

    images: list[Item]
    vectors: np.ndarray  # float32 [N, D], unit length
    boxes: list[Box | None]  # what was cropped from each image; None: the whole of it
    rejects: list[tuple[str, str]]  # (key, reason) of the others


class Embedder:
    """
    Args:
        trained: the state file of `guie similar train`; None: the encoder's features are the vectors.

    Attributes:
        head: features [B, width] → float32 [B, embedding_dim], unit length. model: encoder and head.
        identity: of encoder and dimension; part of the state file.
        made_by: JSON-able; all that decides `features` but the pictures.
    """

    def __init__(self, encoder: Encoder, embedding_dim: int, seed: int, trained: Path | None = None):
        catalogue.expect_square(encoder, "guie similar")
        self.encoder = encoders.build(encoder, seed=seed, train_batch_norm=True)
        self.head = build_head(self.encoder.width, embedding_dim, seed)
        self.model = keras.Model(self.encoder.model.inputs, self.head(self.encoder.model.outputs[0]))
        self.identity = files.fingerprint([asdict(encoder), embedding_dim])
        self._finished_by_head, used = False, self.encoder.model
        if trained:
            self._finished_by_head = self._load(trained) is self.head
            used = self.encoder.model if self._finished_by_head else self.model
        self.made_by = ["unit", preprocessing.identity(self.encoder.preprocess), weights_digest(used.weights)]
        self._run = tf.function(lambda images: used(images, training=False), reduce_retracing=True)

    def features(self, pictures: list[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each → float32 [B, D], unit length; to be cached, `finish` makes the vectors of them."""
        return unit_length(self._run(prepare_all(pictures, self.encoder.preprocess)).numpy())

    def finish(self, features: np.ndarray) -> np.ndarray:
        """Features → unit vectors to compare: a trained head on a frozen encoder runs on cached features."""
        if not self._finished_by_head or not len(features):
            return features
        return unit_length(self.head(features, training=False).numpy())

    def _load(self, path: Path) -> keras.Model:
        """Reads a state file; returns the part that was trained, the head or the whole model."""
        if not path.exists():
            raise BadInput(f"expected a trained embedder in {path.parent}: run `guie similar train` first")
        parts = {self.identity + "head": self.head, self.identity + "all": self.model}
        with np.load(path) as state:
            part = parts.get(str(state["identity"]))
            if part is None:
                raise BadInput(f"{path} is of another encoder or embedding: name the config it was trained with")
            assign(part.weights, state, "model")
        return part


def build_head(width: int, embedding_dim: int, seed: int) -> keras.Model:
    """float32 [B, width] → [B, embedding_dim], unit length. An orthogonal start keeps the features' distances."""
    features = keras.Input([width])
    unit = keras.layers.UnitNormalization(dtype="float32")(features)
    projected = keras.layers.Dense(
        embedding_dim,
        use_bias=False,
        kernel_initializer=keras.initializers.Orthogonal(seed=seed),
        dtype="float32",
        name="embedding",
    )(unit)
    return keras.Model(features, keras.layers.UnitNormalization(dtype="float32")(projected), name="head")


def assign(variables: Iterable[keras.Variable], state: Mapping[str, np.ndarray], name: str) -> None:
    """Fills variables from a state file's arrays `<name>/0`, `<name>/1`, …"""
    for index, variable in enumerate(variables):
        variable.assign(state[f"{name}/{index}"])


def embed_images(
    items: Sequence[Item], embedder: Embedder, detector: Detector | None, run_dir: Path, batch_size: int, what: str
) -> Stored:
    """Reads, crops and embeds; a rerun, or one after a kill, computes only what is missing.

    `detector`: finds the box to crop; None: nothing is cropped. `what`: the work, for the progress.
    """

    def compute(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        boxes = [detector.find_box(picture) if detector else None for picture in pictures]
        cropped = [crop_image(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
        return {"vectors": embedder.features(cropped), "boxes": np.array([box or WHOLE for box in boxes], np.int64)}

    cache = ArrayCache(run_dir / CACHE, [embedder.made_by, detector and detector.made_by])
    found = cache_images(cache, items, compute, what, batch_size)
    rows = cache.get(found.keys) or {"vectors": np.zeros((0, 1), np.float32), "boxes": np.zeros((0, 4))}
    boxes = [None if box == WHOLE else box for box in map(tuple, rows["boxes"].tolist())]
    return Stored(found.items, embedder.finish(np.asarray(rows["vectors"])), boxes, found.rejects)
