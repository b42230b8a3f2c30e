"""One preprocessing: it decodes as Pillow does, and resizes as the formula says."""

import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.preprocessing import (
    Preprocess,
    decode,
    identified,
    identity,
    normalize,
    prepare,
    resize,
    resize_to_square,
)
from tests.tfrecords.shard_files import jpeg

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def scene(height, width, seed=0):
    """Smooth shapes with edges and a little noise, uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(5, 40) + y / random.uniform(5, 40)) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 4, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    return pixels.clip(0, 255).astype(np.uint8)


def slow_resize(pixels, side, antialias):
    """Cubic convolution (Keys, a = -0.5 antialiased as Pillow's, pixel centres at halves), one weight at a time."""

    def cubic(t):
        t, a = abs(t), -0.5
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    def weights(length):
        matrix, scale = np.zeros((side, length)), length / side
        spread = max(scale, 1.0) if antialias else 1.0
        for row in range(side):
            centre = (row + 0.5) * scale - 0.5
            for column in range(length):
                matrix[row, column] = cubic((column - centre) / spread)
        return matrix / matrix.sum(axis=1, keepdims=True)

    height, width, _ = pixels.shape
    resized = np.einsum("ih,hwc,jw->ijc", weights(height), pixels.astype(np.float64), weights(width))
    return resized.clip(0, 255)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"quality": 30}, {"progressive": True}])
@pytest.mark.parametrize("size", [(40, 61), (8, 8), (1, 3)])
def test_decoded_pixels_are_pillows(options, size):
    encoded = jpeg(scene(*size), **options)
    np.testing.assert_array_equal(decode(encoded), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))


def test_grey_and_png_become_rgb():
    grey = scene(20, 30)[..., 0]
    assert decode(jpeg(grey)).shape == (20, 30, 3)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue()), np.repeat(grey[..., None], 3, axis=2))


def test_decode_is_the_same_in_a_graph():
    encoded = jpeg(scene(33, 47))
    np.testing.assert_array_equal(tf.function(decode)(tf.constant(encoded)), decode(encoded))


@pytest.mark.parametrize("size", [(61, 40), (32, 32), (7, 100), (150, 90)])
def test_resize_equals_the_formula(size):
    pixels = scene(*size)
    got = resize(pixels, Preprocess(32, CLIP_MEAN, CLIP_STD)).numpy()
    np.testing.assert_allclose(got, slow_resize(pixels, 32, antialias=True), atol=0.02)


def test_resize_is_near_pillows_own_which_rounds_to_uint8():
    pixels = scene(150, 90)
    pillow = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(resize(pixels, Preprocess(32, CLIP_MEAN, CLIP_STD)).numpy() - pillow).max() <= 1.5


def test_overshoot_is_clipped():
    edge = np.zeros((16, 16, 3), np.uint8)
    edge[:, 8:] = 255
    resized = resize(edge, Preprocess(40, CLIP_MEAN, CLIP_STD)).numpy()
    assert resized.min() == 0.0 and resized.max() == 255.0


def test_batch_and_single_image_give_the_same_bits():
    images = np.stack([scene(50, 70, seed) for seed in range(3)])
    preprocess = Preprocess(32, CLIP_MEAN, CLIP_STD)
    singly = np.stack([prepare(image, preprocess) for image in images])
    np.testing.assert_array_equal(prepare(images, preprocess), singly)


def test_normalize_is_the_encoders_scale_and_compiles():
    preprocess = Preprocess(4, CLIP_MEAN, CLIP_STD)
    images = scene(4, 4)[None].astype(np.float32)
    expected = (images / 255.0 - CLIP_MEAN) / CLIP_STD
    np.testing.assert_allclose(normalize(images, preprocess), expected, atol=1e-5)
    compiled = tf.function(lambda pixels: normalize(pixels, preprocess), jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(images)), expected, atol=1e-5)


SQUARE = Preprocess(32, CLIP_MEAN, CLIP_STD)
SIZES = [(150, 90), (90, 151), (47, 47), (20, 31), (9, 200), (32, 32), (64, 1)]


def pillow_resize(pixels, height, width):
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def central_square(pixels, side):
    """torchvision's Resize and CenterCrop on Pillow, as its documentation has them."""
    height, width = (side if length == min(pixels.shape[:2]) else int(side * length / min(pixels.shape[:2]))
                     for length in pixels.shape[:2])  # fmt: skip
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pillow_resize(pixels, height, width)[top : top + side, left : left + side]


