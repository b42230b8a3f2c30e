"""Triplets against slow loops; batches that are fair to every class; an untrained head that keeps all distances."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput
from pipeline.similar import triplets


def slow_triplet_loss(rows, labels, margin, mining):
    def distance(i, j):
        return float(np.sqrt(((rows[i] - rows[j]) ** 2).sum()))

    everyone, losses = range(len(rows)), []
    for a in everyone:
        positives = [p for p in everyone if p != a and labels[p] == labels[a]]
        negatives = [n for n in everyone if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            gap = max(distance(a, p) for p in positives) - min(distance(a, n) for n in negatives)
            losses.append(max(0.0, gap + margin))
            continue
        for p in positives:
            farther = [distance(a, n) for n in negatives if distance(a, n) > distance(a, p)]
            chosen = min(farther) if farther else max(distance(a, n) for n in negatives)
            losses.append(max(0.0, distance(a, p) - chosen + margin))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("mining", ("semihard", "hard"))
@settings(max_examples=15, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    seed=st.integers(0, 1000),
    margin=st.sampled_from([0.1, 0.5, 1.5]),
)
@example(labels=[0, 0, 0, 1, 1, 1, 2], seed=0, margin=0.5)
@example(labels=[0, 1, 0, 1, 0, 2, 2, 0], seed=1, margin=1.5)
def test_triplet_loss_equals_a_slow_loop(mining, labels, seed, margin):
    rows = np.random.default_rng(seed).normal(size=(len(labels), 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    loss = triplets.triplet_loss(tf.constant(rows), tf.constant(labels), margin, mining)
    np.testing.assert_allclose(loss, slow_triplet_loss(rows, labels, margin, mining), atol=2e-5)


@pytest.mark.parametrize("mining", ("semihard", "hard"))
def test_triplet_gradient_is_finite_where_images_are_the_same(mining: str):
    rows = tf.Variable(tf.math.l2_normalize(tf.constant([[1.0, 2], [1, 2], [1, 2], [2, -1]]), axis=1))
    with tf.GradientTape() as tape:
        loss = triplets.triplet_loss(rows, tf.constant([0, 0, 1, 1]), 0.2, mining)
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, rows)).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=4, max_size=60), st.integers(2, 4), st.integers(2, 4), st.integers(0, 99))
@example([0] * 9 + [1] * 9, 2, 2, 0)
def test_class_batches_hold_several_images_of_several_classes_and_come_round_fairly(labels, classes, images, seed):
    labels = np.array(labels)
    counts = {label: int((labels == label).sum()) for label in set(labels.tolist())}
    usable = [label for label, count in counts.items() if count > 1]
    if len(usable) < 2:
        with pytest.raises(BadInput, match="two classes"):
            triplets.class_batches(labels, classes, images, seed)
        return
    batches = triplets.class_batches(labels, classes, images, seed)
    drawn = dict.fromkeys(usable, 0)
    times = np.bincount(np.concatenate(batches), minlength=len(labels))  # that each image was drawn
    for label in usable:
        assert np.ptp(times[labels == label]) <= 1
    for batch in batches:
        assert len(set(batch.tolist())) == len(batch)
        found = {int(label): int((labels[batch] == label).sum()) for label in set(labels[batch].tolist())}
        assert len(found) == min(classes, len(usable))
        for label, count in found.items():
            assert count == min(images, counts[label])
            drawn[label] += 1
    assert max(drawn.values()) - min(drawn.values()) <= 1
    again = triplets.class_batches(labels, classes, images, seed)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
