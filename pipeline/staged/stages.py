"""The stages of `guie staged`: the depths of an encoder at which an image becomes a vector, from shallow to deep.

first    the pixels, averaged down; the encoder is not run
second   a layer half way through the encoder
third    a layer near its end
origin   the encoder's output; with a text tower it is compared with the prompts of classes (zero-shot)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline.config import ImageTextModel
from pipeline.data import preprocessing
from pipeline.data.preprocessing import prepare_all
from pipeline.models import catalogue, encoders, intermediate_layers
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.weights.variables import weights_digest


@dataclass(frozen=True)
class Stage:
    """A depth at which an image becomes a vector."""

    name: str
    width: int  # numbers a vector
    made_by: dict[str, Any]  # JSON-able; all that decides a vector but the image: one for all vectors of a collection
    zero_shot: bool = False  # its collection holds classes, not images, so the nearest one alone is the answer


@dataclass
class Batch:
    """Images on their way through the stages."""

    images: list[np.ndarray]  # uint8 [H, W, 3] each
    keys: list[str]  # one an image; an image is not its own neighbour
    # What the encoder has computed of them so far, see `SteppedEncoder.advance`
    activations: dict[str, tf.Tensor] = field(default_factory=dict)

    def keep(self, rows: Sequence[int]) -> "Batch":
        return Batch(
            [self.images[row] for row in rows],
            [self.keys[row] for row in rows],
            {name: tf.gather(values, list(rows)) for name, values in self.activations.items()},
        )


class StagedEncoder:
    """An encoder that gives a vector at every stage and goes on from the stage before.

    Args:
        taps: stage → layer, see `intermediate_layers.choose_layers`.
        pixels_px: side of the square that `first` averages an image down to.
        zero_shot: False: `origin` is the encoder's output also where the model has a text tower.

    Attributes:
        dual_encoder: with the text tower that `origin` is compared with; None where it is not zero-shot.
        layers: stage → layer of the encoder, empty for its output; without `first`.
        stages: name → stage, from shallow to deep.
    """

    def __init__(self, model: ImageTextModel, taps: Mapping[str, str], pixels_px: int, zero_shot: bool = True):
        catalogue.expect_square(model.encoder, model.title)
        self.dual_encoder = DualEncoder(model) if zero_shot and _has_text_tower(model) else None
        self.image = self.dual_encoder.image if self.dual_encoder else encoders.build(model.encoder, seed=model.seed)
        self.layers = {**intermediate_layers.choose_layers(self.image, taps), "origin": intermediate_layers.OUTPUT}
        self.pixels_px = pixels_px
        self._stepped = intermediate_layers.SteppedEncoder(self.image.model, self.layers)
        made_by = {
            "encoder": self.image.name,
            "weights": weights_digest(self.image.model.weights)[:16],
            "preprocess": preprocessing.identity(self.image.preprocess),
        }
        self.stages = {"first": Stage("first", 3 * pixels_px**2, {"pixels_px": pixels_px})}
        for name, layer in self.layers.items():
            self.stages[name] = Stage(name, self._stepped.width(name), {**made_by, "layer": layer or "output"})
        if self.dual_encoder:
            of_origin = {**made_by, "layer": "classes", "text_tower": self.dual_encoder.identity}
            self.stages["origin"] = replace(self.stages["origin"], made_by=of_origin, zero_shot=True)

    def features(self, stage: str, batch: Batch) -> np.ndarray:
        """float32 [B, width of the stage]; `batch` remembers how far the encoder has come."""
        if stage == "first":
            return pixel_vectors(batch.images, self.pixels_px)
        if not batch.activations:
            batch.activations[intermediate_layers.PIXELS] = prepare_all(batch.images, self.image.preprocess)
        return self._stepped.advance(batch.activations, stage).numpy()


def pixel_vectors(images: Sequence[np.ndarray], side_px: int) -> np.ndarray:
    """uint8 [H, W, 3] each → float32 [B, 3·side²], averaged down to `side_px` and in −1 … 1."""
    small = [
        np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BOX), np.float32)
        for image in images
    ]
    return (np.stack(small) / 127.5 - 1.0).reshape(len(small), -1)


def _has_text_tower(model: ImageTextModel) -> bool:
    if model.encoder.name.startswith(encoders.KERAS_FILE):
        return False
    return catalogue.find(model.encoder.name, model.encoder.architecture).facts.joint_pooling != ""
