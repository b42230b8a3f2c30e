"""Exact nearest neighbours by Euclidean distance, in bounded memory: faiss's flat search, its order settled exactly."""

import faiss
import numpy as np

SPARE_NEIGHBOURS = 3  # fetched beyond k, so that near-ties which float32 ranks wrongly are put right
ROWS = 1024  # queries whose neighbours are re-ranked at a time


def nearest(
    queries: np.ndarray, index: np.ndarray, k: int, leave_one_out: bool | np.ndarray = False
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest index rows of every query.

    Args:
        queries: float32 [Q, D]. index: float32 [N, D].
        k: neighbours a query.
        leave_one_out: `queries` is `index` itself, and no row finds itself; or int [Q], the row of `index` that each
            query is and does not find, -1 for a query that is none of them.

    Returns:
        (ids int64 [Q, k], distances float32 [Q, k]), nearest first, ties by the smaller id; where the index has fewer
        than k rows, ids are -1 and distances inf. Euclidean distance, not its square.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    index = np.ascontiguousarray(index, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    itself: np.ndarray | None = np.arange(len(queries)) if leave_one_out is True else None
    if isinstance(leave_one_out, np.ndarray):
        itself = leave_one_out
    wanted = min(k + SPARE_NEIGHBOURS + (itself is not None), len(index))
    if not wanted or not len(queries):
        return ids, distances
    _, candidates = faiss.knn(queries, index, wanted)  # [Q, wanted]; faiss blocks the distances itself
    for start in range(0, len(queries), ROWS):
        block, found = queries[start : start + ROWS], candidates[start : start + ROWS]  # [R, D], [R, wanted]
        # faiss expands the square, which loses digits where neighbours are near: measure again by the difference.
        exact = np.linalg.norm(block[:, None, :] - index[found], axis=2)  # [R, wanted]
        if itself is not None:
            exact[found == itself[start : start + ROWS, None]] = np.inf
        order = np.lexsort((found, exact), axis=1)[:, :k]
        kept = order.shape[1]
        distances[start : start + ROWS, :kept] = np.take_along_axis(exact, order, axis=1)
        ids[start : start + ROWS, :kept] = np.take_along_axis(found, order, axis=1)
    ids[np.isinf(distances)] = -1
    return ids, distances
