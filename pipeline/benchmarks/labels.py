"""Classes of images as numbers, and which neighbours are hits. An image may have several classes: any in common is one.

NumPy alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfrecords.listing.items import NO_CLASS

Numbers = dict[tuple[str, str], int]  # (domain, class) → number; grows. Classes of two domains differ.
NOTHING = -1  # number of NO_CLASS: an image that matches nothing, not even its like


@dataclass(frozen=True)
class Labels:
    """The classes of N images."""

    first: np.ndarray  # int64 [N]
    all: dict[int, tuple[int, ...]]  # row → all its classes, of the rows that have several

    def __len__(self) -> int:
        return len(self.first)

    def part(self, rows: slice) -> "Labels":
        """Some of them, from a start to a stop."""
        start, stop, _ = rows.indices(len(self))
        several = {row - start: found for row, found in self.all.items() if start <= row < stop}
        return Labels(self.first[rows], several)

    def of(self, row: int) -> tuple[int, ...]:
        return self.all.get(row, (int(self.first[row]),))


def numbered(domain: str, classes: Iterable[Sequence[str]], numbers: Numbers) -> Labels:
    """Labels of images by their classes, the first one first; the same class twice is one, NO_CLASS is NOTHING.

    >>> numbers: Numbers = {}
    >>> labels = numbered("cars", [["3"], ["4", "3"], ["3", "3"]], numbers)
    >>> labels.first.tolist(), labels.all, numbers
    ([0, 1, 0], {1: (1, 0)}, {('cars', '3'): 0, ('cars', '4'): 1})
    """
    first: list[int] = []
    several: dict[int, tuple[int, ...]] = {}
    for row, names in enumerate(classes):
        found = tuple(
            dict.fromkeys(
                NOTHING if name == NO_CLASS else numbers.setdefault((domain, name), len(numbers)) for name in names
            )
        )
        first.append(found[0])
        if len(found) > 1:
            several[row] = found
    return Labels(np.array(first, np.int64), several)


def joined(parts: Sequence[Labels]) -> Labels:
    """Several index parts one after another."""
    starts = np.cumsum([0, *(len(each) for each in parts)])
    several = {
        int(start) + row: found for start, each in zip(starts, parts, strict=False) for row, found in each.all.items()
    }
    return Labels(np.concatenate([each.first for each in parts] or [np.zeros(0, np.int64)]), several)


def matches(queries: Labels, index: Labels) -> np.ndarray:
    """n_q, int64 [Q]: the index's images that have a class in common with the query; the query itself counts, too."""
    several = list(index.all.items())
    single = np.ones(len(index), bool)
    single[[row for row, _ in several]] = False
    ordered = np.sort(index.first[single])
    found = np.searchsorted(ordered, queries.first, "right") - np.searchsorted(ordered, queries.first, "left")
    if queries.all:
        counts = Counter(ordered.tolist())
        for row, classes in queries.all.items():
            found[row] = sum(counts[each] for each in classes)
    if several:
        holders: dict[int, set[int]] = {}  # class → rows that have it among several
        for row, classes in several:
            for each in classes:
                holders.setdefault(each, set()).add(row)
        for row in range(len(queries)):
            found[row] += len(set().union(*(holders.get(each, ()) for each in queries.of(row))))
    return np.where(queries.first == NOTHING, 0, found).astype(np.int64)


def hits(neighbours: np.ndarray, queries: Labels, index: Labels) -> np.ndarray:
    """bool [Q, k], whether a neighbour has a class in common with the query.

    `neighbours`: int64 [Q, k], rows of the index, -1 for none.
    """
    found = np.zeros(neighbours.shape, bool)
    if not len(index):
        return found
    there = neighbours >= 0
    rows = np.maximum(neighbours, 0)
    found = (index.first[rows] == queries.first[:, None]) & there
    for row, classes in queries.all.items():
        found[row] = np.isin(index.first[rows[row]], classes) & there[row]
    if index.all:
        several = np.array(sorted(index.all), np.int64)
        for row, place in np.argwhere(np.isin(neighbours, several)).tolist():
            found[row, place] = not set(queries.of(row)).isdisjoint(index.all[int(neighbours[row, place])])
    found[queries.first == NOTHING] = False
    return found


def without(neighbours: np.ndarray, itself: np.ndarray) -> np.ndarray:
    """Neighbours without the query itself: int64 [Q, k + 1] → [Q, k], the order of the others kept.

    `itself`: int64 [Q], the query's row of the index, -1 where it is not in there.

    >>> without(np.array([[7, 1, 2], [3, 4, 5]]), np.array([1, 9])).tolist()
    [[7, 2], [3, 4]]
    """
    own = neighbours == itself[:, None]
    own[~own.any(axis=1), -1] = True  # not among them: the last is one too many
    return neighbours[~own].reshape(len(neighbours), -1) if neighbours.size else neighbours[:, 1:]