@pytest.mark.parametrize("size", [*SIZES, (96, 64), (64, 160), (48, 32), (300, 200), (223, 97), (500, 375), (35, 33)])
def test_crop_is_the_resized_shorter_side_and_the_central_square(size):
    pixels = scene(*size)
    got, expected = resize(pixels, replace(SQUARE, fit="crop")).numpy(), central_square(pixels, 32)
    assert got.shape == (32, 32, 3) and (got == np.round(got)).all()
    # A sum that lies between two levels may fall to either: Pillow adds in integers.
    assert np.abs(got - expected).max() <= 1 and (got != expected).mean() < 2e-3
    np.testing.assert_array_equal(resize_to_square(pixels, replace(SQUARE, fit="crop")), expected)


@pytest.mark.parametrize("size", SIZES)
def test_whole_levels_of_a_squash_are_pillows(size):
    pixels = scene(*size)
    np.testing.assert_array_equal(resize_to_square(pixels, SQUARE), pillow_resize(pixels, 32, 32))


def test_a_crop_of_another_version_is_not_taken_for_this_one():
    for fit in ("squash", "crop", "pad"):
        preprocess = replace(SQUARE, fit=fit)
        assert identified(json.loads(json.dumps(identity(preprocess)))).fit == fit
    with pytest.raises(ValueError, match="another version"):
        identified(asdict(replace(SQUARE, fit="crop")))  # as it was written before there were versions


@pytest.mark.parametrize("size", SIZES)
def test_pad_keeps_the_aspect_and_fills_up_with_what_is_normalised_to_0(size):
    pixels, preprocess = scene(*size), replace(SQUARE, fit="pad")
    height, width = (max(int(32 * side / max(size) + 0.5), 1) for side in size)
    top, left = (32 - height) // 2, (32 - width) // 2
    got = resize(pixels, preprocess).numpy()
    inside = np.zeros((32, 32), bool)
    inside[top : top + height, left : left + width] = True
    shown = got[inside].reshape(height, width, 3)
    assert np.abs(shown - pillow_resize(pixels, height, width)).max() <= 1.5
    normalized = normalize(got, preprocess).numpy()
    assert (normalized[~inside] == 0).all() and (np.abs(normalized[inside]).max(axis=-1) > 0).mean() > 0.9


def whole_as_ilias(pixels, side, multiple):
    """The transform of ILIAS's feature extraction on Pillow: larger side, then zeros after normalising. float32."""
    height, width = pixels.shape[:2]
    ratio = float(height) / float(width)
    high = max(1, int(side * ratio) if ratio <= 1 else side)
    wide = max(1, int(side / ratio) if ratio > 1 else side)
    scaled = (pillow_resize(pixels, high, wide) / 255 - CLIP_MEAN) / CLIP_STD
    lacking = [-each % multiple for each in (high, wide)]
    return np.pad(scaled, [*((each // 2, each - each // 2) for each in lacking), (0, 0)])


@pytest.mark.parametrize("side", [32, 38])
def test_aspect_is_the_transform_of_ilias(side):
    preprocess = replace(SQUARE, fit="aspect", image_size_px=side, multiple_px=8)
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
    served = tf.function(lambda images: resize(images, preprocess), input_signature=signature)
    for size in (*SIZES, (96, 64), (64, 160), (300, 200), (500, 375), (61, 183), (183, 61)):
        pixels = scene(*size)
        got, expected = prepare(pixels, preprocess).numpy(), whole_as_ilias(pixels, side, 8)
        assert got.shape == expected.shape and not any(each % 8 for each in got.shape[:2])
        apart = np.abs(got - expected) * 255 * np.array(CLIP_STD)
        assert apart.max() < 1.01 and (apart > 0.01).mean() < 2e-3
        np.testing.assert_array_equal(served(np.stack([pixels, scene(*size, 1)]))[0], resize(pixels, preprocess))
    assert identified(json.loads(json.dumps(identity(preprocess)))).multiple_px == 8
    assert "multiple_px" not in identity(SQUARE)  # caches of earlier versions hold


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_any_fit_gives_the_same_bits_singly_in_a_batch_and_in_a_graph(fit, size):
    preprocess = replace(SQUARE, fit=fit)
    images = np.stack([scene(*size, seed) for seed in range(2)])
    singly = np.stack([resize(image, preprocess) for image in images])
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
    served = tf.function(lambda pixels: resize(pixels, preprocess), input_signature=signature)
    np.testing.assert_array_equal(served(images), singly)
    assert served.get_concrete_function().structured_outputs.shape[1:] == [32, 32, 3]
    read = tf.data.Dataset.from_tensor_slices([jpeg(image) for image in images]).map(decode)
    mapped = read.map(lambda image: resize(image, preprocess)).batch(2)
    decoded = np.stack([resize(decode(jpeg(image)), preprocess) for image in images])
    np.testing.assert_array_equal(next(iter(mapped)), decoded)
