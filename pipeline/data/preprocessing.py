"""The one preprocessing: training, scoring and the served graph all call `prepare`; `decode` comes before it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf

DCT_METHOD = "INTEGER_ACCURATE"  # Pillow's pixels, see `decode`
CROP = 2  # version of `fit: crop`; 1 cut the square out first and did not round
LEVELS = 2  # version of `resize_to_square`; 1 rounded once
KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}  # tf.image.resize's names → its op's, with antialias


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

    By `preprocess.fit`, squash: height and width are scaled to S, each by its own factor. crop: the shorter side is
    scaled to S and the longer with it, and the central square is left, whole levels as Pillow's; it is the transform
    of torchvision and open_clip. pad: the longer side is scaled to S and the shorter with it; the rest is the mean
    colour, which `normalize` makes 0. Bicubic overshoots: the result is clipped to 0…255, as a decoder that resizes in
    uint8 would.
    """
    if preprocess.fit == "crop":
        return _cropped(images, preprocess)
    scaled_to = _padless_size(images, preprocess) if preprocess.fit == "pad" else [preprocess.image_size_px] * 2
    resized = tf.image.resize(images, scaled_to, method=preprocess.resize, antialias=preprocess.antialias)
    resized = tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, 255.0)
    return _padded(resized, preprocess) if preprocess.fit == "pad" else resized


def _cropped(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """[..., H, W, 3] → float32 [..., S, S, 3]: the shorter side scaled to S, the central square of that."""
    side, size = preprocess.image_size_px, tf.shape(images)[-3:-1]
    scaled = side * size // tf.reduce_min(size)
    return _resized_in_levels(images, scaled, middle(scaled - side), preprocess)


def middle(surplus: Any) -> Any:
    """What is cut off before the centre of so many pixels too many: half, a half rounded to even as torchvision does.

    >>> [middle(surplus) for surplus in (4, 5, 6, 7, 8)]
    [2, 2, 3, 4, 4]
    """
    half = surplus // 2
    return half + (surplus % 2) * (half % 2)


def _resized_in_levels(images: tf.Tensor, scaled: Any, first: Any, preprocess: Preprocess) -> tf.Tensor:
    """[..., H, W, 3] → float32 [..., S, S, 3]: S rows and columns, from `first` on, of the images scaled to `scaled`.

    As Pillow resizes: across, then down, each rounded to whole levels in 0…255. Only the S that are wanted are made.
    """
    side = preprocess.image_size_px
    batch = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], axis=0))
    for axis in (1, 0):
        batch = _one_way(batch, axis, scaled[axis], first[axis], preprocess)
        batch = tf.floor(tf.clip_by_value(batch, 0.0, 255.0) + 0.5)
    whole = tf.reshape(batch, tf.concat([tf.shape(images)[:-3], [side, side, 3]], axis=0))
    return tf.ensure_shape(whole, [*images.shape[:-3], side, side, 3])


def _one_way(images: tf.Tensor, axis: int, scaled: Any, first: Any, preprocess: Preprocess) -> tf.Tensor:
    """[B, H, W, 3] → float32, S of the `scaled` rows (axis 0) or columns (1) from `first` on; the other axis stays."""
    side, size = preprocess.image_size_px, tf.shape(images)[1:3]
    if preprocess.resize not in KERNELS or not preprocess.antialias:
        target = tf.stack([scaled, size[1]] if axis == 0 else [size[0], scaled])
        whole = tf.image.resize(images, target, method=preprocess.resize, antialias=preprocess.antialias)
        whole = tf.cast(whole, tf.float32)
        return whole[:, first : first + side] if axis == 0 else whole[:, :, first : first + side]
    one, none = tf.constant(1.0), tf.constant(0.0)
    factor = tf.cast(scaled, tf.float32) / tf.cast(size[axis], tf.float32)
    shift = -tf.cast(first, tf.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=tf.stack([side, size[1]] if axis == 0 else [size[0], side]),
        scale=tf.stack([factor, one] if axis == 0 else [one, factor]),
        translation=tf.stack([shift, none] if axis == 0 else [none, shift]),
        kernel_type=KERNELS[preprocess.resize],
        antialias=True,
    )


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
    """uint8 [H, W, 3] → uint8 [S, S, 3] by the encoder's resize, in whole levels: as Pillow would, squashed too."""
    if preprocess.fit == "squash":
        square = _resized_in_levels(tf.constant(image), [preprocess.image_size_px] * 2, [0, 0], preprocess)
    else:
        square = tf.round(resize(image, preprocess))
    return tf.cast(square, tf.uint8).numpy()


def identity(preprocess: Preprocess) -> dict[str, Any]:
    """JSON-able; it changes whenever the pixels that `resize` gives would: for cache keys, and to find it again."""
    return {**asdict(preprocess), **({"crop": CROP} if preprocess.fit == "crop" else {})}


def identified(held: dict[str, Any]) -> Preprocess:
    """The Preprocess of an `identity`; ValueError for one of another version."""
    found = Preprocess(**{key: value for key, value in held.items() if key != "crop"})
    if held.get("crop") != identity(found).get("crop"):
        raise ValueError("of another version")
    return found
