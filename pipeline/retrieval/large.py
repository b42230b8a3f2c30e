"""Exact search by inner product over vectors that do not fit into memory, block after block.

A matrix product finds the candidates of a block, with a slack for its rounding; each candidate is then measured again
in float64 and rounded to float32 once. The result does not depend on the blocks, and equal vectors tie. It is exact for
the vectors given: over vectors stored as int8, for what int8 kept of them.
"""

from collections.abc import Iterable

import numpy as np

from pipeline.errors import BadInput

PAIRS = 1 << 24  # inner products held at a time: 64 MB
QUERIES = 4096  # whose inner products are held at a time

Block = tuple[int, np.ndarray]  # the first row's number, float32 [n, D]
Neighbours = tuple[np.ndarray, np.ndarray]  # rows int64 [Q, k], similarities float32 [Q, k]


def most_similar(
    queries: np.ndarray,
    blocks: Iterable[Block],
    k: int,
    exclude: np.ndarray | None = None,
    so_far: Neighbours | None = None,
) -> Neighbours:
    """The k rows of the largest inner product with each query.

    >>> rows, similarities = most_similar(np.eye(2), [(0, np.eye(2)), (2, np.eye(2))], 3)
    >>> rows.tolist(), similarities.tolist()
    ([[0, 2, 1], [1, 3, 0]], [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])

    Args:
        queries: float32 [Q, D].
        blocks: in any order, read once; of one block at a time memory holds what the iterator does.
        k: neighbours a query, at least 1.
        exclude: int64 [Q], a row that the query does not find; -1 for none.
        so_far: what a search over other rows has found: it goes on from there.

    Returns:
        (rows int64 [Q, k], similarities float32 [Q, k]), the most similar first, ties by the smaller row; where there
        are fewer than k rows, -1 and -inf. Raises BadInput: a vector is not finite, or its width is not the queries'.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    lengths = _lengths(queries, "query")
    if so_far is None:
        so_far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    rows, similarities = (each.copy() for each in so_far)
    for first, block in blocks:
        block = np.ascontiguousarray(block, np.float32)
        if block.shape[1] != queries.shape[1]:
            raise BadInput(f"expected vectors as wide as the queries, {queries.shape[1]}, got {block.shape[1]}")
        # Of a sum of D products, each of them rounded: Higham, Accuracy and Stability of Numerical Algorithms, 3.1.
        slack = lengths * _lengths(block, "row", first).max(initial=0) * (queries.shape[1] + 2) * 2.0**-23
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            excluded = None if exclude is None else exclude[part] - first
            _search(queries[part], block, first, slack[part], excluded, rows[part], similarities[part])
    return rows, similarities


def _search(
    queries: np.ndarray,
    block: np.ndarray,
    first: int,
    slack: np.ndarray,
    excluded: np.ndarray | None,
    rows: np.ndarray,
    similarities: np.ndarray,
) -> None:
    """Puts a block's rows among the best so far, in place.

    slack: float32 [Q], by which a product of matrices may err. excluded: int64 [Q], rows of the block, or others.
    """
    k = rows.shape[1]
    step = max(1, PAIRS // len(queries))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(block), step):
        near = queries @ block[start : start + step].T  # [Q, T]
        if excluded is not None:
            own = excluded - start
            here = np.flatnonzero((own >= 0) & (own < near.shape[1]))
            near[here, own[here]] = -np.inf
        # Never -inf, which would let the excluded in.
        least = np.maximum(similarities[:, -1] - slack, np.finfo(np.float32).min)
        enough = near >= least[:, None]
        if k < near.shape[1] and np.count_nonzero(enough) > 2 * k * len(queries):  # as in the first block
            kth = np.partition(near, near.shape[1] - k, axis=1)[:, near.shape[1] - k]
            enough &= near >= (kth - 2 * slack)[:, None]
        of_queries, of_rows = np.nonzero(enough)
        found.append((of_queries, of_rows + start))
        last = start + step >= len(block)
        if last or sum(len(each) for each, _ in found) > k * len(queries):
            of_queries, of_rows = (np.concatenate(each) for each in zip(*found, strict=True))
            measured = _inner_products(queries, block, of_queries, of_rows)
            _merge(rows, similarities, of_queries, of_rows + first, measured)
            found = []


def _inner_products(queries: np.ndarray, block: np.ndarray, of_queries: np.ndarray, of_rows: np.ndarray) -> np.ndarray:
    """float32 [P], of each pair by float64: rounded once."""
    products = np.empty(len(of_queries), np.float32)
    step = max(1, PAIRS // 16 // queries.shape[1])
    for start in range(0, len(products), step):
        part = slice(start, start + step)
        left, right = queries[of_queries[part]].astype(np.float64), block[of_rows[part]].astype(np.float64)
        products[part] = np.einsum("pd,pd->p", left, right)
    return products


def _merge(
    rows: np.ndarray, similarities: np.ndarray, of_queries: np.ndarray, new_rows: np.ndarray, measured: np.ndarray
) -> None:
    """Puts candidates among the best so far, in place. of_queries, new_rows, measured: [P], candidate by candidate."""
    k = rows.shape[1]
    touched, places = np.unique(of_queries, return_inverse=True)
    owner = np.concatenate([np.repeat(np.arange(len(touched)), k), places])
    row = np.concatenate([rows[touched].ravel(), new_rows])
    similarity = np.concatenate([similarities[touched].ravel(), measured])
    order = np.lexsort((row, -similarity, owner))
    starts = np.searchsorted(owner[order], np.arange(len(touched)))
    best = order[starts[:, None] + np.arange(k)]  # [touched, k]: each has the k that it had, at least
    rows[touched], similarities[touched] = row[best], similarity[best]


def _lengths(vectors: np.ndarray, what: str, first: int = 0) -> np.ndarray:
    """float32 [N], of finite vectors."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    if not np.isfinite(lengths).all():
        raise BadInput(f"{what} {first + int(np.argmin(np.isfinite(lengths)))} is not finite, or longer than float32")
    return lengths
