"""Where a patch lies: position embeddings on another grid, resized as open_clip does it, and rotations by place.

`grid_side` needs no TensorFlow.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PositionTable:
    """Where an encoder keeps its position embeddings, and their layout."""

    names: tuple[str, ...]  # paths of the variables that hold them; none where places only rotate
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
    prefix, patches = table[:prefix_tokens], table[prefix_tokens:]
    side = math.isqrt(len(patches))
    if not side or side * side != len(patches):
        raise ValueError(f"expected {prefix_tokens} + a square number of positions, got {len(table)}")
    if side == grid:
        return np.asarray(table, np.float32)
    resized = resize_grid(np.asarray(patches, np.float32), (grid, grid), antialias)
    return np.concatenate([np.asarray(prefix, np.float32), resized.numpy()])


def resize_grid(patches: Any, grid: Any, antialias: bool) -> Any:
    """Position embeddings float32 [G·G, D] → tensor [h·w, D] of the `grid` (h, w), numbers or a tensor; bicubic."""
    import tensorflow as tf

    side = math.isqrt(patches.shape[0])
    square = tf.reshape(patches, [1, side, side, patches.shape[1]])
    # The kernel of `tf.image.resize`, which without antialiasing would take one that is rounded to 1/1024 of a patch.
    scale = tf.cast(grid, tf.float32) / tf.constant(float(side))
    resized = tf.raw_ops.ScaleAndTranslate(
        images=square, size=grid, scale=scale, translation=[0.0, 0.0], kernel_type="keyscubic", antialias=antialias
    )
    return tf.reshape(resized, [-1, patches.shape[1]])


@dataclass(frozen=True)
class Rotary:
    """Rotations of queries and keys by a patch's row and column (RoPE in two dimensions; Su et al. 2021).

    Row i of n lies at `(i + offset) / n · scale + shift`; columns alike. Each is multiplied by head_dim / 4 frequencies
    and gives as many angles, each of which rotates two numbers of a head.
    """

    head_dim: int
    frequencies: tuple[float, ...]  # radians a unit of place, head_dim / 4 of them
    scale: float
    offset: float = 0.5
    shift: float = 0.0
    columns_first: bool = False  # the order of the angles

    def angles(self, grid: Any) -> Any:
        """float32 [h·w, head_dim / 2], row by row, of a `grid` (h, w): two numbers, or an int32 tensor."""
        import tensorflow as tf

        count = tf.cast(grid, tf.float32)
        places = [(tf.range(count[axis]) + self.offset) / count[axis] * self.scale + self.shift for axis in (0, 1)]
        each = [place[:, None] * tf.constant(self.frequencies, tf.float32) for place in places]  # [h, F], [w, F]
        shape = tf.stack([grid[0], grid[1], len(self.frequencies)])
        rows = tf.broadcast_to(each[0][:, None], shape)
        columns = tf.broadcast_to(each[1][None], shape)
        both = [columns, rows] if self.columns_first else [rows, columns]
        return tf.reshape(tf.concat(both, axis=-1), [-1, 2 * len(self.frequencies)])


def dinov3_rotary(head_dim: int) -> Rotary:
    """DINOv3's (Siméoni et al. 2025): places in -1 … 1, a period of 100^(4k / head_dim) of these."""
    steps = np.arange(head_dim // 4, dtype=np.float32)
    frequencies = 2 * np.pi / np.float32(100) ** (4 * steps / head_dim)
    return Rotary(head_dim, tuple(map(float, frequencies)), scale=2.0, shift=-1.0)


def pe_core_rotary(head_dim: int, reference_grid: int, class_token: bool) -> Rotary:
    """PE-Core's (Bolya et al. 2025): places in patches of the grid that it was trained on, after the class token."""
    steps = np.arange(head_dim // 4, dtype=np.float32)
    frequencies = 1 / np.float32(10_000) ** (4 * steps / head_dim)
    scale, offset = float(reference_grid), float(class_token)
    return Rotary(head_dim, tuple(map(float, frequencies)), scale, offset, columns_first=True)
