"""Class losses against the textbook: cosines, the own one changed, cross-entropy, one example at a time."""

import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config
from pipeline.config.keys import check
from pipeline.errors import BadInput
from pipeline.training.losses import LOSSES, class_losses

CLASS_LOSSES = ("arcface", "cosface", "normface", "proxy_nca")
DOMAINS = np.array([0, 2, 0, 2, 1, 0, 2], np.int32)  # of seven classes; class 4 has its domain to itself


def slow_loss(name, embeddings, labels, centers, scale, margins, margin_cosine=0.0, domains=None):
    found = []
    for embedding, label in zip(embeddings.astype(np.float64), labels, strict=True):
        logits = []
        for number, subs in enumerate(centers.astype(np.float64)):
            if domains is not None and domains[number] != domains[label]:
                continue
            unit, units = embedding / np.linalg.norm(embedding), [sub / np.linalg.norm(sub) for sub in subs]
            cosine = max(float(unit @ each) for each in units)
            if name == "proxy_nca":
                logit = -scale * min(float(((unit - each) ** 2).sum()) for each in units)
            elif number != label or name == "normface":
                logit = scale * cosine
            elif name == "cosface":
                logit = scale * (cosine - margin_cosine)
            else:
                angle, margin = math.acos(max(-1.0, min(1.0, cosine))), margins[label]
                beyond = math.cos(angle) - margin * math.sin(margin)
                logit = scale * (math.cos(angle + margin) if angle + margin <= math.pi else beyond)
            logits.append(logit)
            if number == label:
                target = logit
        highest = max(logits)
        found.append(math.log(sum(math.exp(logit - highest) for logit in logits)) + highest - target)
    return np.array(found)


def drawn(seed, examples=24, classes=7, subcenters=1, width=8):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(examples, width)).astype(np.float32)
    return embeddings, rng.integers(0, classes, examples), rng.normal(size=(classes, subcenters, width)).astype("f")


@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.2])
def test_arcface_is_cross_entropy_of_the_shifted_angle(subcenters, margin):
    embeddings, labels, centers = drawn(2, subcenters=subcenters)
    embeddings[0] = -centers[labels[0], 0]  # beyond π − m for K = 1
    fast = class_losses.arcface(embeddings, labels, centers, config.Loss(scale=16.0), margin).numpy()
    assert np.allclose(fast, slow_loss("arcface", embeddings, labels, centers, 16.0, np.full(7, margin)), atol=2e-4)


@pytest.mark.parametrize("domains", [None, DOMAINS])
@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_losses_are_cross_entropies_over_all_classes_or_the_own_domain(name, subcenters, domains):
    embeddings, labels, centers = drawn(5, subcenters=subcenters)
    assert 4 in labels
    options = config.Loss(name=name, scale=12.0, margin_cosine=0.25)
    fast = LOSSES[name](embeddings, labels, centers, options, 0.4, domains).numpy()
    slow = slow_loss(name, embeddings, labels, centers, 12.0, np.full(7, 0.4), 0.25, domains)
    assert np.allclose(fast, slow, atol=2e-4)
    if domains is not None:
        assert (fast[labels == 4] == 0).all()  # nothing to tell it from
        assert fast[labels == 0].min() > 1e-3


def test_one_margin_a_class():
    embeddings, labels, centers = drawn(3, 9, 4)
    margins = np.array([0.1, 0.2, 0.5, 0.8], np.float32)
    fast = class_losses.arcface(embeddings, labels, centers, config.Loss(scale=16.0), margins).numpy()
    assert np.allclose(fast, slow_loss("arcface", embeddings, labels, centers, 16.0, margins), atol=2e-4)


@pytest.mark.parametrize("domains", [None, np.array([0, 0, 0, 1], np.int32)])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_losses_and_gradients_are_finite_where_cosines_are_one_or_minus_one_and_the_same_under_xla(name, domains):
    centers = tf.constant(np.eye(4, dtype=np.float32)[:, None])
    embeddings = tf.constant(np.concatenate([np.eye(4), -np.eye(4), np.zeros((1, 4))]), tf.float32)
    labels, options = tf.constant([0, 1, 2, 3, 0, 1, 2, 3, 0]), config.Loss(name=name, scale=64.0)

    def both(embeddings, centers):
        with tf.GradientTape() as tape:
            tape.watch([embeddings, centers])
            loss = LOSSES[name](embeddings, labels, centers, options, 0.5, domains)
        return [loss, *tape.gradient(loss, [embeddings, centers])]

    plain, compiled = both(embeddings, centers), tf.function(both, jit_compile=True)(embeddings, centers)
    assert all(np.isfinite(values).all() for values in plain)
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", config.training.LOSSES)
def test_bfloat16_embeddings_are_compared_in_float32(name):
    embeddings, labels, centers = drawn(4, 5, 3)
    embeddings, options = tf.cast(embeddings, tf.bfloat16), config.Loss(name=name)
    loss = LOSSES[name](embeddings, labels, centers, options, 0.3, None)
    assert loss.dtype == tf.float32 and loss.shape == [5]
    assert np.array_equal(loss, LOSSES[name](tf.cast(embeddings, tf.float32), labels, centers, options, 0.3, None))


def test_the_config_names_the_losses_that_there_are():
    assert sorted(LOSSES) == sorted(config.training.LOSSES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "cosface", "sharded": True}, "sharded: expected arcface over all classes, got cosface"),
        ({"sharded": True, "own_domain": True}, "sharded: expected arcface over all classes, got own_domain"),
        ({"name": "supcon", "own_domain": True}, "own_domain: supcon has no softmax over classes"),
        ({"name": "normface", "largest_margin_radians": 0.5}, "largest_margin_radians: normface has no margin"),
    ],
)
def test_a_loss_is_not_asked_for_what_it_has_not(options, said):
    with pytest.raises(BadInput, match=said):
        check(config.Loss(**options))
    check(config.Loss(name="cosface", own_domain=True, subcenters=2))
    check(config.Loss(sharded=True, largest_margin_radians=0.6))


def test_smaller_classes_get_larger_margins_between_the_two_given():
    margins = class_losses.class_margins(np.array([50, 3, 10]), 0.2, 0.6)
    assert margins[1] == pytest.approx(0.6) and margins[0] == pytest.approx(0.2) and 0.2 < margins[2] < 0.6
    assert class_losses.class_margins(np.array([5, 5]), 0.2, 0.6).tolist() == pytest.approx([0.2, 0.2])
