"""Augmentation: random crops fused with decoding, flips, and keras-cv's colour, RandAugment and cutout layers.

Every draw follows from (seed, position in the stream) alone. A run that is killed and resumed, or read by another
number of threads, sees the same pixels. keras-cv's layers draw from a stateful generator; `Draws` takes its place.
"""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from pipeline.config import Augment
from pipeline.data.preprocessing import DCT_METHOD, Preprocess, decode, resize

DCT_RATIOS = (1, 2, 4, 8)  # shrink factors that libjpeg decodes at directly
cv2.setNumThreads(1)  # tf.data runs several images at once already


class Draws:
    """Random numbers of one image: a stateless op for each draw, keyed by (seed, number of the draw, position).

    Has the methods of `tf.random.Generator` that keras-cv's layers call. The draws are numbered from `begin` on while
    the graph is traced, so each op has its own key.
    """

    def __init__(self, seed: int):
        self.seed, self.count = seed, 0
        self.position: tf.Tensor | None = None

    def begin(self, position: tf.Tensor) -> None:
        """`position`: scalar int64, which image of the stream the draws are for."""
        self.position, self.count = tf.cast(position, tf.int64), 0

    def uniform(self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, self._key(), minval, 1 if maxval is None else maxval, dtype)

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32) -> tf.Tensor:
        return tf.random.stateless_normal(shape, self._key(), mean, stddev, dtype)

    def _key(self) -> tf.Tensor:
        self.count += 1
        return tf.stack([tf.constant(self.seed * 1_000_003 + self.count, tf.int64), self.position])


def image_function(preprocess: Preprocess, augment: Augment, seed: int) -> Callable:
    """(encoded scalar string, position scalar int64) → [S, S, 3] in 0…255, for a tf.data map.

    Without augmentation it is `resize(decode(encoded))`, bit for bit, float32, and keras-cv is not imported. Crops are
    uint8 (a quarter of the bytes to move) unless a layer comes after them.
    """
    side = preprocess.image_size_px
    draws = Draws(seed)
    layers = keras_cv_layers(augment, draws)

    def image_of(encoded: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        draws.begin(position)
        mirrored = draws.uniform([]) < 0.5 if augment.flip else tf.constant(False)
        if augment.crop_scale_min < 1.0:
            image = resize_crop(decode_random_crop(encoded, augment, preprocess, draws), side, mirrored)
        else:
            image = tf.ensure_shape(resize(decode(encoded), preprocess), [side, side, 3])
            if augment.flip:
                image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        for layer in layers:
            image = tf.cast(image, tf.float32)
            image = tf.ensure_shape(layer({"images": image})["images"], [side, side, 3])
        return tf.clip_by_value(image, 0.0, 255.0) if layers else image

    return image_of


def decode_random_crop(encoded: tf.Tensor, augment: Augment, preprocess: Preprocess, draws: Draws) -> tf.Tensor:
    """Scalar string → uint8 [h, w, 3]: a random window, of which only the blocks that it touches are decoded.

    The window's share of the area is uniform in [crop_scale_min, 1]; its aspect is a factor that is log-uniform in
    [1/crop_aspect_max, crop_aspect_max], times the image's where the encoder sees images squashed to a square. Where
    it does not (`fit` crop and pad), a window that the image cannot hold is scaled down until it does. A window at
    least twice the encoder's size is decoded at the reduced size that libjpeg takes from the DCT; then comes
    `resize_crop`.
    """
    share, stretch, down, across = tf.unstack(draws.uniform([4]))
    area = augment.crop_scale_min + (1.0 - augment.crop_scale_min) * share
    aspect = tf.exp((2.0 * stretch - 1.0) * math.log(augment.crop_aspect_max))

    def shares_of(size: tf.Tensor) -> tf.Tensor:
        """The image's float32 [2] (H, W) → float32 [4] shares (y, x, h, w) of it."""
        relative = aspect if preprocess.fit == "squash" else aspect * size[0] / size[1]  # to the image's own
        height_share, width_share = tf.sqrt(area / relative), tf.sqrt(area * relative)
        if preprocess.fit != "squash":
            most = tf.maximum(tf.maximum(height_share, width_share), 1.0)
            height_share, width_share = height_share / most, width_share / most
        height_share, width_share = tf.minimum(height_share, 1.0), tf.minimum(width_share, 1.0)
        return tf.stack([down * (1.0 - height_share), across * (1.0 - width_share), height_share, width_share])

    def of_jpeg() -> tf.Tensor:
        size = tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.float32)
        shares = shares_of(size)
        shrink = tf.reduce_min(size * shares[2:]) / preprocess.image_size_px
        level = sum(tf.cast(shrink >= ratio, tf.int32) for ratio in DCT_RATIOS[1:])

        def at(ratio: int) -> Callable[[], tf.Tensor]:
            return lambda: tf.image.decode_and_crop_jpeg(
                encoded, _window(tf.math.ceil(size / ratio), shares), 3, ratio, dct_method=DCT_METHOD
            )

        return tf.switch_case(level, [at(ratio) for ratio in DCT_RATIOS])

    def of_other() -> tf.Tensor:
        pixels = decode(encoded)
        size = tf.cast(tf.shape(pixels)[:2], tf.float32)
        window = _window(size, shares_of(size))
        return tf.slice(pixels, [window[0], window[1], 0], [window[2], window[3], 3])

    return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_other)


