"""`preprocessing.resize` of one image in numpy: the same pixels in less than half the time, side by side in threads.

TensorFlow's kernel filters each row's pixels three values at a time. Here both directions are products with a sparse
matrix, over whole rows: the image is turned between the two.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import tensorflow as tf
from scipy.sparse import csr_matrix

from pipeline.data import preprocessing
from pipeline.data.preprocessing import Preprocess

RADIUS = {"bicubic": 2, "bilinear": 1}  # of the filters that are known here, in pixels of the coarser grid
MAX_FLOATS = 2_000_000  # of a strip of the image: 8 MB


def resize(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 [H, W, 3], any H and W → float32 [S, S, 3] in 0…255, as `preprocessing.resize` to 1e-4 of a level.

    Of `fit: aspect` it is [h, w, 3], by Pillow as ILIAS has it: one value in some thousands is another level.

    A filter that is not in RADIUS, and one without antialias, is left to TensorFlow.
    """
    if preprocess.resize not in RADIUS or not preprocess.antialias:
        return preprocessing.resize(tf.constant(image), preprocess).numpy()
    height, width, side = *image.shape[:2], preprocess.image_size_px
    if preprocess.fit == "crop":
        scaled = [side * each // min(height, width) for each in (height, width)]
        first = [preprocessing.middle(each - side) for each in scaled]
        return _cropped(image, scaled, first, side, preprocess.resize)
    if preprocess.fit == "aspect":
        size = preprocessing.aspect_size(height, width, side)
        to = tuple(-(-each // preprocess.multiple_px) * preprocess.multiple_px for each in size)
        return _padded(preprocessing.by_pillow(image, *size, preprocess.resize), to, preprocess)
    if preprocess.fit != "pad":
        return _scaled(image, side, side, preprocess.resize)
    longer = max(height, width)
    height, width = (max((2 * side * each + longer) // (2 * longer), 1) for each in (height, width))
    return _padded(_scaled(image, height, width, preprocess.resize), (side, side), preprocess)


def _padded(image: np.ndarray, to: Sequence[int], preprocess: Preprocess) -> np.ndarray:
    """float32 [h, w, 3] → [H, W, 3], H and W of `to` and no smaller, in the middle of the mean colour."""
    height, width = image.shape[:2]
    padded = np.empty((*to, 3), np.float32)
    padded[:] = np.array(preprocess.mean, np.float32) * np.float32(255.0)
    top, left = (to[0] - height) // 2, (to[1] - width) // 2
    padded[top : top + height, left : left + width] = image
    return padded


def _cropped(image: np.ndarray, scaled: list[int], first: list[int], side: int, method: str) -> np.ndarray:
    """uint8 [H, W, 3] → float32 [side, side, 3] from `first` on of the image scaled to `scaled`, in whole levels."""
    for axis in (1, 0):
        turned = image if axis == 0 else cv2.transpose(image)
        turned = _rows_scaled(turned, filter_matrix(turned.shape[0], scaled[axis], method, first[axis], side))
        levels = np.floor(np.clip(turned, 0.0, 255.0) + np.float32(0.5))
        image = levels if axis == 0 else cv2.transpose(levels)
    return image


def _scaled(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """uint8 [H, W, 3] → float32 [height, width, 3], clipped to 0…255."""
    down = filter_matrix(image.shape[0], height, method)
    across = cv2.transpose(_rows_scaled(image, down))  # [W, height, 3]
    return np.clip(cv2.transpose(_rows_scaled(across, filter_matrix(across.shape[0], width, method))), 0.0, 255.0)


def _rows_scaled(image: np.ndarray, taps: csr_matrix | None) -> np.ndarray:
    """[H, W, 3] → float32 [rows, W, 3], strip by strip, so that a huge image is never held in float32."""
    if taps is None:
        return image.astype(np.float32)
    width, rows = image.shape[1], taps.shape[0]
    strip = max(MAX_FLOATS // (3 * len(image)), 1)
    scaled = np.empty((rows, width, 3), np.float32)
    for first in range(0, width, strip):
        pixels = image[:, first : first + strip].astype(np.float32)
        scaled[:, first : first + strip] = (taps @ pixels.reshape(len(pixels), -1)).reshape(rows, -1, 3)
    return scaled


@lru_cache(maxsize=512)
def filter_matrix(before: int, after: int, method: str, first: int = 0, count: int = 0) -> csr_matrix | None:
    """float32 [count, before], sparse: `tf.image.resize` of a line of `before` pixels to `after`, antialiased.

    `count` of them (0: all) from `first` on. The arithmetic is that of TensorFlow's ScaleAndTranslate, in its order:
    pixels beyond the border have no weight. None where the line stays as it is.
    """
    count = count or after
    if before == after == count:
        return None
    step = np.float32(1.0) / (np.float32(after) / np.float32(before))
    stretch = max(step, np.float32(1.0))
    centres = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * step + step * np.float32(first)
    reach, half = RADIUS[method] * stretch, np.float32(0.5)
    begin = np.clip(np.ceil(centres - reach - half), 0, before - 1).astype(np.int64)
    last = np.clip(np.floor(centres + reach - half), 0, before - 1).astype(np.int64)
    places = begin[:, None] + np.arange((last - begin).max() + 1)  # [count, taps]
    inside = places <= last[:, None]
    distances = np.abs((places.astype(np.float32) + half - centres[:, None]) * (np.float32(1.0) / stretch))
    weights = np.where(inside, _kernel(distances, method), np.float32(0.0))
    weights *= np.float32(1.0) / weights.cumsum(axis=1)[:, -1:]  # the sum in the kernel's order
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return csr_matrix((weights[inside], places[inside], starts), shape=(count, before))


def _kernel(x: np.ndarray, method: str) -> np.ndarray:
    """Weight at a distance of `x` ≥ 0: a triangle, or Keys' cubic with a = -0.5."""
    if method == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x >= 2, 0, np.where(x >= 1, far, near)).astype(np.float32)
