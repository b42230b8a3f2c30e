"""The smallest CLIP of the catalogue with random weights, built once for all tests of a run."""

import functools

from pipeline.config import Encoder
from pipeline.models.dual_encoder import Towers, TwoTowers

MODEL = TwoTowers(Encoder(name="clip_tiny"))


@functools.cache
def clip_tiny() -> Towers:
    return Towers(MODEL)
