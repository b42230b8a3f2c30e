"""An image tower and the text tower beside it: images and texts as unit vectors that can be compared."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.config import ImageTextModel
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.errors import BadInput
from pipeline.files import fingerprint
from pipeline.models import catalogue, encoders, text
from pipeline.models.text import TextEncoder

JOINT_POOLING = {"clip": "projection", "siglip": "attention"}  # the features that are compared with text
FITS = {"clip": "crop", "siglip": "squash"}  # how images were made square in training, see packs.fitted


class DualEncoder:
    """Both towers, ready to run.

    Attributes:
        image: see `encoders.ImageEncoder`; its features are those compared with text.
        text: see `text.TextEncoder`.
        fit: how images become square, see `packs.fitted`.
        trained: whether the weights are more than random.
    """

    def __init__(self, model: ImageTextModel):
        entry = catalogue.find(model.encoder.name, model.encoder.architecture)
        if entry.family not in JOINT_POOLING:
            raise BadInput(f"{model.encoder.name} has no text tower, expected a CLIP or a SigLIP")
        pooling = JOINT_POOLING[entry.family]
        if model.encoder.pooling not in (None, pooling):
            raise BadInput(f"{model.title}: only encoder.pooling={pooling} can be compared with text")
        self.text: TextEncoder = text.build(
            model.encoder.name, model.encoder.weights, model.vocabulary, model.seed, model.text_architecture
        )
        self.image = encoders.build(replace(model.encoder, pooling=pooling), seed=model.seed)
        if self.image.width != self.text.width:
            raise BadInput(
                f"{model.title}: images have {self.image.width} numbers and texts {self.text.width}; "
                "make encoder.architecture and text_architecture agree"
            )
        self.fit = FITS[entry.family]
        self.trained = model.encoder.weights != "none"
        side = self.preprocess.image_size_px
        self._encode_images = tf.function(
            self._images,
            input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32)],
            autograph=False,
        )
        self._encode_texts = tf.function(
            lambda ids: _unit(self.text.model(ids, training=False)),
            input_signature=[tf.TensorSpec([None, self.text.tokenizer.length], tf.int32)],
            autograph=False,
        )

    @property
    def preprocess(self) -> Preprocess:
        return self.image.preprocess

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Resized pixels in 0…255, [B, S, S, 3] → float32 [B, D], unit length."""
        return self._encode_images(tf.cast(images, tf.float32)).numpy()

    def encode_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
        """Texts → float32 [N, D], unit length."""
        return self.encode_ids(self.text.tokenize(texts), batch_size)

    def encode_ids(self, ids: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Packed token ids int32 [N, L] → float32 [N, D], unit length."""
        parts = [self._encode_texts(part).numpy() for part in batches(ids, batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.text.width), np.float32)

    def logits(self, cosine: Any) -> Any:
        """Cosines (an array or a number) → logits, as the model was trained on them."""
        return cosine * self.text.logit_scale + (self.text.logit_bias or 0.0)

    def _images(self, images: tf.Tensor) -> tf.Tensor:
        return _unit(self.image.model(normalize(images, self.preprocess), training=False))


def identity(model: ImageTextModel) -> str:
    """16 hex digits that change whenever the embeddings would: what caches are named after."""
    files = [model.encoder.weights.partition(":")[2], model.vocabulary]
    states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in map(Path, files) if path.is_file()]
    return fingerprint([asdict(replace(model, label="")), states])


def batches(rows: np.ndarray, size: int) -> Iterable[np.ndarray]:
    """Rows in slices of `size`, the last one shorter."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _unit(features: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
