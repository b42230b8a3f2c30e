"""Starts of the head: PCA against scikit-learn's, discriminants against their definition and use."""

import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.decomposition import PCA

from pipeline.config import Embedder, Lda
from pipeline.retrieval.vectors import unit_length
from pipeline.training import starts


def clustered(seed=0, classes=20, each=12, width=64):
    """Classes of two sources whose widest directions tell nothing apart."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(classes, width)) * np.linspace(3.0, 0.05, width)
    labels = np.repeat(np.arange(classes), each)
    noise = rng.normal(size=(len(labels), width)) * np.where(np.arange(width) < 4, 4.0, 0.5)
    return middles[labels] + noise + 2.0, labels, (np.arange(classes) % 2).astype(np.int32)


def test_axes_are_those_of_scikit_learn_up_to_sign():
    features, _, _ = clustered()
    mean, axes = starts.axes(features, 6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    known = PCA(6).fit(unit)
    assert np.allclose(mean, known.mean_, atol=1e-6)
    assert np.allclose(np.abs(np.sum(axes.T * known.components_, axis=1)), 1.0, atol=1e-4)


def test_half_whitened_axes_are_divided_by_the_root_of_their_deviation():
    features, _, _ = clustered()
    (_, plain), (_, halved) = starts.axes(features, 6), starts.axes(features, 6, starts.WHITENING)
    deviation = ((unit_length(features) - unit_length(features).mean(axis=0)) @ plain).std(axis=0, ddof=1)
    assert np.allclose(halved * np.sqrt(deviation), plain, atol=1e-5)


def slow_lda(features, labels, domains, components):
    """The generalised eigenvalue problem in the whole space, scatters summed image by image."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = unit - unit.mean(axis=0)
    width = rows.shape[1]
    means = [rows[labels == each].mean(axis=0) for each in range(labels.max() + 1)]
    within, between, total = np.zeros((width, width)), np.zeros((width, width)), np.zeros((width, width))
    for row, label in zip(rows, labels, strict=True):
        within += np.outer(row - means[label], row - means[label]) / len(rows)
        total += np.outer(row, row)
    for each, mean in enumerate(means):
        middle = np.mean([means[i] for i in range(len(means)) if domains[i] == domains[each]], axis=0)
        between += np.outer(mean - middle, mean - middle)
    within = 0.2 * within + 0.8 * np.trace(within) / width * np.eye(width)
    spread = 0.2 * between / np.trace(between) + 0.8 * total / np.trace(total)
    _, vectors = eigh(spread, within)  # scaled so that v' within v = 1
    return vectors[:, ::-1][:, :components]


def test_discriminants_solve_the_generalised_eigenvalue_problem():
    features, labels, domains = clustered()
    _, found = starts.lda_axes(features, labels, domains, 8, Lda())
    known = slow_lda(features, labels, domains, 8)
    assert np.allclose(np.abs(found), np.abs(known), atol=2e-3 * np.abs(known).max())


def test_discriminants_are_found_where_the_principal_components_are_fewer_than_the_width():
    features, labels, domains = clustered(width=600, each=30)
    mean, found = starts.lda_axes(features, labels, domains, 8, Lda())
    assert mean.shape == (600,) and found.shape == (600, 8) and found.dtype == np.float32
    assert np.linalg.matrix_rank(found) == 8


@pytest.mark.parametrize("name", ["pca", "half_whitened", "lda"])
def test_the_head_takes_the_features_mean_away(name):
    features, labels, domains = clustered()
    kernel, bias = starts.start(Embedder(embedding_dim=8), name, features, labels, domains)
    mean = unit_length(features).mean(axis=0)
    assert kernel.shape == (64, 8) and bias.shape == (8,) and kernel.dtype == bias.dtype == np.float32
    assert np.allclose(mean @ kernel + bias, 0.0, atol=1e-5)
    assert kernel.std() == pytest.approx(np.sqrt(2.0 / 72), rel=1e-3)  # as a random kernel's


def test_discriminants_keep_unseen_classes_apart_better_than_pca_or_a_random_head():
    features, labels, domains = clustered(classes=40)
    seen = labels < 20

    def spread(kernel, bias):
        unit = unit_length(unit_length(features[~seen]) @ kernel + bias)
        cosines, same = unit @ unit.T, labels[~seen][:, None] == labels[~seen][None]
        return cosines[same].mean() - cosines[~same].mean()

    given = features[seen], labels[seen], domains[:20]
    options = Embedder(embedding_dim=8)
    random = spread(np.random.default_rng(1).normal(size=(64, 8)), 0.0)
    pca, lda = (spread(*starts.start(options, name, *given)) for name in ("pca", "lda"))
    assert lda > max(pca, random) + 0.05


def test_class_means_point_at_their_class_and_sub_centres_differ():
    features, labels, _ = clustered()
    unit = unit_length(features)
    means = starts.class_centers(unit, labels, 1, seed=0)
    assert means.shape == (20, 1, 64)
    assert (unit_length(unit[labels == 3].mean(axis=0)) @ means[3, 0]) == pytest.approx(1.0, abs=1e-5)
    several = starts.class_centers(unit, labels, 3, seed=0)
    assert not np.allclose(several[:, 0], several[:, 1]) and np.allclose(several[:, 0], means[:, 0], atol=0.2)
