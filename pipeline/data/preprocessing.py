"""The one preprocessing: training, scoring and the served graph all call `prepare`; `decode` comes before it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

DCT_METHOD = "INTEGER_ACCURATE"  # Pillow's pixels, see `decode`
CROP = 2  # version of `fit: crop`; 1 cut the square out first and did not round
LEVELS = 3  # version of `resize_to_square`; 1 rounded once, 2 added in float32
KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}  # tf.image.resize's names → its op's, with antialias


@dataclass(frozen=True)
class Preprocess:
    """How an encoder wants its pixels."""

    image_size_px: int  # side S of the square that the encoder sees
    mean: tuple[float, float, float]  # of RGB scaled to [0, 1]
    std: tuple[float, float, float]
    resize: str = "bicubic"  # a method of `tf.image.resize`
    antialias: bool = True  # filter before shrinking, as Pillow does and OpenCV does not
    fit: str = "squash"  # how an image comes to that size: squash | crop | pad | aspect, see `resize`
    multiple_px: int = 1  # aspect: both sides are filled up to a multiple of it, a transformer's patch


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
    """uint8 or float [..., H, W, 3] in 0…255, any H and W → float32 [..., S, S, 3] in 0…255; of aspect [..., h, w, 3].

    By `preprocess.fit`, squash: height and width are scaled to S, each by its own factor. crop: the shorter side is
    scaled to S and the longer with it, and the central square is left, whole levels as Pillow's; it is the transform
    of torchvision and open_clip. pad: the longer side is scaled to S and the shorter with it; the rest is the mean
    colour, which `normalize` makes 0. aspect: the longer side is scaled to S and the shorter with it, whole levels as
    Pillow's, and both are filled up with the mean colour to the next multiple of `multiple_px`; it is ILIAS's transform
    (Kordopatis-Zilos et al. 2025). Bicubic overshoots: the result is clipped to 0…255, as a decoder that resizes in
    uint8 would.
    """
    if preprocess.fit == "aspect":
        return _whole(images, preprocess)
    if preprocess.fit == "crop":
        return _cropped(images, preprocess)
    scaled_to = _padless_size(images, preprocess) if preprocess.fit == "pad" else [preprocess.image_size_px] * 2
    resized = tf.image.resize(images, scaled_to, method=preprocess.resize, antialias=preprocess.antialias)
    resized = tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, 255.0)
    if preprocess.fit == "pad":
        return _square(_padded(resized, [preprocess.image_size_px] * 2, preprocess), preprocess)
    return resized


def _cropped(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """[..., H, W, 3] → float32 [..., S, S, 3]: the shorter side scaled to S, the central square of that."""
    side, size = preprocess.image_size_px, tf.shape(images)[-3:-1]
    scaled = side * size // tf.reduce_min(size)
    return _square(_resized_in_levels(images, scaled, middle(scaled - side), [side, side], preprocess), preprocess)


def _whole(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """[..., H, W, 3] → float32 [..., h, w, 3]: the longer side scaled to S, then filled up in the middle."""
    size, multiple = tf.shape(images)[-3:-1], preprocess.multiple_px
    exact = tf.cast(size, tf.float64)  # ILIAS divides in float64 and cuts off: a third of 384 px may be 127
    ratio = exact[0] / exact[1]
    side = tf.cast(preprocess.image_size_px, tf.float64)
    scaled = tf.stack([tf.where(ratio <= 1, side * ratio, side), tf.where(ratio <= 1, side, side / ratio)])
    scaled = tf.maximum(tf.cast(scaled, tf.int32), 1)
    resized = _resized_in_levels(images, scaled, [0, 0], scaled, preprocess)
    filled = _padded(resized, (scaled + multiple - 1) // multiple * multiple, preprocess)
    return tf.ensure_shape(filled, [*images.shape[:-3], None, None, 3])


def aspect_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side is scaled to `side`, cut off to whole pixels as ILIAS does.

    >>> aspect_size(300, 400, 384), aspect_size(400, 300, 384), aspect_size(1, 900, 384)
    ((288, 384), (384, 288), (1, 384))
    """
    ratio = height / width
    scaled = (int(side * ratio), side) if ratio <= 1 else (side, int(side / ratio))
    return max(scaled[0], 1), max(scaled[1], 1)


