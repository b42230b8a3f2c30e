"""Sizes of what is stored, and the antialiased way there."""

import math

import cv2
import numpy as np

MAX_BLUR_RATIO = 3.0  # beyond it an area average is as fast; larger JPEGs are reduced while they are decoded


def shrunk_size(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Width and height scaled so that the shorter one is `size_px`; never enlarged.

    >>> shrunk_size(1000, 500, 250), shrunk_size(100, 90, 250)
    ((500, 250), (100, 90))
    """
    factor = size_px / min(width, height)
    if factor >= 1:
        return width, height
    return max(1, round(width * factor)), max(1, round(height * factor))


def shrink(pixels: np.ndarray, width: int, height: int, original: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 `[H, W]` or `[H, W, 3]` → `[height, width]` or `[height, width, 3]`, antialiased.

    A Gaussian removes the frequencies that the smaller grid cannot hold, then cubic interpolation samples it: 45 to 50
    dB against Pillow's antialiased bicubic on detailed photographs (OpenCV's area average: 45), in half the time.
    `original`: width and height of the picture in `pixels`, where a decode at a DCT scale has rounded its sides up:
    fractions of a pixel less than the array has. Without it the far edge would shift by up to half a pixel (31 dB).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    shown_width, shown_height = original or (pixels.shape[1], pixels.shape[0])
    ratio = min(shown_width / width, shown_height / height)
    if ratio > MAX_BLUR_RATIO:
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    sigma = 0.37 * ratio  # best of 0.35 … 0.5 on photographs and on a zone plate, for ratios 1.1 to 2.6
    side = 2 * math.ceil(2.5 * sigma) + 1
    pixels = cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    across, down = width / shown_width, height / shown_height
    return cv2.resize(pixels, None, fx=across, fy=down, interpolation=cv2.INTER_CUBIC)[:height, :width]


def reduced_by(original: tuple[int, int], target: tuple[int, int]) -> int:
    """The factor by which a JPEG is reduced while it is decoded: 1, 2, 4 or 8.

    The reduced picture is at least as large as the target, so no detail of the target is lost. The scales in between
    (5/8 …) are slower than a full decode: libjpeg-turbo has no SIMD code for them.

    >>> reduced_by((1000, 800), (480, 384)), reduced_by((700, 500), (538, 384))
    (2, 1)
    """
    return max(by for by in (1, 2, 4, 8) if by == 1 or all(o >= by * t for o, t in zip(original, target, strict=True)))
