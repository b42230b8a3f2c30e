"""The keeping terms against plain loops over images and weights."""

import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline.training.losses import keeping


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def slow_divergence(embeddings, teacher, temperature):
    found = []
    for i in range(len(embeddings)):
        others = [j for j in range(len(embeddings)) if j != i]
        shares = []
        for rows in (embeddings, teacher):
            powers = [math.exp(cosine(rows[i], rows[j]) / temperature) for j in others]
            shares.append([power / sum(powers) for power in powers])
        found.append(sum(q * math.log(q / p) for p, q in zip(*shares, strict=True)))
    return np.array(found)


def drawn(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def test_feature_distance_is_one_minus_the_cosine():
    features, teacher = drawn(1, (6, 9), (6, 9))
    slow = [1 - cosine(one, other) for one, other in zip(features, teacher, strict=True)]
    np.testing.assert_allclose(keeping.feature_distance(features, teacher), slow, atol=1e-5)
    assert np.abs(keeping.feature_distance(3 * features, features)).max() < 1e-6


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_similarity_divergence_is_of_the_student_from_the_teacher_over_the_other_images(temperature):
    embeddings, teacher = drawn(2, (7, 4), (7, 11))
    fast = keeping.similarity_divergence(embeddings, teacher, temperature)
    np.testing.assert_allclose(fast, slow_divergence(embeddings, teacher, temperature), rtol=1e-4, atol=1e-5)
    turned = np.linalg.qr(drawn(3, (11, 11))[0])[0]  # a rotation keeps every cosine
    assert np.abs(keeping.similarity_divergence(teacher @ turned, teacher, temperature)).max() < 1e-4


def test_weight_distance_is_half_the_squared_way_from_the_start():
    values, starts = drawn(4, (3, 2), (5,)), drawn(5, (3, 2), (5,))
    slow = sum(
        (a - b) ** 2 / 2
        for value, start in zip(values, starts, strict=True)
        for a, b in zip(value.flat, start.flat, strict=True)
    )
    assert float(keeping.weight_distance(values, starts)) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_gradients_are_finite_for_equal_opposite_and_zero_features_and_the_same_under_xla(images):
    features = tf.constant(np.array([[1, 2], [1, 2], [-1, -2], [0, 0], [3, -1]])[:images], tf.float32)
    teacher = tf.constant(np.array([[1, 2], [-1, -2], [1, 2], [1, 0], [0, 0]])[:images], tf.float32)

    def gradients(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = tf.reduce_sum(keeping.feature_distance(features, teacher))
            loss += tf.reduce_sum(keeping.similarity_divergence(features, teacher, 0.05))
            loss += keeping.weight_distance([features], [teacher])
        return [loss, tape.gradient(loss, features)]

    plain, compiled = gradients(features), tf.function(gradients, jit_compile=True)(features)
    for one, other in zip(plain, compiled, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_compared_in_float32():
    features, teacher = (tf.cast(rows, tf.bfloat16) for rows in drawn(6, (5, 8), (5, 8)))
    wide = [tf.cast(rows, tf.float32) for rows in (features, teacher)]
    assert np.array_equal(keeping.feature_distance(features, teacher), keeping.feature_distance(*wide))
    near = keeping.similarity_divergence(features, teacher, 0.1)
    assert near.dtype == tf.float32 and np.array_equal(near, keeping.similarity_divergence(*wide, 0.1))
    assert np.array_equal(keeping.weight_distance([features], [teacher]), keeping.weight_distance(*([w] for w in wide)))
