"""The smallest CLIP of the catalogue with random weights, built once for all tests of a run."""

import functools

from pipeline.config import Encoder, ImageTextModel
from pipeline.models.dual_encoder import DualEncoder

MODEL = ImageTextModel(Encoder(name="clip_tiny"))


@functools.cache
def clip_tiny() -> DualEncoder:
    return DualEncoder(MODEL)
