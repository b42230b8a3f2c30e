"""ArcFace against the textbook: arccos, add the margin, cross-entropy, one example at a time."""

import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import losses


def slow_arcface(embeddings, labels, centers, scale, margins):
    found = []
    for embedding, label in zip(embeddings.astype(np.float64), labels, strict=True):
        cosines = []
        for each in centers.astype(np.float64):
            cosines.append(
                max(float(embedding @ sub / np.linalg.norm(embedding) / np.linalg.norm(sub)) for sub in each)
            )
        angle, margin = math.acos(max(-1.0, min(1.0, cosines[label]))), margins[label]
        target = math.cos(angle + margin) if angle + margin <= math.pi else math.cos(angle) - margin * math.sin(margin)
        logits = np.array(cosines) * scale
        logits[label] = target * scale
        found.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return np.array(found)


@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.2])
def test_arcface_is_cross_entropy_of_the_shifted_angle(subcenters, margin):
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(24, 8)).astype(np.float32)
    centers = rng.normal(size=(7, subcenters, 8)).astype(np.float32)
    labels = rng.integers(0, 7, 24)
    embeddings[0] = -centers[labels[0], 0]  # beyond π − m for K = 1
    fast = losses.arcface(embeddings, labels, centers, 16.0, margin).numpy()
    assert np.allclose(fast, slow_arcface(embeddings, labels, centers, 16.0, np.full(7, margin)), atol=2e-4)


def test_one_margin_a_class():
    rng = np.random.default_rng(3)
    embeddings, centers = rng.normal(size=(9, 8)).astype("f"), rng.normal(size=(4, 1, 8)).astype("f")
    labels, margins = rng.integers(0, 4, 9), np.array([0.1, 0.2, 0.5, 0.8], np.float32)
    fast = losses.arcface(embeddings, labels, centers, 16.0, margins).numpy()
    assert np.allclose(fast, slow_arcface(embeddings, labels, centers, 16.0, margins), atol=2e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_loss_and_gradient_are_finite_where_the_cosine_is_one_or_minus_one(compiled):
    centers = tf.constant(np.eye(4, dtype=np.float32)[:, None])
    embeddings = tf.constant(np.concatenate([np.eye(4), -np.eye(4), np.zeros((1, 4))]), tf.float32)
    labels = tf.constant([0, 1, 2, 3, 0, 1, 2, 3, 0])

    @tf.function(jit_compile=compiled)
    def both(embeddings, centers):
        with tf.GradientTape() as tape:
            tape.watch([embeddings, centers])
            loss = losses.arcface(embeddings, labels, centers, 64.0, 0.5)
        return loss, tape.gradient(loss, [embeddings, centers])

    loss, gradients = both(embeddings, centers)
    assert all(np.isfinite(values).all() for values in (loss, *gradients))


def test_bfloat16_embeddings_are_compared_in_float32():
    rng = np.random.default_rng(4)
    embeddings = tf.cast(rng.normal(size=(5, 8)), tf.bfloat16)
    centers, labels = rng.normal(size=(3, 1, 8)).astype("f"), [0, 1, 2, 0, 1]
    loss = losses.arcface(embeddings, labels, centers, 30.0, 0.3)
    assert loss.dtype == tf.float32
    same = losses.arcface(tf.cast(embeddings, tf.float32), labels, centers, 30.0, 0.3)
    assert np.array_equal(loss, same)


def test_smaller_classes_get_larger_margins_between_the_two_given():
    margins = losses.class_margins(np.array([50, 3, 10]), 0.2, 0.6)
    assert margins[1] == pytest.approx(0.6) and margins[0] == pytest.approx(0.2) and 0.2 < margins[2] < 0.6
    assert losses.class_margins(np.array([5, 5]), 0.2, 0.6).tolist() == pytest.approx([0.2, 0.2])
