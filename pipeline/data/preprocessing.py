"""The one preprocessing: training, scoring and the served graph all call `prepare`; `decode` comes before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

DCT_METHOD = "INTEGER_ACCURATE"  # Pillow's pixels, see `decode`


@dataclass(frozen=True)
class Preprocess:
    """How an encoder wants its pixels."""

    image_size_px: int  # side of the square that the encoder sees; images are squashed to it, not cropped
    mean: tuple[float, float, float]  # of RGB scaled to [0, 1]
    std: tuple[float, float, float]
    resize: str = "bicubic"  # a method of `tf.image.resize`
    antialias: bool = True  # filter before shrinking, as Pillow does and OpenCV does not


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Scalar string, a JPEG (or PNG, GIF, BMP) → uint8 [H, W, 3]; grey becomes RGB.

    The accurate DCT gives Pillow's pixels, which is what scorers feed; TensorFlow's default, the fast one, is off by
    up to a few levels and no faster here.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )


def resize(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """uint8 or float [..., H, W, 3] in 0…255, any H and W → float32 [..., S, S, 3] in 0…255.

    Bicubic overshoots: the result is clipped to 0…255, as a decoder that resizes in uint8 would.
    """
    side = preprocess.image_size_px
    resized = tf.image.resize(images, (side, side), method=preprocess.resize, antialias=preprocess.antialias)
    return tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, 255.0)


def normalize(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """float32 [..., S, S, 3] in 0…255 → the encoder's own scale. Compiles under XLA, so it runs on the device."""
    mean = tf.constant(preprocess.mean, tf.float32) * 255.0
    std = tf.constant(preprocess.std, tf.float32) * 255.0
    return (tf.cast(images, tf.float32) - mean) / std


def prepare(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """uint8 [..., H, W, 3] → float32 [..., S, S, 3] as the encoder wants it."""
    return normalize(resize(images, preprocess), preprocess)


def prepare_all(images: Sequence[np.ndarray], preprocess: Preprocess) -> tf.Tensor:
    """uint8 [H, W, 3] each, of any sizes → float32 [B, S, S, 3] as the encoder wants it."""
    if len({image.shape for image in images}) == 1:
        return prepare(tf.constant(np.stack(images)), preprocess)
    return tf.concat([prepare(tf.constant(image[None]), preprocess) for image in images], axis=0)


def resize_to_square(image: np.ndarray, preprocess: Preprocess, fit: str) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [S, S, 3] by the encoder's resize; `fit`: "squash", or "crop" the central square."""
    if fit == "crop":
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    return tf.cast(tf.round(resize(image, preprocess)), tf.uint8).numpy()
