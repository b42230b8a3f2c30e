"""ILIAS's metric as pure NumPy functions: mAP@1k, with ties counted as scikit-learn's average precision does.

Source: Kordopatis-Zilos et al., ILIAS: Instance-Level Image retrieval At Scale, CVPR 2025; ties and cuts as in the
authors' evaluation (ilias-vrg/ilias, `evaluation/src/dataset.py`).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

K = 1000


def average_precision(hits: np.ndarray, similarities: np.ndarray, matches: np.ndarray, k: int = K) -> np.ndarray:
    """AP over the first k, times the share of the findable that is found there:

        AP@k(q) = 1 / h(q) · Σ_{j=1..k} rel_q(j) · P_q(j)   ·   h(q) / min(k, n_q),   h(q) = hits among the first k

    P_q(j) is the precision at the last rank whose similarity is that of rank j: of a tie, no order is better.

    >>> average_precision(np.array([[True, False, True]]), np.array([[0.9, 0.8, 0.7]]), np.array([2])).round(4).tolist()
    [0.8333]
    >>> average_precision(np.array([[True, False]]), np.array([[0.9, 0.9]]), np.array([1])).tolist()
    [0.5]

    Args:
        hits: bool [Q, ≥1], whether the neighbour at a rank shows the query's object.
        similarities: float [Q, ≥1], falling; -inf where there are fewer neighbours.
        matches: int [Q], n_q, the positives of the query's object, whether or not the database has them.

    Returns:
        float64 [Q]; 0 for a query without matches.
    """
    hits, similarities = hits[:, :k], similarities[:, :k]
    ranks = np.arange(1, hits.shape[1] + 1)
    precision = np.cumsum(hits, axis=1) / ranks
    ends = np.ones(hits.shape, bool)
    ends[:, :-1] = similarities[:, 1:] != similarities[:, :-1]
    last = np.where(ends, ranks - 1, hits.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]  # of each rank, where its tie ends
    found = (hits * np.take_along_axis(precision, last, axis=1)).sum(axis=1)
    return found / np.maximum(np.minimum(matches, k), 1)


def oracle(hits: np.ndarray, matches: np.ndarray, k: int = K) -> np.ndarray:
    """float64 [Q], the share of its positives that a query has among the first k: what re-ranking could reach."""
    return hits[:, :k].sum(axis=1) / np.maximum(matches, 1)


def grouped(
    values: np.ndarray,
    bounds: Sequence[float],
    places: np.ndarray,
    wanted: np.ndarray,
    similarities: np.ndarray,
    owners: Sequence[np.ndarray],
    k: int = K,
) -> dict[str, np.ndarray]:
    """AP over the positives of one group at a time, the object's others taken out of ranking and matches.

    Args:
        values: float [P], of each positive. bounds: of the groups, one more than there are; low ≤ value < high.
        places: int [Q, k], which positive stands at a rank; -1 for a distractor or none.
        wanted: bool [Q, k], whether it is one of the query's object. similarities: float [Q, k].
        owners: of each query, int [n_q]: which positives show its object.

    Returns:
        "low-high" → AP of the queries that have a positive in the group, float64 [≤Q]; no group without any.
    """
    found = {}
    for low, high in pairwise(bounds):
        inside = (values >= low) & (values < high)  # [P]
        scores = []
        for row, own in enumerate(owners):
            if matches := int(inside[own].sum()):
                kept = ~wanted[row] | inside[places[row]]
                part = wanted[row][None, kept], similarities[row][None, kept]
                scores.append(average_precision(*part, np.array([matches]), k)[0])
        if scores:
            found[f"{low:.3g}-{high:.3g}"] = np.array(scores)
    return found
