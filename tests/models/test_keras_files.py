"""Encoders of Keras files: any size, batch norm folded, nested models, blocks by depth; names count for nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pipeline.config import Encoder
from pipeline.errors import BadInput
from pipeline.models import encoders, keras_files
from pipeline.models.embedder import named_variables
from pipeline.training import checkpoints
from tests.models.test_encoders import images

HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}


@keras.saving.register_keras_serializable("tests")
class PositionTable(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", name="table")

    def call(self, x):
        return x + self.table


def build(path, size=None, **options) -> encoders.ImageEncoder:
    return encoders.build(Encoder(name=f"keras_file:{path}", image_size_px=size, **HALVES), **options)


def disturb(model: keras.Model) -> None:
    """Makes every weight and statistic random: fresh biases, scales and statistics are 0 and 1."""
    noise = np.random.default_rng(5)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            values = [noise.uniform(0.5, 1.5, v.shape) for v in layer.weights]
            moved = [v if "mean" not in w.name else v - 1.0 for v, w in zip(values, layer.weights, strict=True)]
            layer.set_weights(moved)
        elif layer.weights and not isinstance(layer, keras.Model):
            layer.set_weights([w + noise.normal(scale=0.1, size=w.shape) for w in layer.get_weights()])


def saved(path, inputs, outputs):
    model = keras.Model(inputs, outputs)
    disturb(model)
    model.save(path)
    return model


def relative(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def norms_of(encoder) -> list[layers.Layer]:
    return [each for each in encoder.model.layers if isinstance(each, layers.BatchNormalization)]


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """MobileNetV2 as a nested model, of random weights; statistics are random around those of random images."""
    path = tmp_path_factory.mktemp("files") / "residual.keras"
    inputs = keras.Input((None, None, 3))
    base = keras.applications.MobileNetV2(weights=None, include_top=False, pooling="avg", alpha=0.35)
    model = keras.Model(inputs, base(inputs, training=False))
    norms = [each for each in base.layers if isinstance(each, layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    base(images(64, 8), training=True)
    noise = np.random.default_rng(5)
    for norm in norms:
        norm.momentum = 0.99
        shift = noise.normal(size=norm.moving_mean.shape) * np.sqrt(norm.moving_variance)
        norm.moving_mean.assign(norm.moving_mean + 0.3 * shift)
        norm.moving_variance.assign(norm.moving_variance * noise.uniform(0.5, 1.5, norm.moving_variance.shape))
        norm.gamma.assign(noise.uniform(0.7, 1.3, norm.gamma.shape))
        norm.beta.assign(noise.normal(scale=0.3, size=norm.beta.shape))
    model.save(path)
    return path, model


def nested(path, side=32):
    """Two nested models with layers of the same names, one in the other, a sequential one, and dropout."""

    def inner(within=None):
        x = entered = keras.Input((side - 2, side - 2, 4))
        x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", name="convolution")(x))
        x = layers.Dropout(0.5)(within(x) if within else x)
        return keras.Model(entered, layers.Add(name="sum")([x, entered]))

    inputs = keras.Input((side, side, 3))
    x = keras.Sequential([layers.Conv2D(4, 3, name="convolution"), layers.ReLU()])(inputs)
    x = inner(inner())(x)
    return saved(path, inputs, layers.GlobalAveragePooling2D()(x))


def by_its_layers(path, x):
    """The file's layers one after the other, each by itself."""
    for layer in keras.models.load_model(path, compile=False).layers:
        x = x if isinstance(layer, layers.InputLayer) else layer(x)
    return x


def chain(path, side=32, sequential=False):
    parts = [
        layers.Conv2D(6, 3, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.ZeroPadding2D(),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.BatchNormalization(scale=False),
        layers.Conv2D(8, 3, groups=2),
        layers.BatchNormalization(center=False, axis=3),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, use_bias=False),
        layers.BatchNormalization(),
    ]
    model = keras.Sequential([keras.Input((side, side, 3)), *parts])
    model = model if sequential else keras.Model(model.inputs, model.outputs)
    disturb(model)
    model.save(path)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("size", [None, 32, 48, 21])
def test_a_file_of_a_fixed_size_runs_at_any(tmp_path, sequential, size):
    chain(tmp_path / "chain.keras", sequential=sequential)
    encoder = build(tmp_path / "chain.keras", size)
    x = images(size or 32)
    assert encoder.preprocess.image_size_px == encoder.model.input_shape[1] == (size or 32)
    assert relative(encoder.model(x), by_its_layers(tmp_path / "chain.keras", x)) < 1e-5
    assert not norms_of(encoder)  # all are folded
    assert len(encoder.model.layers) == 8


