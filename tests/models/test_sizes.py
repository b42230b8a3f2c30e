"""One encoder at several sizes: the same weights on another grid, and the mean over sizes that is embedded."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Embedder, Encoder, Run
from pipeline.data.preprocessing import prepare
from pipeline.errors import BadInput
from pipeline.models import catalogue, embedder, encoders, sizes
from pipeline.training import feature_cache
from tests.models import test_keras_files as keras_file
from tests.models.test_encoders import SMALL, build, disturb, images

# Name, patch overlap, grid at first and after: with class token, with registers, without either.
CASES = [
    ("clip_tiny", 0, 4, 7),
    ("clip_tiny", 3, 4, 3),
    ("dinov2_with_registers_small", 0, 3, 5),
    ("dinov2_small", 2, 5, 3),
    ("siglip_so400m_patch14_384", 4, 3, 4),
    ("dinov3_small", 0, 3, 5),
    ("pe_core_t_16_384", 4, 5, 3),
]


def by_transfer(encoder: encoders.ImageEncoder, size: int, **options) -> encoders.ImageEncoder:
    """Another encoder, built at that size, with a copy of the weights."""
    other = build(encoder.name, seed=9, image_size_px=size, **options)
    encoders.transfer(encoder, other)
    return other


@pytest.mark.parametrize(("name", "overlap", "first", "after"), CASES)
def test_at_another_size_it_is_the_encoder_that_is_built_there(name, overlap, first, after):
    patch = catalogue.find(name).architecture["patch_size"]
    encoder = build(name, image_size_px=first * patch, patch_overlap_px=overlap)
    disturb(encoder.model)
    before = encoder.model(images(first * patch)).numpy()
    found, known = sizes.at_size(encoder, after * patch), by_transfer(encoder, after * patch, patch_overlap_px=overlap)
    x = images(after * patch)
    np.testing.assert_allclose(found.model(x), known.model(x), rtol=1e-4, atol=1e-5)
    assert found.preprocess == known.preprocess and found.width == known.width
    np.testing.assert_array_equal(encoder.model(images(first * patch)), before)


def test_weights_are_shared_and_positions_follow_them():
    encoder = build(image_size_px=64)
    disturb(encoder.model)
    x, at_first = images(96), images(64)
    larger = sizes.at_size(encoder, 96)
    assert {id(v) for v in larger.model.trainable_variables} == {id(v) for v in encoder.model.trainable_variables}
    was, weights = encoder.model(at_first).numpy(), larger.model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(larger.model(x) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    moved = [w.assign_sub(0.1 * g) for w, g in zip(weights, gradients, strict=True) if g is not None]
    assert len(moved) > len(weights) - 3 and np.abs(encoder.model(at_first) - was).max() > 1e-3
    np.testing.assert_allclose(larger.model(x), by_transfer(encoder, 96).model(x), rtol=1e-4, atol=1e-4)

    (table,) = [v for v in encoder.model.variables if v.path in encoder.positions.names]
    was_larger = larger.model(x).numpy()
    table.assign(table + np.random.default_rng(1).normal(size=table.shape))
    assert np.abs(larger.model(x) - was_larger).max() > 1e-2
    np.testing.assert_allclose(larger.model(x), by_transfer(encoder, 96).model(x), rtol=1e-4, atol=1e-4)


def test_at_its_own_size_it_is_itself():
    encoder = build(image_size_px=64)
    assert sizes.at_size(encoder, 64) is encoder


def test_a_convolutional_encoder_of_the_catalogue():
    encoder = build("mobilenet_v3_small", image_size_px=32)
    disturb(encoder.model)
    found, x = sizes.at_size(encoder, 48), images(48)
    np.testing.assert_allclose(found.model(x), by_transfer(encoder, 48).model(x), rtol=1e-4, atol=1e-4)
    assert [id(v) for v in found.model.variables] == [id(v) for v in encoder.model.variables]


def test_a_keras_file(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3, strides=2)(inputs)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
    keras_file.saved(tmp_path / "net.keras", inputs, keras.layers.GlobalAveragePooling2D()(x))
    encoder, there = keras_file.build(tmp_path / "net.keras", 16), keras_file.build(tmp_path / "net.keras", 24)
    found = sizes.at_size(encoder, 24)
    np.testing.assert_allclose(found.model(images(24)), there.model(images(24)), rtol=1e-5, atol=1e-6)
    assert found.preprocess == there.preprocess
    encoder.model.trainable_variables[0].assign_add(np.ones((3, 3, 3, 6)))
    assert np.abs(found.model(images(24)) - there.model(images(24))).max() > 1e-2


@pytest.mark.parametrize("fixed", ["dense", "positions"])
def test_a_graph_of_one_size_is_bad_input(tmp_path, fixed):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    if fixed == "dense":
        outputs = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    else:
        outputs = keras.layers.GlobalAveragePooling2D()(keras_file.PositionTable()(x))
    keras_file.saved(tmp_path / "net.keras", inputs, outputs)
    encoder = keras_file.build(tmp_path / "net.keras")
    with pytest.raises(BadInput, match="takes 16 px alone, not 24 px") as refused:
        sizes.at_size(encoder, 24)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("asked", [(), (64,), (96,), (64, 96), (96, 32, 64)])
def test_features_of_several_sizes_are_the_mean_of_their_directions(asked):
    options = Encoder("clip_tiny", image_size_px=64, architecture=SMALL)
    built = embedder.build(Run(encoder=options, embedder=Embedder(sizes_px=list(asked))))
    disturb(built.encoder.model)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 70, 41, 3)).astype(np.uint8)
    each = []
    for size in asked or (64,):
        encoder = by_transfer(built.encoder, size)
        shape = (size, size, 3)
        pixels = tf.image.resize(pictures, shape[:2], method="bicubic", antialias=True).numpy().clip(0, 255)
        mean, std = (np.array(part) * 255 for part in (encoder.preprocess.mean, encoder.preprocess.std))
        each.append(encoder.model((pixels - mean) / std).numpy())
    mean = np.mean([rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in each], axis=0)
    expected = each[0] if len(each) == 1 else mean
    at_sizes = built.at_sizes()
    found = embedder.average_features([part.model(prepare(pictures, part.preprocess)) for part in at_sizes])
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_numpy_mean_over_sizes_is_tensorflows():
    rng = np.random.default_rng(2)
    several = [rng.normal(scale=scale, size=(6, 9)).astype(np.float32) for scale in (0.1, 7.0, 200.0)]
    several[1][3] = 0.0  # an encoder may be silent at one size
    for given in (several[:1], several[:2], several):
        one, other = feature_cache.average_features(given), embedder.average_features(given)
        assert one.dtype == np.float32 and other.dtype == tf.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_embedder_of_sizes_holds_no_more_weights():
    options = Encoder("clip_tiny", image_size_px=64, architecture=SMALL)
    plain = embedder.build(Run(encoder=options))
    several = replace(plain, sizes_px=(32, 96))
    assert [each.preprocess.image_size_px for each in several.at_sizes()] == [32, 96]
    assert list(several.variables) == list(plain.variables)
