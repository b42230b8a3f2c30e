"""What is computed once of a gallery, in a thread of its own: queries that fail, outliers, near-duplicates, the map.

A page that needs one asks `Once.get`, and says how far it is.
"""

import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from pipeline.browsing.gallery import Gallery
from pipeline.retrieval.metrics import neighbour_hits, precision_at_5
from pipeline.retrieval.projection import plane
from pipeline.retrieval.search import nearest

NEIGHBOURS, ROWS = 5, 4096  # of each image; images a step
MOST_PAIRS = 1000
Result = TypeVar("Result")


class Once(Generic[Result]):
    """A value that a thread computes when it is first asked for."""

    def __init__(self, compute: Callable[[Callable[[float], None]], Result]):
        """`compute` is given a function to tell its progress to, 0 … 1."""
        self._compute, self._lock, self._thread = compute, threading.Lock(), threading.Thread(target=self._run)
        self._thread.daemon = True  # the server ends without waiting for it
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._begun = False
        self.progress = 0.0

    def get(self, patience: float = 0.5) -> Result | None:
        """The value, or None where it is not there within `patience` seconds. Raises what the computation raised."""
        with self._lock:
            if not self._begun:
                self._begun = True
                self._thread.start()
        self._thread.join(patience)
        if self._error is not None:
            raise self._error
        return self._result[0] if self._result else None

    def _run(self) -> None:
        try:
            self._result.append(self._compute(self._tell))
        except BaseException as error:
            self._error = error

    def _tell(self, progress: float) -> None:
        self.progress = progress


class Findings(NamedTuple):
    """Orders of a gallery's images, the most telling first, and the number that each goes by."""

    precisions: np.ndarray  # float64 [N], P@5 of each image as a query; NaN where its class has no other to be found
    wrong: np.ndarray  # int64, rows of queries with a wrong neighbour: by P@5, then the nearer the wrong one the sooner
    own: np.ndarray  # float32 [N], distance to the nearest of its own class; inf where there is none
    outliers: np.ndarray  # int64, rows that have another of their class: the farther from it the sooner
    pairs: list[tuple[int, int, float]]  # (row, row, distance) of the nearest pairs, at most MOST_PAIRS


def find(gallery: Gallery, tell: Callable[[float], None] = lambda progress: None) -> Findings:
    """Searches the neighbours of every image once; `tell` hears the share that is done."""
    count = len(gallery.keys)
    places, distances = np.empty((count, NEIGHBOURS), np.int64), np.empty((count, NEIGHBOURS), np.float32)
    for start in range(0, count, ROWS):
        rows = slice(start, start + ROWS)
        itself = gallery.places[rows]
        places[rows], distances[rows] = nearest(gallery.vectors[rows], gallery.index_vectors, NEIGHBOURS, itself)
        tell(0.8 * min(start + ROWS, count) / count)
    ids = np.where(places >= 0, gallery.index[places], -1)
    hits, matches = neighbour_hits(places, gallery.labels[gallery.index], gallery.labels, False)
    matches -= gallery.places >= 0  # itself
    is_query = np.full(count, not len(gallery.queries))
    is_query[gallery.queries] = True
    precisions = np.where(is_query & (matches > 0), precision_at_5(hits, matches), np.nan)
    wrong = (ids >= 0) & ~hits & (np.arange(NEIGHBOURS)[None] < np.maximum(matches, 1)[:, None])
    nearest_wrong = np.where(wrong, distances, np.inf).min(axis=1)
    failed = np.flatnonzero(precisions < 1)
    own = _own_class(gallery, tell)
    mates = np.flatnonzero(np.isfinite(own))
    return Findings(
        precisions=precisions,
        wrong=failed[np.lexsort((failed, nearest_wrong[failed], precisions[failed]))],
        own=own,
        outliers=mates[np.lexsort((mates, -own[mates]))],
        pairs=_pairs(ids, distances),
    )


def _own_class(gallery: Gallery, tell: Callable[[float], None]) -> np.ndarray:
    """float32 [N]: the distance of each image to the nearest other of its class in the index; inf where none is."""
    found = np.full(len(gallery.keys), np.inf, np.float32)
    order = np.argsort(gallery.labels, kind="stable")
    starts = np.searchsorted(gallery.labels[order], np.arange(len(gallery.classes) + 1))
    for label in range(len(gallery.classes)):
        rows = order[starts[label] : starts[label + 1]]
        is_mate = gallery.places[rows] >= 0
        if is_mate.any():
            itself = np.where(is_mate, np.cumsum(is_mate) - 1, -1)
            _, distances = nearest(gallery.vectors[rows], gallery.vectors[rows[is_mate]], 1, itself)
            found[rows] = distances[:, 0]
        tell(0.8 + 0.2 * (label + 1) / len(gallery.classes))
    return found


def _pairs(ids: np.ndarray, distances: np.ndarray) -> list[tuple[int, int, float]]:
    first = np.repeat(np.arange(len(ids)), ids.shape[1])
    second, far = ids.ravel(), distances.ravel()
    there = second >= 0
    low, high, far = np.minimum(first, second)[there], np.maximum(first, second)[there], far[there]
    _, once = np.unique(low * (len(ids) + 1) + high, return_index=True)
    order = once[np.lexsort((high[once], low[once], far[once]))][:MOST_PAIRS]
    return [(int(low[each]), int(high[each]), float(far[each])) for each in order]


def layout(gallery: Gallery, method: str, tell: Callable[[float], None]) -> np.ndarray:
    """float32 [N, 2], the map."""
    return plane(gallery.vectors, method)
