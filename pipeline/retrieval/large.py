"""Exact search by inner product over vectors that do not fit into memory, block after block.

A matrix product finds the candidates of a block, with a slack for its rounding; each candidate is then measured again
in float64 and rounded to float32 once. The result does not depend on the blocks, and equal vectors tie. It is exact for
the vectors given: over vectors stored as int8, for what int8 kept of them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadInput

PAIRS = 1 << 22  # inner products held at a time: 16 MB, which a processor's cache takes
VALUES = 1 << 20  # float64 numbers of each side of the products that are measured again at a time
QUERIES = 4096  # whose inner products are held at a time
MOST_ROWS = 2**32 - 1
EMPTY = np.uint64(2**64 - 1)  # the key of no row, behind all others

Block = tuple[int, np.ndarray]  # the first row's number, float32 [n, D]


class Neighbours(NamedTuple):
    """What Q queries find, the most similar first, ties by the smaller row."""

    rows: np.ndarray  # int64 [Q, k]; -1 for none
    similarities: np.ndarray  # float32 [Q, k], falling; -inf for none


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
        k neighbours a query. Raises BadInput: a vector is not finite, or its width is not the queries'.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    lengths = _lengths(queries, "query")
    best = np.full((len(queries), k), EMPTY) if so_far is None else _keys(*so_far)
    for first, block in blocks:
        block = np.ascontiguousarray(block, np.float32)
        if block.shape[1] != queries.shape[1]:
            raise BadInput(f"expected vectors as wide as the queries, {queries.shape[1]}, got {block.shape[1]}")
        if first + len(block) > MOST_ROWS:
            raise BadInput(f"expected at most {MOST_ROWS:,} vectors in one search: search in parts")
        # Of a sum of D products, each of them rounded: Higham, Accuracy and Stability of Numerical Algorithms, 3.1.
        slack = lengths * _lengths(block, "row", first).max(initial=0) * (queries.shape[1] + 2) * 2.0**-23
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            excluded = None if exclude is None else exclude[part] - first
            _search(queries[part], block, first, slack[part], excluded, best[part])
    return _neighbours(best)


def _search(
    queries: np.ndarray, block: np.ndarray, first: int, slack: np.ndarray, excluded: np.ndarray | None, best: np.ndarray
) -> None:
    """Puts a block's rows among the best so far, in place.

    Args:
        slack: float32 [Q], by which a product of matrices may err. excluded: int64 [Q], rows of the block, or others.
        best: uint64 [Q, k], keys.
    """
    k = best.shape[1]
    step = max(1, PAIRS // len(queries))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(block), step):
        near = queries @ block[start : start + step].T  # [Q, T]
        if excluded is not None:
            own = excluded - start
            here = np.flatnonzero((own >= 0) & (own < near.shape[1]))
            near[here, own[here]] = -np.inf
        # Never -inf, which would let the excluded in.
        least = np.maximum(_neighbours(best[:, -1])[1] - slack, np.finfo(np.float32).min)
        enough = near >= least[:, None]
        if k < near.shape[1] and np.count_nonzero(enough) > 2 * k * len(queries):  # as in the first block
            kth = np.partition(near, near.shape[1] - k, axis=1)[:, near.shape[1] - k]
            enough &= near >= (kth - 2 * slack)[:, None]
        of_queries, of_rows = np.divmod(np.flatnonzero(enough), near.shape[1])
        found.append((of_queries, of_rows + start))
        if start + step >= len(block) or sum(len(each) for each, _ in found) > k * len(queries):
            of_queries, of_rows = (np.concatenate(each) for each in zip(*found, strict=True))
            measured = _inner_products(queries, block, of_queries, of_rows)
            _merge(best, of_queries, _keys(of_rows + first, measured))
            found = []


def _inner_products(queries: np.ndarray, block: np.ndarray, of_queries: np.ndarray, of_rows: np.ndarray) -> np.ndarray:
    """float32 [P], of each pair by float64: rounded once."""
    products = np.empty(len(of_queries), np.float32)
    step = max(1, VALUES // queries.shape[1])
    for start in range(0, len(products), step):
        part = slice(start, start + step)
        left, right = queries[of_queries[part]].astype(np.float64), block[of_rows[part]].astype(np.float64)
        products[part] = np.einsum("pd,pd->p", left, right)
    return products


def _merge(best: np.ndarray, of_queries: np.ndarray, keys: np.ndarray) -> None:
    """Puts candidates among the best so far, in place: a candidate a query and key, [P]."""
    k = best.shape[1]
    order = np.argsort(of_queries, kind="stable")
    of_queries, keys = of_queries[order], keys[order]
    touched, starts, counts = np.unique(of_queries, return_index=True, return_counts=True)
    place = np.arange(len(keys)) - np.repeat(starts, counts)  # of each among the candidates of its query
    for begun in range(0, int(counts.max(initial=0)), 2 * k):  # as many of each query at a time: one may have all
        now = (place >= begun) & (place < begun + 2 * k)
        some = counts > begun
        new = np.full((some.sum(), min(2 * k, int(counts.max()) - begun)), EMPTY)
        new[np.searchsorted(touched[some], of_queries[now]), place[now] - begun] = keys[now]
        merged = np.concatenate([best[touched[some]], new], axis=1)
        best[touched[some]] = np.sort(merged, axis=1)[:, :k]


def _keys(rows: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Numbers that sort by falling similarity, then by row, uint64: faster than a sort by two columns."""
    bits = (similarities + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0, which it equals
    falling = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF))
    keys = falling.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64) & np.uint64(0xFFFFFFFF)
    return np.where(rows < 0, EMPTY, keys)


def _neighbours(keys: np.ndarray) -> Neighbours:
    """What `_keys` was made of; -1 and -inf of EMPTY."""
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(falling >> 31, falling, ~falling & np.uint32(0x7FFFFFFF))
    none = keys == EMPTY
    rows = np.where(none, -1, (keys & np.uint64(0xFFFFFFFF)).astype(np.int64))
    return Neighbours(rows, np.where(none, np.float32(-np.inf), bits.view(np.float32)))


def _lengths(vectors: np.ndarray, what: str, first: int = 0) -> np.ndarray:
    """float32 [N], of finite vectors."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    if not np.isfinite(lengths).all():
        raise BadInput(f"{what} {first + int(np.argmin(np.isfinite(lengths)))} is not finite, or longer than float32")
    return lengths
