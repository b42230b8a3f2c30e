"""Orders of a gallery against an obvious second implementation, one image at a time."""

import threading

import numpy as np
import pytest

from pipeline.browsing import findings
from pipeline.browsing.findings import Once
from tests.browsing.drawn import random_gallery


def slowly(gallery):
    """P@5 and distance to the nearest of its class, of each image; the distances of all pairs of neighbours."""
    index = gallery.index.tolist()
    precisions, own, pairs = [], [], {}
    for row, vector in enumerate(gallery.vectors):
        far = {other: float(np.linalg.norm(gallery.vectors[other] - vector)) for other in index if other != row}
        order = sorted(far, key=lambda other: (far[other], other))
        mates = [other for other in far if gallery.labels[other] == gallery.labels[row]]
        counted = min(len(mates), 5)
        hits = sum(gallery.labels[other] == gallery.labels[row] for other in order[:counted])
        asked = not len(gallery.queries) or row in gallery.queries
        precisions.append(hits / counted if counted and asked else np.nan)
        own.append(min((far[other] for other in mates), default=np.inf))
        pairs |= {(min(row, other), max(row, other)): far[other] for other in order[:5]}
    return np.array(precisions), np.array(own), pairs


@pytest.mark.parametrize(("images", "classes", "queries"), [(60, 5, 0), (60, 40, 0), (50, 4, 20), (3, 3, 0), (1, 1, 0)])
def test_each_order_is_that_of_a_slow_search(images, classes, queries, monkeypatch):
    monkeypatch.setattr(findings, "ROWS", 7)
    gallery = random_gallery(images, classes, queries)
    told: list[float] = []
    found = findings.find(gallery, told.append)
    precisions, own, pairs = slowly(gallery)
    np.testing.assert_allclose(found.precisions, precisions)
    np.testing.assert_allclose(found.own, own, rtol=1e-6)
    assert set(found.wrong.tolist()) == set(np.flatnonzero(precisions < 1).tolist())
    assert (np.diff(precisions[found.wrong]) >= 0).all()
    assert (np.diff(own[found.outliers]) <= 1e-6).all() and len(found.outliers) == np.isfinite(own).sum()
    assert {(first, second): pytest.approx(far) for first, second, far in found.pairs} == pairs
    assert [far for *_, far in found.pairs] == sorted(far for *_, far in found.pairs)
    assert told == sorted(told) and told[-1] == pytest.approx(1)


def test_what_is_computed_once_is_not_waited_for():
    gate, calls = threading.Event(), []

    def compute(tell):
        calls.append(1)
        tell(0.25)
        gate.wait(10)
        return "done"

    once = Once(compute)
    assert once.get(0.05) is None and once.get(0) is None and once.progress == 0.25
    gate.set()
    assert once.get(10) == once.get() == "done" and calls == [1]


def test_an_error_of_the_thread_is_raised_where_it_is_asked_for():
    def compute(tell):
        raise ValueError("broken")

    once = Once(compute)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            once.get(10)
