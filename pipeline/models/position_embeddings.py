"""Position embeddings for another grid of patches.

The reference is open_clip's: bicubic with antialiasing, pixel centres at halves, weights that fall outside
the image dropped and the rest scaled to sum to 1. It is separable, so one [new, old] matrix does rows and
columns.
"""

import math

import numpy as np

KEYS_A = -0.5  # of Keys' cubic; Pillow's, and torch's when it antialiases


def grid_side(image_size_px: int, patch_size_px: int, overlap_px: int = 0) -> int:
    """Patches along one side: a window of `patch_size_px` moved by `patch_size_px - overlap_px`, none padded.

    >>> grid_side(224, 14), grid_side(290, 14, overlap_px=2), grid_side(384, 14)
    (16, 24, 27)
    """
    return (image_size_px - patch_size_px) // (patch_size_px - overlap_px) + 1


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel, support ±2."""
    x = np.abs(x)
    near = ((KEYS_A + 2.0) * x - (KEYS_A + 3.0)) * x * x + 1.0
    far = ((KEYS_A * x - 5.0 * KEYS_A) * x + 8.0 * KEYS_A) * x - 4.0 * KEYS_A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def interpolation_matrix(old: int, new: int, antialias: bool = True) -> np.ndarray:
    """float64 [new, old]; rows sum to 1. Shrinking widens the kernel where it antialiases, enlarging never
    does.
    """
    scale = old / new
    widen = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(new)[:, None] + 0.5) * scale
    # The window is cut to whole pixels as Pillow and torch cut it.
    first = np.maximum(np.floor(centres - 2.0 * widen + 0.5), 0)
    last = np.minimum(np.floor(centres + 2.0 * widen + 0.5), old)
    pixels = np.arange(old)[None, :]
    weights = cubic((pixels + 0.5 - centres) / widen) * ((pixels >= first) & (pixels < last))
    return weights / weights.sum(axis=1, keepdims=True)


def resize_table(table: np.ndarray, grid: int, prefix_tokens: int, antialias: bool = True) -> np.ndarray:
    """Position embeddings of a square grid → those of a `grid` × `grid` one.

    Args:
        table: float [P + G·G, D], the P prefix tokens (class token) first; they are kept as they are.
        grid: patches along one side of the new grid.
        prefix_tokens: P.
        antialias: smooth when the grid shrinks, as open_clip does; DINOv2 without registers does not.

    Returns:
        float32 [P + grid·grid, D].

    Raises:
        ValueError: the table's patches are not a square.
    """
    prefix, patches = table[:prefix_tokens], table[prefix_tokens:].astype(np.float64)
    side = math.isqrt(len(patches))
    if side * side != len(patches):
        raise ValueError(f"expected {prefix_tokens} + a square number of positions, got {len(table)}")
    if side == grid:
        return np.asarray(table, np.float32)
    matrix = interpolation_matrix(side, grid, antialias)
    square = patches.reshape(side, side, -1)  # [G, G, D]
    resized = np.einsum("ai,bj,ijd->abd", matrix, matrix, square, optimize=True)
    return np.concatenate([prefix, resized.reshape(grid * grid, -1)]).astype(np.float32)
