"""An image tower and the text tower beside it: images and texts as unit vectors that can be compared."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.config import ImageTextModel
from pipeline.console import Progress
from pipeline.data import preprocessing
from pipeline.data.array_cache import ArrayCache
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.errors import BadInput
from pipeline.files import fingerprint
from pipeline.models import catalogue, encoders
from pipeline.models.text import encoder as text_encoder
from pipeline.models.text.prompts import fill
from pipeline.models.weights.variables import weights_digest
from pipeline.retrieval.vectors import unit_length

CLASSES_A_PART = 50  # of the cache of class embeddings: a kill loses at most one part


class DualEncoder:
    """Both towers, ready to run: `image` (its features are those compared with text) and `text`.

    Raises BadInput: an encoder without a text tower, a pooling that is not compared with text, towers of different
    widths; as `encoders.build` and `text.encoder.build`.
    """

    def __init__(self, model: ImageTextModel):
        entry = catalogue.find(model.encoder.name, model.encoder.architecture)
        pooling = entry.facts.joint_pooling
        if not pooling:
            raise BadInput(f"{model.encoder.name} has no text tower, expected a CLIP, MetaCLIP 2, SigLIP or PE-Core")
        if model.encoder.pooling not in (None, pooling):
            raise BadInput(f"{model.title}: only encoder.pooling={pooling} can be compared with text")
        catalogue.expect_square(model.encoder, model.title)
        self.config = model
        self.text = text_encoder.build(
            model.encoder.name, model.encoder.weights, model.vocabulary, model.seed, model.text_architecture
        )
        fit = model.encoder.fit or entry.facts.fit  # compared with text, an image becomes square as in training
        self.image = encoders.build(replace(model.encoder, pooling=pooling, fit=fit), seed=model.seed)
        if self.image.width != self.text.width:
            widths = f"images have {self.image.width} numbers and texts {self.text.width}"
            raise BadInput(f"{model.title}: {widths}; make encoder.architecture and text_architecture agree")
        self.trained = model.encoder.weights != "none"  # more than random
        side = self.preprocess.image_size_px
        self._encode_images = tf.function(
            self._images, input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32)], autograph=False
        )
        self._encode_texts = tf.function(
            lambda ids: _unit(self.text.model(ids, training=False)),
            input_signature=[tf.TensorSpec([None, self.text.tokenizer.length], tf.int32)],
            autograph=False,
        )

    @cached_property
    def identity(self) -> str:
        """16 hex digits that change whenever the embeddings would: a cache key. Reads all weights, once.

        Weights and vocabulary count by content. What no weight shows (activation, overlap) counts as the config says.
        """
        encoder, tokenizer = self.config.encoder, self.text.tokenizer
        network = [encoder.name, encoder.architecture, encoder.patch_overlap_px, self.config.text_architecture]
        weights = weights_digest([*self.image.model.weights, *self.text.model.weights])
        tokens = [tokenizer.digest, tokenizer.length, tokenizer.pad]
        return fingerprint([network, weights, preprocessing.identity(self.preprocess), tokens])

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


def class_embeddings(
    encoder: DualEncoder, names: list[str], templates: list[str], folder: Path, batch_size: int
) -> np.ndarray:
    """float32 [C, D]: of each class the mean of its prompts' unit vectors, at unit length (Radford et al. 2021).

    `names` are the classes' as they are spoken, `templates` prompts with {} in place of the name; `folder` keeps the
    embeddings (`ArrayCache`); `batch_size` prompts are encoded at once.
    """
    cache = ArrayCache(folder, [encoder.identity, templates])
    missing = cache.missing(names)
    kept = (len(names) - len(missing)) * len(templates)
    progress = Progress(f"{encoder.text.name}: prompts", len(names) * len(templates), "prompts", kept)
    for start in range(0, len(missing), CLASSES_A_PART):
        part = missing[start : start + CLASSES_A_PART]
        texts = [fill(template, name) for name in part for template in templates]
        encoded = encoder.encode_texts(texts, batch_size).reshape(len(part), len(templates), -1)
        cache.put(part, embeddings=unit_length(encoded.mean(axis=1)))
        progress.add(len(texts))
    return cache.get(names)["embeddings"]


def batches(rows: np.ndarray, size: int) -> Iterable[np.ndarray]:
    """Rows in slices of `size`, the last one shorter."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _unit(features: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
