"""Vectors and their classes → the precision@5 of every query: search and metric together."""

import numpy as np

from pipeline.retrieval.metrics import neighbour_hits, precision_at_5
from pipeline.retrieval.search import nearest

Labelled = tuple[np.ndarray, np.ndarray]  # vectors float [N, D] and their classes int [N]


def precisions(index: Labelled, queries: Labelled | None = None) -> np.ndarray:
    """float64 [Q]; without `queries` every row of the index queries all others (leave-one-out).

    >>> precisions((np.array([[0.0], [1.0], [9.0]]), np.array([4, 4, 5]))).tolist()
    [1.0, 1.0, 0.0]
    """
    leave_one_out = queries is None
    (vectors, labels), (query_vectors, query_labels) = index, index if queries is None else queries
    neighbours, _ = nearest(query_vectors, vectors, 5, leave_one_out)
    return precision_at_5(*neighbour_hits(neighbours, labels, query_labels, leave_one_out))