def test_the_shared_mobilenet_at_160_px_gives_what_its_layers_give(shared):
    path = shared / "weights" / "mobilenet_v1_imagenet.keras"
    encoder, x = build(path, 160), images(160)
    assert relative(encoder.model(x), by_its_layers(path, x)) < 1e-4
    assert len(encoder.blocks) == 27 and not norms_of(encoder)


def test_a_residual_network_is_folded_whole(residual):
    path, model = residual
    encoder, x = build(path, 64), images(64)
    expected = model(x, training=False).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
    assert relative(encoder.model(x), expected) < 1e-4
    assert relative(encoder.model(x, training=True), expected) < 1e-4
    assert not norms_of(encoder) and len(encoder.blocks) == 52
    values = [v.value for v in encoder.model.trainable_variables]
    assert len(values) == len(encoder.model.variables) == 104  # a kernel and a bias each
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(encoder.model(x, training=True) ** 2)
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, values))


def test_a_norm_that_cannot_be_folded_is_frozen_and_counts(tmp_path):
    convolution = layers.Conv2D(4, 3, padding="same", name="shared")
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="first")(inputs)  # follows nothing
    x = layers.Conv2D(4, 1, activation="relu")(x)
    x = layers.BatchNormalization(name="after_relu")(x)
    x = layers.BatchNormalization(name="twice")(convolution(convolution(x)))
    y = layers.Conv2D(4, 1)(x)
    x = layers.Add()([layers.BatchNormalization(name="branch")(y), y])  # y goes elsewhere, too
    x = layers.BatchNormalization(axis=1, name="over_rows")(layers.Conv2D(4, 1)(x))
    same = layers.BatchNormalization(name="called_twice")
    x = layers.Add()([same(layers.Conv2D(4, 1)(x)), same(layers.Conv2D(4, 1)(x))])
    model = saved(tmp_path / "norms.keras", inputs, layers.GlobalAveragePooling2D()(x))
    encoder, x = build(tmp_path / "norms.keras"), images(16)
    assert len(norms_of(encoder)) == 6
    assert not any(v.trainable for norm in norms_of(encoder) for v in norm.variables)
    expected = model(x, training=False)
    assert relative(encoder.model(x, training=True), expected) < 1e-5
    left = build(tmp_path / "norms.keras", train_batch_norm=True)
    assert all(norm.trainable for norm in norms_of(left))


def test_norms_that_are_to_be_trained_are_not_folded(tmp_path):
    chain(tmp_path / "chain.keras")
    encoder, x = build(tmp_path / "chain.keras", 48, train_batch_norm=True), images(48)
    assert len(norms_of(encoder)) == 4
    np.testing.assert_array_equal(encoder.model(x), by_its_layers(tmp_path / "chain.keras", x))


@pytest.mark.parametrize("size", [None, 48])
def test_nested_models_are_flattened(tmp_path, size):
    model = nested(tmp_path / "nested.keras")
    encoder, x = build(tmp_path / "nested.keras", size), images(size or 32)
    assert not any(isinstance(layer, keras.Model) for layer in encoder.model.layers)
    at_size = model if size is None else nested(tmp_path / "larger.keras", size)
    at_size.set_weights(model.get_weights())
    assert relative(encoder.model(x), at_size(x, training=False)) < 1e-5
    assert not norms_of(encoder) and len(encoder.blocks) == 3
    assert encoder.model.layers[1].output.shape[1] == (size or 32) - 2  # a cut in the middle is of this graph


def test_variables_have_the_same_names_whatever_the_process_built_and_the_file_calls_them(tmp_path):
    path, renamed = tmp_path / "first.keras", tmp_path / "renamed.keras"
    nested(path)
    taken = iter(range(10_000))

    def neutral(layer):
        return type(layer).from_config({**layer.get_config(), "name": f"part_{next(taken)}"})

    loaded = keras.models.load_model(path, compile=False)
    copy = keras.models.clone_model(loaded, clone_function=neutral, recursive=True)
    copy.set_weights(loaded.get_weights())
    copy.save(renamed)
    first, other = build(path, 32), build(renamed, 32)
    assert [v.path for v in first.model.variables] == [v.path for v in other.model.variables]
    assert len({v.path for v in first.model.variables}) == len(first.model.variables)
    assert [len(block) for block in first.blocks] == [len(block) for block in other.blocks]
    np.testing.assert_array_equal(first.model(images(32)), other.model(images(32)))
    x = images(32)
    expected = first.model(x).numpy()
    writer = checkpoints.Writer(tmp_path / "checkpoints", 1)
    writer.save(1, named_variables("embedder", first.model.variables), {})
    writer.wait()
    for variable in other.model.trainable_variables:
        variable.assign(variable + 1.0)
    checkpoints.restore(checkpoints.newest(writer.folder), named_variables("embedder", other.model.variables))
    np.testing.assert_array_equal(other.model(x), expected)
    larger = build(renamed, 64)
    larger.model.trainable_variables[0].assign(larger.model.trainable_variables[0] * 0)
    encoders.transfer(first, larger)
    np.testing.assert_array_equal(larger.model(images(64)), build(path, 64).model(images(64)))


