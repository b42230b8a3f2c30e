"""Retrieval metrics as pure NumPy functions. mP@5 is the competition's; FACTS of other libraries differ from it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np


def precision_at_5(hits: np.ndarray, matches: np.ndarray, k: int = 5) -> np.ndarray:
    """Precision of each query, as the Google Universal Image Embedding competition counts it.

    For query q with n_q matching index images, only the first m = min(n_q, 5) predictions count:

        P@5(q) = (1 / m) · Σ_{j=1..m} rel_q(j)

    so a query with two matches, found at ranks 2 and 3, scores 1/2: rank 3 lies beyond m = 2.

    >>> precision_at_5(np.array([[False, True, True, False, False]]), np.array([2])).tolist()
    [0.5]
    >>> precision_at_5(np.array([[True, False, True, True, False]]), np.array([40])).tolist()
    [0.6]

    Args:
        hits: bool [Q, ≥k], whether the j-th nearest neighbour matches; a repeated prediction must be False from its
            second place on (see `hits_of_predictions`).
        matches: int [Q], n_q.
        k: 5 in the competition.

    Returns:
        float64 [Q]; 0 for a query without matches.

    Source: google-research `universal_embedding_challenge/metrics.py`.
    """
    counted = np.minimum(matches, k)[:, None]  # [Q, 1]
    within = np.arange(hits.shape[1])[None, :] < counted  # [Q, k]
    return (hits & within).sum(axis=1) / np.maximum(counted[:, 0], 1)


def mean_precision_at_5(hits: np.ndarray, matches: np.ndarray, k: int = 5) -> float:
    """Mean of `precision_at_5` over all queries, those without a match included (they score 0).

    >>> hits = np.array([[False, True, True, False, False], [True, True, True, True, True]])
    >>> mean_precision_at_5(hits, np.array([2, 9]))
    0.75

    Returns:
        0 … 1; 0.0 for no queries.
    """
    scores = precision_at_5(hits, matches, k)
    return float(scores.mean()) if len(scores) else 0.0


def map_at_k(hits: np.ndarray, matches: np.ndarray, k: int) -> float:
    """Mean of `average_precision_at_k` over all queries.

    >>> round(map_at_k(np.array([[True, False, True]]), np.array([2]), 3), 4)
    0.8333
    """
    scores = average_precision_at_k(hits, matches, k)
    return float(scores.mean()) if len(scores) else 0.0


def average_precision_at_k(hits: np.ndarray, matches: np.ndarray, k: int) -> np.ndarray:
    """Average precision of each query over the first k ranks, float64 [Q].

        AP@k(q) = (1 / min(n_q, k)) · Σ_{j=1..k} rel_q(j) · (Σ_{i≤j} rel_q(i)) / j

    >>> average_precision_at_k(np.array([[True, False, True], [False, True, False]]), np.array([1, 1]), 2).tolist()
    [1.0, 0.5]

    Args:
        hits: bool [Q, ≥k]. matches: int [Q], n_q; a query with none scores 0.
    """
    relevant = hits[:, :k].astype(np.float64)
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return (relevant * precision).sum(axis=1) / np.maximum(np.minimum(matches, k), 1)


def average_precision_at_r(hits: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Average precision of each query over its first R ranks, R = n_q: MAP@R of metric learning. float64 [Q].

        AP@R(q) = (1 / R) · Σ_{j=1..R} rel_q(j) · (Σ_{i≤j} rel_q(i)) / j

    >>> average_precision_at_r(np.array([[True, False, True]]), np.array([2])).tolist()
    [0.5]

    Args:
        hits: bool [Q, ≥max n_q]. matches: int [Q], n_q; a query with none scores 0.

    Source: Musgrave et al., A metric learning reality check, ECCV 2020.
    """
    within = np.arange(hits.shape[1])[None, :] < matches[:, None]  # [Q, k]
    return average_precision_at_k(hits & within, matches, max(hits.shape[1], 1))


def recall_at_k(hits: np.ndarray, k: int) -> float:
    """Share of queries with at least one match among the first k (the retrieval papers' R@k).

    >>> recall_at_k(np.array([[False, True], [False, False]]), 2)
    0.5
    """
    return float(hits[:, :k].any(axis=1).mean()) if len(hits) else 0.0


def neighbour_hits(
    neighbours: np.ndarray, index_labels: np.ndarray, query_labels: np.ndarray, leave_one_out: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Search result → (hits bool [Q, k], matches int64 [Q]).

    Args:
        neighbours: int64 [Q, k] rows of the index; -1 where the index holds fewer than k images.
        index_labels, query_labels: int64 [N], int64 [Q].
        leave_one_out: queries are the index itself, so each has one match fewer than its class has images.
    """
    hits = (index_labels[np.maximum(neighbours, 0)] == query_labels[:, None]) & (neighbours >= 0)
    ordered = np.sort(index_labels)
    matches = np.searchsorted(ordered, query_labels, "right") - np.searchsorted(ordered, query_labels, "left")
    return hits, matches.astype(np.int64) - int(leave_one_out)


def hits_of_predictions(
    predictions: Mapping[Any, Sequence[Hashable]], solution: Mapping[Any, Sequence[Hashable]], k: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and a solution by ids → (hits bool [Q, k], matches int64 [Q]), Q = queries of the solution.

    A prediction that stands twice counts once but uses its slot; a query without predictions has no hits. An id that
    stands twice in the solution counts twice in `matches`, as in the competition, and is found once.

    >>> hits, matches = hits_of_predictions({"q": ["a", "a", "b"]}, {"q": ["a", "b", "c"], "r": ["a"]})
    >>> hits[0].tolist(), hits[1].any().item(), matches.tolist()
    ([True, False, True, False, False], False, [3, 1])
    """
    hits = np.zeros((len(solution), k), dtype=bool)
    matches = np.zeros(len(solution), dtype=np.int64)
    for row, (query, expected) in enumerate(solution.items()):
        wanted, seen = set(expected), set[Hashable]()
        matches[row] = len(expected)
        for rank, prediction in enumerate(list(predictions.get(query, []))[:k]):
            hits[row, rank] = prediction in wanted and prediction not in seen
            seen.add(prediction)
    return hits, matches
