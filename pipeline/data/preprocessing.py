"""The one preprocessing: training, scoring and the served graph all call `prepare`; `decode` comes before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

DCT_METHOD = "INTEGER_ACCURATE"  # Pillow's pixels, see `decode`


@dataclass(frozen=True)
class Preprocess:
    """How an encoder wants its pixels."""

    image_size_px: int  # side S of the square that the encoder sees
    mean: tuple[float, float, float]  # of RGB scaled to [0, 1]
    std: tuple[float, float, float]
    resize: str = "bicubic"  # a method of `tf.image.resize`
    antialias: bool = True  # filter before shrinking, as Pillow does and OpenCV does not
    fit: str = "squash"  # how an image becomes square: squash | crop | pad, see `resize`


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

    By `preprocess.fit`, squash: height and width are scaled to S, each by its own factor. crop: the central square is
    scaled to S; it is what open_clip's resize of the shorter side and central crop leave, but for half a pixel. pad:
    the longer side is scaled to S and the shorter with it; the rest is the mean colour, which `normalize` makes 0.
    Bicubic overshoots: the result is clipped to 0…255, as a decoder that resizes in uint8 would.
    """
    if preprocess.fit == "crop":
        images = _central_square(images)
    scaled_to = _padless_size(images, preprocess) if preprocess.fit == "pad" else [preprocess.image_size_px] * 2
    resized = tf.image.resize(images, scaled_to, method=preprocess.resize, antialias=preprocess.antialias)
    resized = tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, 255.0)
    return _padded(resized, preprocess) if preprocess.fit == "pad" else resized


def _central_square(images: tf.Tensor) -> tf.Tensor:
    height, width = tf.shape(images)[-3], tf.shape(images)[-2]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side, :]


def _padless_size(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """int32 [2], height and width of the images [..., H, W, 3] scaled until the longer is S, rounded."""
    size = tf.shape(images)[-3:-1]
    longer = tf.reduce_max(size)
    return tf.maximum((2 * preprocess.image_size_px * size + longer) // (2 * longer), 1)


def _padded(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """float32 [..., h, w, 3], h and w at most S → [..., S, S, 3], in the middle of the mean colour."""
    side, mean = preprocess.image_size_px, tf.constant(preprocess.mean, tf.float32) * 255.0
    lacking = side - tf.shape(images)[-3:-1]
    margins = tf.stack([lacking // 2, lacking - lacking // 2], axis=1)  # [[top, bottom], [left, right]]
    margins = tf.pad(margins, [[len(images.shape) - 3, 1], [0, 0]])
    filled = tf.pad(images, margins) + mean * (1.0 - tf.pad(tf.ones_like(images), margins))
    return tf.ensure_shape(filled, [*images.shape[:-3], side, side, 3])


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


def resize_to_square(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [S, S, 3] by the encoder's resize, rounded."""
    return tf.cast(tf.round(resize(image, preprocess)), tf.uint8).numpy()
