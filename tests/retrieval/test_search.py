"""Fast search against sorting every distance."""

import faiss
import numpy as np
import pytest

from pipeline.retrieval.search import nearest


def slow_nearest(queries, index, k, leave_one_out=False):
    rows = []
    for number, query in enumerate(queries):
        far = [(float(np.linalg.norm(query - each)), i) for i, each in enumerate(index)]
        rows.append([i for _, i in sorted(far) if not (leave_one_out and i == number)][:k])
    return np.array(rows)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_neighbours_are_those_of_a_full_sort(leave_one_out):
    index = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    queries = index if leave_one_out else index[:40] + 0.1
    ids, distances = nearest(queries, index, 5, leave_one_out)
    assert np.array_equal(ids, slow_nearest(queries, index, 5, leave_one_out))
    assert np.allclose(distances, np.linalg.norm(queries[:, None] - index[ids], axis=2), atol=1e-6)


def test_ties_go_to_the_smaller_id():
    index = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    ids, _ = nearest(index[:1], index, 4)
    assert ids.tolist() == [[0, 1, 2, 3]]


def test_an_image_that_stands_twice_does_not_find_itself():
    index = np.ones((12, 4), np.float32)  # more copies than neighbours asked for
    ids, _ = nearest(index, index, 5, leave_one_out=True)
    assert not (ids == np.arange(12)[:, None]).any() and (ids >= 0).all()


def test_queries_that_are_some_rows_of_the_index_do_not_find_themselves():
    index = np.random.default_rng(3).normal(size=(2000, 4)).astype(np.float32)
    rows = np.random.default_rng(4).permutation(2000)[:1500]  # more than are ranked at a time
    itself = np.where(np.arange(1500) % 3, rows, -1)  # every third is none of them, and finds its twin
    ids, distances = nearest(index[rows], index, 5, itself)
    every = [np.lexsort((np.arange(2000), np.linalg.norm(index - index[row], axis=1))).tolist() for row in rows[:50]]
    for number, order in enumerate(every):
        assert ids[number].tolist() == [row for row in order if row != itself[number]][:5]
    assert (distances[::3, 0] == 0).all() and (distances[itself >= 0, 0] > 0).all()


def test_a_small_index_leaves_ranks_empty():
    ids, distances = nearest(np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32), 5, leave_one_out=False)
    assert ids.tolist() == [[0, 1, -1, -1, -1]] * 2 and np.isinf(distances[:, 2:]).all()


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_leaving_one_out_of_a_small_index_leaves_a_rank_empty(rows):
    index = np.arange(rows, dtype=np.float32)[:, None] ** 2
    ids, distances = nearest(index, index, 5, leave_one_out=True)
    expected = slow_nearest(index, index, 5, leave_one_out=True)
    assert np.array_equal(ids[:, : rows - 1], expected) and (ids[:, rows - 1 :] == -1).all()
    assert np.isfinite(distances[:, : rows - 1]).all() and np.isinf(distances[:, rows - 1 :]).all()


@pytest.fixture
def expanded_square(monkeypatch):
    """faiss expands the square for many queries only; here for one, too."""
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 1)


def test_near_duplicates_are_ranked_by_their_true_distance(expanded_square):
    base = np.full((1, 64), 0.125, np.float32)
    index = np.concatenate([base + 1e-5 * step for step in (5, 3, 1, 4, 2)])
    ids, _ = nearest(base, index, 5)
    assert ids.tolist() == [[2, 4, 1, 3, 0]]


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_near_duplicates_beyond_k_are_fetched_and_ranked_too(leave_one_out, expanded_square):
    """The expanded square in float32 does not tell a cluster's rows apart: faiss's first k are any k of them."""
    cluster = 8 + leave_one_out
    centers = np.repeat(np.eye(64)[:4], cluster, axis=0)
    index = (centers + 1e-5 * np.random.default_rng(2).normal(size=centers.shape)).astype(np.float32)
    ids, _ = nearest(index, index, 5, leave_one_out)
    assert np.array_equal(ids, slow_nearest(index, index, 5, leave_one_out))
