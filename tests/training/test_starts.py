"""PCA against scikit-learn's; a head that starts as PCA keeps neighbours that a random one loses."""

import numpy as np
from sklearn.decomposition import PCA

from pipeline.retrieval.vectors import unit_length
from pipeline.training import pca


def clustered(seed=0, classes=20, each=12, width=64):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(classes, width)) * np.linspace(3.0, 0.05, width)
    labels = np.repeat(np.arange(classes), each)
    return middles[labels] + rng.normal(size=(len(labels), width)) * 0.5 + 2.0, labels


def test_axes_are_those_of_scikit_learn_up_to_sign():
    features, _ = clustered()
    mean, axes = pca.axes(features, 6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    known = PCA(6).fit(unit)
    assert np.allclose(mean, known.mean_, atol=1e-6)
    assert np.allclose(np.abs(np.sum(axes.T * known.components_, axis=1)), 1.0, atol=1e-4)


def test_the_heads_kernel_ignores_the_features_mean():
    features, _ = clustered()
    kernel = pca.head_kernel(features, 8)
    mean = unit_length(features).mean(axis=0)
    assert kernel.shape == (64, 8) and np.abs(mean @ kernel).max() < 1e-4 * np.abs(kernel).max() * 64


def test_a_head_from_pca_keeps_classes_apart_better_than_a_random_one():
    features, labels = clustered()

    def spread(kernel):
        unit = unit_length(features @ kernel)
        cosines = unit @ unit.T
        same = labels[:, None] == labels[None]
        return cosines[same].mean() - cosines[~same].mean()

    random = np.random.default_rng(1).normal(size=(64, 8))
    assert spread(pca.head_kernel(features, 8)) > spread(random) + 0.1


def test_class_means_point_at_their_class_and_sub_centres_differ():
    features, labels = clustered()
    unit = unit_length(features)
    means = pca.class_centers(unit, labels, 1, seed=0)
    assert means.shape == (20, 1, 64)
    slow = np.stack([unit[labels == c].mean(axis=0) for c in range(20)])
    assert np.allclose(unit_length(means[:, 0]), unit_length(slow), atol=1e-5)
    several = pca.class_centers(unit, labels, 3, seed=0)
    assert several.shape == (20, 3, 64) and np.abs(several[:, 0] - several[:, 1]).max() > 0
