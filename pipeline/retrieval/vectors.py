"""Vectors as NumPy rows: unit length, means of classes."""

import numpy as np


def unit_length(rows: np.ndarray) -> np.ndarray:
    """float [N, D] → the same dtype, each row divided by its Euclidean length; a row of zeros stays zeros.

    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def class_means(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of each class's rows.

    >>> class_means(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), np.array([0, 0, 1])).tolist()
    [[2.0, 0.0], [0.0, 2.0]]

    Args:
        rows: float [N, D]. labels: int [N], 0 … C−1, every class present.

    Returns:
        float64 [C, D].
    """
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, labels, rows)
    return sums / counts[:, None]
