"""Pair losses against loops over anchors and pairs, on one replica and over several."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config
from pipeline.training import class_centers
from pipeline.training.losses import LOSSES, PAIR_LOSSES

LABELS = np.array([0, 1, 0, 2, 1, 0, 1, 3, 0, 2, 1, 4])  # 3 and 4 stand alone


def slow_loss(name, rows, labels, scale=10.0, margin=0.2):
    """One number an anchor; the formulas of the papers, the cases of the authors' code."""
    rows, found = np.asarray(rows, np.float64), []
    for a in range(len(rows)):

        def cosine(j, a=a):
            return float(rows[a] @ rows[j] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[j]))

        positives = [cosine(j) for j in range(len(rows)) if j != a and labels[j] == labels[a]]
        negatives = [cosine(j) for j in range(len(rows)) if labels[j] != labels[a]]
        if not positives or (not negatives and name != "supcon"):
            found.append(0.0)
        elif name == "triplet":
            found.append(max(0.0, max(1 - p for p in positives) - min(1 - n for n in negatives) + margin))
        elif name == "supcon":
            below = sum(math.exp(scale * each) for each in positives + negatives)
            found.append(-sum(math.log(math.exp(scale * p) / below) for p in positives) / len(positives))
        else:
            hard_positives = [p for p in positives if p - 0.1 < max(negatives)]
            hard_negatives = [n for n in negatives if n + 0.1 > min(positives)]
            pull = math.log(1 + sum(math.exp(-2 * (p - 0.5)) for p in hard_positives)) / 2
            found.append(pull + math.log(1 + sum(math.exp(50 * (n - 0.5)) for n in hard_negatives)) / 50)
    return np.array(found)


def drawn(seed, labels=LABELS, width=4, noise=0.6):
    """Images near their class's middle: some pairs are easy, some hard."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(labels.max() + 1, width))[labels] + noise * rng.normal(size=(len(labels), width))


def fast_loss(name, rows, labels):
    options = config.Loss(name=name, scale=10.0, margin_cosine=0.2)
    return LOSSES[name](tf.cast(rows, tf.float32), labels, None, options, 0.0, None)


def slow_gradient(name, rows, labels, step=1e-6):
    found = np.zeros(rows.shape)
    for at in np.ndindex(rows.shape):
        moved = [rows.copy(), rows.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        found[at] = (slow_loss(name, moved[0], labels) - slow_loss(name, moved[1], labels)).sum() / step / 2
    return found


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pair_losses_and_gradients_equal_slow_loops(name, seed):
    rows = drawn(seed)
    slow = slow_loss(name, rows, LABELS)
    assert (slow > 0).sum() > 3
    variable = tf.Variable(rows, dtype=tf.float32)
    with tf.GradientTape() as tape:
        fast = fast_loss(name, variable, LABELS)
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(fast, variable), slow_gradient(name, rows, LABELS), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2], [0, 0, 1, 1, 2]])
def test_gradients_are_finite_without_positives_or_negatives_and_the_same_under_xla(name, labels):
    rows = np.array([[1.0, 2], [1, 2], [-1, -2], [0, 0], [2, -1]])[: len(labels)]  # cosines 1 and −1, a zero vector

    def both(rows):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            each = fast_loss(name, rows, tf.constant(labels))
        return [each, tape.gradient(each, rows)]

    plain = both(tf.constant(rows, tf.float32))
    compiled = tf.function(both, jit_compile=True)(tf.constant(rows, tf.float32))
    for one, other in zip(plain, compiled, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    alone = [labels.count(label) == 1 for label in labels]
    assert (plain[0].numpy()[alone] == 0).all()
    if len(set(labels)) == 1 and name != "supcon":
        assert (plain[0].numpy() == 0).all()  # nothing to push away from


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_part_of_the_batch_as_anchors_gives_its_part_of_the_losses(name):
    rows, options = tf.constant(drawn(3), tf.float32), config.Loss(name=name)
    whole = PAIR_LOSSES[name](rows, LABELS, 0, rows, LABELS, options)
    parts = [PAIR_LOSSES[name](rows[i : i + 4], LABELS[i : i + 4], i, rows, LABELS, options) for i in (0, 4, 8)]
    np.testing.assert_allclose(tf.concat(parts, 0), whole, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def over_replicas() -> dict:
    asked = {"embeddings": drawn(4).tolist(), "labels": LABELS.tolist(), "scale": 10.0}
    script = [sys.executable, "-m", "tests.training.pair_replicas", json.dumps(asked)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_four_replicas_compare_the_whole_batch_as_one_does(over_replicas, name):
    rows = tf.Variable(drawn(4), dtype=tf.float32)
    centers = class_centers.build(3, 1, 4, 0, False, tf.distribute.get_strategy())
    options = config.Loss(name=name, scale=10.0)
    assert not centers.crosses_replicas(options)
    with tf.GradientTape() as tape:
        each = centers.losses(rows, LABELS, options, 0.0, False)
    gradient = tape.gradient(each, rows)
    assert np.abs(gradient).max() > 0.1
    for found in over_replicas[name]:  # plain, then under XLA
        np.testing.assert_allclose(found["losses"], each, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["gradient"], gradient, rtol=1e-4, atol=1e-5)
