"""Heads: batch norm against Keras' own and NumPy, what a PCA's axes are before it is fitted, names of variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Embedder
from pipeline.models import head as heads


def rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    """float32, features with large means and unlike variances."""
    noise = np.random.default_rng(seed)
    return (noise.normal(3, 2, width) + noise.normal(0, 1, (count, width)) * np.arange(1, width + 1)).astype("f4")


def unit(found: np.ndarray) -> np.ndarray:
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_batch_norm_is_keras_own_in_values_gradients_and_moving_statistics():
    x, upstream = tf.constant(unit(rows(16, 6))), tf.constant(rows(16, 6, seed=1))
    ours = heads.BatchNorm()
    theirs = keras.layers.BatchNormalization(
        momentum=heads.MOMENTUM, epsilon=heads.EPSILON / 6, center=False, scale=False,
        moving_variance_initializer=keras.initializers.Constant(1 / 6),
    )  # fmt: skip
    for _ in range(3):
        found = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            found.append((y, tape.gradient(y, x, upstream)))
        for mine, keras_own in zip(*found, strict=True):
            np.testing.assert_allclose(mine, keras_own, rtol=2e-4, atol=2e-4)
    for mine, keras_own in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours(x, training=False), theirs(x, training=False), rtol=1e-3, atol=1e-4)


def test_batch_norm_in_training_has_mean_0_and_variance_1_whatever_the_features_scale():
    for scale in (1e-3, 1.0, 1e3):
        head = heads.build(Embedder(embedding_dim=4, batch_norm=True), 6, seed=0)
        assert head.norm is not None
        found = np.asarray(head.norm(tf.constant(scale * rows(64, 6)), training=True))
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(found.var(axis=0), 1, atol=1e-2)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_head_by_its_formula_and_before_its_pca_is_fitted(batch_norm):
    head = heads.build(Embedder(embedding_dim=3, trained_dim=5, batch_norm=batch_norm), 6, seed=2)
    x = rows(8, 6)
    seen = unit(x)
    if head.norm is not None:
        mean, variance = np.linspace(-0.1, 0.1, 6), np.linspace(0.01, 0.3, 6)
        head.norm.set_weights([mean, variance])
        seen = (seen - mean) / np.sqrt(variance + 1e-6 / 6)
    kernel, bias = head.served.trainable_weights
    trained = unit(seen @ np.array(kernel) + np.array(bias))
    np.testing.assert_allclose(head.trained(x), trained, atol=1e-5)
    np.testing.assert_allclose(head.served(x), unit(trained[:, :3]), atol=1e-5)
    assert head.pca is not None and not head.pca.trainable_variables
