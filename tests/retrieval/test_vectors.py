"""Unit length and class means against a loop."""

import numpy as np
import pytest

from pipeline.retrieval.vectors import class_means, unit_length


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_get_length_one_whatever_their_length_was(dtype):
    lengths = np.array([1e-6, 0.3, 1.0, 1e6])
    rows = (np.random.default_rng(0).normal(size=(4, 9)) * lengths[:, None]).astype(dtype)
    unit = unit_length(rows)
    assert unit.dtype == dtype and np.allclose([np.sqrt((row * row).sum()) for row in unit], 1.0, atol=1e-6)
    assert np.allclose(unit * np.linalg.norm(rows, axis=1)[:, None], rows, rtol=1e-5)
    assert not unit_length(np.zeros((2, 3), dtype)).any()


def test_means_of_classes_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 4, 60)
    slow = [
        np.mean([row for row, label in zip(rows, labels, strict=True) if label == each], axis=0) for each in range(4)
    ]
    assert class_means(rows, labels).dtype == np.float64 and np.allclose(class_means(rows, labels), slow, atol=1e-6)
