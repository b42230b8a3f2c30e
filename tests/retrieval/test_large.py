"""Search over blocks against sorting every inner product."""

import numpy as np
import pytest

from pipeline.errors import BadInput
from pipeline.retrieval import large
from pipeline.retrieval.large import most_similar


def slow_most_similar(queries, vectors, k, exclude=None):
    """By Python's sort of every float64 inner product, rounded to float32."""
    rows, similarities = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    for number, query in enumerate(queries.astype(np.float64)):
        near = np.array([np.float32(sum(query * each)) for each in vectors.astype(np.float64)])
        order = sorted(range(len(vectors)), key=lambda row: (-near[row], row))
        order = [row for row in order if exclude is None or row != exclude[number]][:k]
        rows[number, : len(order)], similarities[number, : len(order)] = order, near[order]
    return rows, similarities


def in_blocks(vectors, *sizes):
    start = 0
    while start < len(vectors):
        for size in sizes:
            yield start, vectors[start : start + size]
            start += size


def drawn(rows, width, seed, values=None):
    """Unit vectors, or vectors of few values: then most similarities stand many times."""
    random = np.random.default_rng(seed)
    if values:
        return random.integers(-values, values + 1, (rows, width)).astype(np.float32)
    made = random.normal(size=(rows, width)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("values", [None, 1, 2])
@pytest.mark.parametrize("sizes", [(1000,), (7, 1, 64), (333,)])
@pytest.mark.parametrize("pairs", [1 << 22, 600])  # 600: a few rows of a block at a time
def test_the_most_similar_are_those_of_a_full_sort(monkeypatch, values, sizes, pairs):
    monkeypatch.setattr(large, "PAIRS", pairs)
    monkeypatch.setattr(large, "QUERIES", 16)
    queries, vectors = drawn(40, 8, 1, values), drawn(700, 8, 2, values)
    exclude = np.where(np.arange(40) % 2, np.arange(40) * 17, -1)
    for excluded in (None, exclude):
        rows, similarities = most_similar(queries, in_blocks(vectors, *sizes), 25, excluded)
        expected = slow_most_similar(queries, vectors, 25, excluded)
        assert np.array_equal(rows, expected[0]) and np.array_equal(similarities, expected[1])


def test_blocks_in_any_order_and_rising_similarities_give_the_same():
    queries = drawn(5, 6, 3)
    vectors = drawn(500, 6, 4)
    vectors = vectors[np.argsort(vectors @ queries[0])]  # each block is better than all before it
    expected = most_similar(queries, [(0, vectors)], 30)
    blocks = list(in_blocks(vectors, 50))
    for order in (blocks, blocks[::-1], [*blocks[5:], *blocks[:5]]):
        found = most_similar(queries, order, 30)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def test_a_search_goes_on_over_further_rows():
    queries, vectors = drawn(8, 4, 11, 2), drawn(900, 4, 12, 2)
    blocks = list(in_blocks(vectors, 100))
    before = most_similar(queries, blocks[:4], 40)
    kept = [each.copy() for each in before]
    found = most_similar(queries, blocks[4:], 40, so_far=before)
    expected = most_similar(queries, blocks, 40)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    assert all(np.array_equal(*each) for each in zip(before, kept, strict=True))  # and is not changed by it


def test_more_copies_than_neighbours_go_by_the_smaller_row():
    vectors = np.repeat(drawn(3, 5, 5), 400, axis=0)
    rows, similarities = most_similar(vectors[:1], in_blocks(vectors[::-1], 100), 10)
    assert rows.tolist() == [list(range(800, 810))] and len(set(similarities[0].tolist())) == 1


def test_equal_vectors_tie_wherever_they_stand_in_a_block():
    vector = drawn(1, 512, 6)
    vectors = drawn(301, 512, 7)
    vectors[::10] = vector
    _, similarities = most_similar(drawn(9, 512, 8), in_blocks(vectors, 37), 301)
    for row in similarities:
        assert np.sort(np.unique(row, return_counts=True)[1])[-1] == 31


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_what_is_stored_narrower_is_searched_exactly_as_stored(dtype):
    vectors, queries = drawn(400, 16, 9), drawn(12, 16, 10)
    scale = np.abs(vectors).max(axis=0) / 127 if dtype is np.int8 else np.float32(1)
    stored = np.round(vectors / scale).astype(dtype) if dtype is np.int8 else vectors.astype(dtype)
    blocks = ((start, block.astype(np.float32) * scale) for start, block in in_blocks(stored, 90))
    rows, similarities = most_similar(queries, blocks, 20)
    expected = slow_most_similar(queries, stored.astype(np.float32) * scale, 20)
    assert np.array_equal(rows, expected[0]) and np.array_equal(similarities, expected[1])
    assert not np.array_equal(similarities, slow_most_similar(queries, vectors, 20)[1])  # it is not that of float32


def test_fewer_rows_than_neighbours_leave_ranks_empty():
    rows, similarities = most_similar(np.eye(2), [(0, np.eye(2)[:1])], 3, np.array([0, -1]))
    assert rows.tolist() == [[-1, -1, -1], [0, -1, -1]] and np.isneginf(similarities[0]).all()
    rows, similarities = most_similar(np.eye(2), [], 2)
    assert (rows == -1).all() and np.isneginf(similarities).all()
    assert most_similar(np.zeros((0, 2)), [(0, np.eye(2))], 2)[0].shape == (0, 2)


def test_long_vectors_are_ranked_by_the_product_not_by_the_angle():
    vectors = np.array([[1, 0], [3, 3], [0, 9]], np.float32)
    assert most_similar(np.array([[1, 0]]), [(0, vectors)], 3)[0].tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value):
    vectors = np.ones((8, 3), np.float32)
    vectors[5, 1] = value
    with pytest.raises(BadInput, match="row 15 is not finite"):
        most_similar(np.eye(3), [(10, vectors)], 2)
    with pytest.raises(BadInput, match="query 5 is not finite"):
        most_similar(vectors, [(0, np.eye(3))], 2)


def test_another_width_is_named():
    with pytest.raises(BadInput, match="as wide as the queries, 3, got 4"):
        most_similar(np.eye(3), [(0, np.eye(4))], 2)