def resize_crop(pixels: tf.Tensor, side: int, mirrored: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] and whether to flip it → uint8 [S, S, 3].

    OpenCV's resize takes a tenth of the time of TensorFlow's, which takes longer than decoding does. Shrinking by less
    than two, which is what DCT scaling leaves, is linear: every pixel still counts. Other images are averaged.
    """

    def resized(array: np.ndarray, flip: np.bool_) -> np.ndarray:
        shrink = min(array.shape[:2]) / side
        method = cv2.INTER_CUBIC if shrink < 1 else cv2.INTER_LINEAR if shrink < 2 else cv2.INTER_AREA
        image = cv2.resize(array, (side, side), interpolation=method)
        return cv2.flip(image, 1) if flip else image

    image = tf.numpy_function(resized, [pixels, mirrored], tf.uint8, stateful=False)
    return tf.ensure_shape(image, [side, side, 3])


def keras_cv_layers(augment: Augment, draws: Draws) -> list[Any]:
    """keras-cv's layers for `augment`, drawing from `draws`; they take and give {"images": float32 [S, S, 3] 0…255}."""
    if not (augment.color_jitter or augment.rand_augment or augment.cutout):
        return []
    import keras
    import keras_cv  # seconds to import, so only where it is used

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # pixels stay float32 where the model computes in bfloat16
    try:
        layers: list[Any] = []
        if jitter := augment.color_jitter:
            layers.append(
                keras_cv.layers.RandomColorJitter(
                    value_range=(0, 255),
                    brightness_factor=0.4 * jitter,
                    contrast_factor=0.4 * jitter,
                    saturation_factor=(0.5 - 0.3 * jitter, 0.5 + 0.3 * jitter),  # 0.5 changes nothing
                    hue_factor=0.1 * jitter,
                )
            )
            layers.append(keras_cv.layers.RandomColorDegeneration(factor=0.5 * jitter))
        if augment.rand_augment:
            layers.append(keras_cv.layers.RandAugment((0, 255), 2, magnitude=augment.rand_augment))
        if side := augment.cutout:
            layers.append(keras_cv.layers.RandomCutout((side, side), (side, side), fill_value=127.5))
    finally:
        keras.config.set_dtype_policy(policy)
    for layer in layers:
        for part in layer._flatten_layers():
            _draw_from(part, draws)
    return layers


def _draw_from(layer: Any, draws: Draws) -> None:
    """Replaces a keras-cv layer's generator and factor samplers, which keep state, by `draws`."""
    from keras_cv import core

    layer._random_generator = draws
    for name, value in list(vars(layer).items()):
        if isinstance(value, core.UniformFactorSampler):
            setattr(layer, name, _uniform(draws, value))
        elif isinstance(value, core.NormalFactorSampler):
            setattr(layer, name, _normal(draws, value))


def _uniform(draws: Draws, sampler: Any) -> Callable[..., tf.Tensor]:
    return lambda shape=(), dtype="float32": draws.uniform(shape, sampler.lower, sampler.upper, dtype)


def _normal(draws: Draws, sampler: Any) -> Callable[..., tf.Tensor]:
    def draw(shape: Any = (), dtype: Any = "float32") -> tf.Tensor:
        drawn = draws.normal(shape, sampler.mean, sampler.stddev, dtype)
        return tf.clip_by_value(drawn, sampler.min_value, sampler.max_value)

    return draw


def _window(size: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """float32 [2] (H, W), float32 [4] shares (y, x, h, w) of it → int32 [4] pixels, inside and at least 1×1."""
    extent = tf.maximum(tf.round(size * shares[2:]), 1.0)
    start = tf.minimum(tf.round(size * shares[:2]), size - extent)
    return tf.cast(tf.concat([start, extent], axis=0), tf.int32)