def test_blocks_are_kernels_by_depth_with_what_follows_them(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="before")(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="stem")(x)
    x = layers.BatchNormalization(name="stem_norm")(x)
    long = layers.Conv2D(4, 1, name="long_1")(x)
    long = layers.PReLU(shared_axes=[1, 2], name="long_scale")(long)
    long = layers.Conv2D(4, 1, name="long_2")(long)
    short = layers.DepthwiseConv2D(1, name="scale")(x)  # a number a channel is no kernel
    short = layers.Conv2D(4, 1, name="short_1")(short)
    x = layers.LayerNormalization(name="end_norm")(layers.Add()([long, short]))
    x = layers.Reshape((14 * 14, 4))(x)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.Dense(6, name="dense")(layers.GlobalAveragePooling1D()(x))
    saved(tmp_path / "branches.keras", inputs, x)
    encoder = build(tmp_path / "branches.keras")
    assert [sorted(layer.name for layer in block) for block in encoder.blocks] == [
        ["before", "scale", "stem", "stem_norm"],
        ["long_1", "long_scale", "short_1"],
        ["end_norm", "long_2"],
        ["attention"],
        ["dense"],
    ]
    held = [id(v) for block in encoder.blocks for layer in block for v in layer.weights]
    assert sorted(held) == sorted(id(v) for v in encoder.model.weights)


def test_what_the_file_froze_can_be_trained(tmp_path):
    chain(tmp_path / "chain.keras")
    model = keras.models.load_model(tmp_path / "chain.keras")
    model.trainable = False
    model.save(tmp_path / "frozen.keras")
    assert len(build(tmp_path / "frozen.keras").model.trainable_variables) == 8


@pytest.mark.parametrize(
    ("end", "size", "message"),
    [
        ([layers.Flatten(), layers.Dense(3)], 48, "takes 32 × 32 px, it does not run at 48.*expected axis -1"),
        ([layers.Reshape((30 * 30, 4)), layers.GlobalAveragePooling1D()], 48, "does not run at 48"),
        ([PositionTable(), layers.GlobalAveragePooling2D()], 48, "does not run at 48"),
        ([layers.Flatten()], 48, "it would give 8464 numbers, not 3600"),
        ([layers.GlobalAveragePooling2D()], 2, "does not run at 2"),
    ],
)
def test_a_graph_of_one_size_is_bad_input_at_another(tmp_path, end, size, message):
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(4, 3), *end])
    model.save(tmp_path / "fixed.keras")
    x = images(32)
    np.testing.assert_allclose(build(tmp_path / "fixed.keras", 32).model(x), model(x), rtol=1e-6)
    with pytest.raises(BadInput, match=message) as caught:
        build(tmp_path / "fixed.keras", size)
    assert "\n" not in str(caught.value)


def test_a_reshape_across_the_batch_is_bad_input_at_another_size(tmp_path):
    """At twice the size it would run, and give four rows an image."""
    inputs = keras.Input((32, 32, 3))
    x = keras.ops.reshape(layers.Conv2D(4, 1)(inputs), (-1, 32 * 32, 4))
    keras.Model(inputs, layers.GlobalAveragePooling1D()(x)).save(tmp_path / "fixed.keras")
    with pytest.raises(BadInput, match="does not run at 64"):
        build(tmp_path / "fixed.keras", 64)


def test_a_size_that_the_file_does_not_tell_must_be_said(tmp_path):
    for shape, message in (((None, None, 3), "any size"), ((32, 24, 3), "32 × 24 px; say the side")):
        model = keras.Sequential([keras.Input(shape), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
        model.save(tmp_path / "any.keras")
        with pytest.raises(BadInput, match=message):
            build(tmp_path / "any.keras")
        assert build(tmp_path / "any.keras", 16).model.input_shape == (None, 16, 16, 3)


def test_half_precision_files_give_float32_features(tmp_path):
    parts = [layers.Conv2D(4, 3, dtype="mixed_bfloat16"), layers.GlobalAveragePooling2D(dtype="bfloat16")]
    keras.Sequential([keras.Input((16, 16, 3)), *parts]).save(tmp_path / "half.keras")
    assert build(tmp_path / "half.keras", 24).model(images(24)).dtype == tf.float32
    assert keras_files.KERAS_FILE == encoders.KERAS_FILE