def middle(surplus: Any) -> Any:
    """What is cut off before the centre of so many pixels too many: half, a half rounded to even as torchvision does.

    >>> [middle(surplus) for surplus in (4, 5, 6, 7, 8)]
    [2, 2, 3, 4, 4]
    """
    half = surplus // 2
    return half + (surplus % 2) * (half % 2)


def _resized_in_levels(images: tf.Tensor, scaled: Any, first: Any, kept: Any, preprocess: Preprocess) -> tf.Tensor:
    """[..., H, W, 3] → float32 [..., h, w, 3]: `kept` rows and columns from `first` on of images scaled to `scaled`.

    As Pillow resizes: across, then down, each rounded to whole levels in 0…255. Only what is kept is made.
    """
    batch = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], axis=0))
    for axis in (1, 0):
        batch = _one_way(batch, axis, scaled[axis], first[axis], kept[axis], preprocess)
        batch = tf.floor(tf.clip_by_value(batch, 0.0, 255.0) + 0.5)
    return tf.reshape(batch, tf.concat([tf.shape(images)[:-3], tf.stack([kept[0], kept[1], 3])], axis=0))


def _square(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """[..., S, S, 3] with that shape known."""
    return tf.ensure_shape(images, [*images.shape[:-3], preprocess.image_size_px, preprocess.image_size_px, 3])


def _one_way(images: tf.Tensor, axis: int, scaled: Any, first: Any, side: Any, preprocess: Preprocess) -> tf.Tensor:
    """[B, H, W, 3] → float32, `side` of the `scaled` rows (axis 0) or columns (1) from `first` on; the other stays."""
    size = tf.shape(images)[1:3]
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


def _padded(images: tf.Tensor, to: Any, preprocess: Preprocess) -> tf.Tensor:
    """float32 [..., h, w, 3] → [..., H, W, 3], H and W of `to` and no smaller, in the middle of the mean colour."""
    mean = tf.constant(preprocess.mean, tf.float32) * 255.0
    lacking = to - tf.shape(images)[-3:-1]
    margins = tf.stack([lacking // 2, lacking - lacking // 2], axis=1)  # [[top, bottom], [left, right]]
    margins = tf.pad(margins, [[len(images.shape) - 3, 1], [0, 0]])
    return tf.pad(images, margins) + mean * (1.0 - tf.pad(tf.ones_like(images), margins))


def normalize(images: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """float32 [..., H, W, 3] in 0…255 → the encoder's own scale. Compiles under XLA, so it runs on the device."""
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
    """uint8 [H, W, 3] → uint8 [S, S, 3] by the encoder's resize, in whole levels: Pillow's own, squashed too.

    `resize` adds up in float32 where Pillow adds integers: of a crop one value in some thousands is another level.
    """
    side, (height, width) = preprocess.image_size_px, image.shape[:2]
    if preprocess.fit == "pad" or preprocess.resize not in KERNELS or not preprocess.antialias:
        return tf.cast(tf.round(resize(image, preprocess)), tf.uint8).numpy()
    if preprocess.fit == "squash":
        return by_pillow(image, side, side, preprocess.resize)
    scaled = [side * each // min(height, width) for each in (height, width)]
    top, left = (middle(each - side) for each in scaled)
    return by_pillow(image, scaled[0], scaled[1], preprocess.resize)[top : top + side, left : left + side]


def by_pillow(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [height, width, 3], antialiased; `method` of KERNELS."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[method.upper()]))


def identity(preprocess: Preprocess) -> dict[str, Any]:
    """JSON-able; it changes whenever the pixels that `resize` gives would: for cache keys, and to find it again."""
    held = asdict(preprocess)
    if preprocess.fit != "aspect":
        del held["multiple_px"]
    return {**held, **({"crop": CROP} if preprocess.fit == "crop" else {})}


def identified(held: dict[str, Any]) -> Preprocess:
    """The Preprocess of an `identity`; ValueError for one of another version."""
    found = Preprocess(**{key: value for key, value in held.items() if key != "crop"})
    if held.get("crop") != identity(found).get("crop"):
        raise ValueError("of another version")
    return found
