"""Position embeddings on another grid of patches, resized as open_clip does it. `grid_side` needs no TensorFlow."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PositionTable:
    """Where an encoder keeps its position embeddings, and their layout."""

    names: tuple[str, ...]  # paths of the variables that hold them
    prefix_tokens: int  # rows before the grid's
    grid: int  # patches along one side
    antialias: bool  # see `resize_table`


def grid_side(image_size_px: int, patch_size_px: int, overlap_px: int = 0) -> int:
    """Patches along one side: a window of `patch_size_px` moved by `patch_size_px - overlap_px`, without padding.

    >>> grid_side(224, 14), grid_side(290, 14, overlap_px=2), grid_side(384, 14)
    (16, 24, 27)
    """
    return (image_size_px - patch_size_px) // (patch_size_px - overlap_px) + 1


def resize_table(table: np.ndarray, grid: int, prefix_tokens: int, antialias: bool = True) -> np.ndarray:
    """Position embeddings float32 [P + G·G, D] → float32 [P + grid·grid, D], bicubic; ValueError for no square grid.

    The P prefix tokens stay as they are. `antialias` smooths when the grid shrinks, as open_clip does; DINOv2 without
    registers does not.
    """
    import tensorflow as tf

    prefix, patches = table[:prefix_tokens], table[prefix_tokens:]
    side = math.isqrt(len(patches))
    if not side or side * side != len(patches):
        raise ValueError(f"expected {prefix_tokens} + a square number of positions, got {len(table)}")
    if side == grid:
        return np.asarray(table, np.float32)
    square = np.asarray(patches, np.float32).reshape(1, side, side, -1)  # [1, G, G, D]
    # The kernel of `tf.image.resize`, which without antialiasing would take one that is rounded to 1/1024 of a patch.
    to = {"size": [grid, grid], "scale": [grid / side, grid / side], "translation": [0.0, 0.0]}
    resized = tf.raw_ops.ScaleAndTranslate(images=square, **to, kernel_type="keyscubic", antialias=antialias)
    return np.concatenate([np.asarray(prefix, np.float32), resized.numpy().reshape(grid * grid, -1)])
