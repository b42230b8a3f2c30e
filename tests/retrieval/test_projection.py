"""The map's plane: in 0 … 1, the same at every call, and near where the vectors are near."""

from importlib.util import find_spec

import numpy as np
import pytest

from pipeline.retrieval import projection


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 1), (5, 3), (200, 64), (3, 200)])
def test_every_shape_lies_in_the_unit_square_and_is_the_same_again(shape):
    rows = np.random.default_rng(0).normal(size=shape).astype("f")
    points = projection.plane(rows)
    assert points.shape == (shape[0], 2) and points.dtype == np.float32
    assert ((points >= 0) & (points <= 1)).all() and (projection.plane(rows) == points).all()


def test_equal_vectors_stand_in_the_middle():
    assert (projection.plane(np.ones((4, 3), "f")) == 0.5).all()


def test_pca_is_that_of_a_singular_value_decomposition(monkeypatch):
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    rows = np.random.default_rng(1).normal(size=(80, 6)).astype("f") * [5, 3, 1, 1, 0.5, 0.1]
    centred = rows - rows.mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    expected /= (expected.max(axis=0) - expected.min(axis=0)).max()
    found = projection.plane(rows)

    def apart(points):
        return np.linalg.norm(points[:, None] - points[None], axis=2)

    np.testing.assert_allclose(apart(found), apart(expected), atol=1e-4)


@pytest.mark.slow  # its compiler
@pytest.mark.skipif(not find_spec("umap"), reason="needs umap-learn: pip install 'guie[umap]'")
def test_umap_keeps_neighbours_that_two_directions_lose():
    """Eight clusters in eight directions: PCA shows two of them."""
    rows = np.repeat(np.eye(8), 12, axis=0) + 0.05 * np.random.default_rng(3).normal(size=(96, 8))
    assert projection.method_of(96) == "UMAP"
    points = projection.plane(rows)
    assert (points == projection.plane(rows)).all()
    far = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(96)
    assert (far.argmin(axis=1) // 12 == np.arange(96) // 12).all()


def test_clusters_stay_apart():
    centres = 10 * np.eye(3, 16)
    rows = np.concatenate([centre + np.random.default_rng(2).normal(size=(30, 16)) for centre in centres])
    points = projection.plane(rows).reshape(3, 30, 2)
    middles = points.mean(axis=1)
    spread = np.linalg.norm(points - middles[:, None], axis=2).max()
    assert min(np.linalg.norm(middles[a] - middles[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > spread
