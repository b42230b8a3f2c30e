"""What the scored vectors show: the worst and the best queries, classes taken for each other, distances, classes.

Pure functions of `evaluation.scored.Scored`; no image is opened.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pipeline.evaluation import scored
from pipeline.evaluation.scored import Scored
from pipeline.retrieval.metrics import neighbour_hits, precision_at_5
from pipeline.retrieval.search import nearest

MOST_QUERIES = 20_000  # evenly chosen of more: a page needs no more, and the search stays under a minute
SHOWN_A_CLASS = 2  # queries of one class among the worst, or the best: else one class would fill the page


class ClassScore(NamedTuple):
    domain: str
    name: str
    precision: float  # mean precision@5 of its queries in the merged index
    queries: int


class Pair(NamedTuple):
    """Two classes whose images are near each other."""

    one: int  # labels
    other: int
    found: int  # images of `other` among those of the first five that count, of queries of `one`
    back: int
    query: int  # rows of `Scored`: an example, the nearest such pair
    neighbour: int


@dataclass(frozen=True)
class Inspected:
    """The five nearest of each query in the merged index."""

    scored: Scored
    queries: np.ndarray  # int64 [Q], rows of `scored`
    of: int  # so many queries there are; Q are looked at
    neighbours: np.ndarray  # int64 [Q, 5], rows of `scored`; -1 where the index is smaller
    distances: np.ndarray  # float32 [Q, 5]
    hits: np.ndarray  # bool [Q, 5]
    matches: np.ndarray  # int64 [Q], images of the query's class in the index

    @cached_property
    def precisions(self) -> np.ndarray:
        """float64 [Q]."""
        return precision_at_5(self.hits, self.matches)

    def worst(self, most: int) -> list[int]:
        """Positions of the queries with the least precision, among them those whose wrong neighbour is nearest.

        A query without an image of its class in the index has no right answer and is left out.
        """
        wrong = np.where(~self.hits & (self.neighbours >= 0), self.distances, np.inf).min(axis=1)
        order = np.lexsort((wrong, self.precisions))
        return self._spread([at for at in order.tolist() if self.matches[at] and self.precisions[at] < 1], most)

    def best(self, most: int) -> list[int]:
        """Positions of the queries with the greatest precision, among them those whose five are nearest."""
        near = np.where(np.isfinite(self.distances), self.distances, 0).mean(axis=1)
        order = np.lexsort((near, -self.precisions))
        return self._spread([at for at in order.tolist() if self.precisions[at] > 0], most)

    def _spread(self, order: Sequence[int], most: int) -> list[int]:
        """The first `most`, at most SHOWN_A_CLASS of a class as long as there are others; in order."""
        seen: Counter[int] = Counter()
        first: list[int] = []
        rest: list[int] = []
        for place, at in enumerate(order):
            label = int(self.scored.labels[self.queries[at]])
            seen[label] += 1
            (first if seen[label] <= SHOWN_A_CLASS else rest).append(place)
        return [order[place] for place in sorted((first + rest)[:most])]

    def classes(self) -> list[ClassScore]:
        """Every class of the queries, worst first."""
        labels = self.scored.labels[self.queries]
        found, first, of_query = np.unique(labels, return_index=True, return_inverse=True)
        counts = np.bincount(of_query, minlength=len(found))
        means = np.bincount(of_query, self.precisions, minlength=len(found)) / np.maximum(counts, 1)
        rows = self.queries[first].tolist()
        scores = [
            ClassScore(self.scored.domains[row], self.scored.classes[row], float(mean), int(count))
            for row, mean, count in zip(rows, means, counts, strict=True)
        ]
        return sorted(scores, key=lambda each: (each.precision, each.domain, each.name))

    def confused(self, most: int) -> list[Pair]:
        """The pairs of classes that are taken for each other most often, both ways counted together.

        Of a query with fewer than five matches only so many neighbours count, as for its precision: the next one cannot
        be right.
        """
        labels = self.scored.labels
        counts_for = np.arange(self.hits.shape[1]) < self.matches[:, None]
        wrong = ~self.hits & (self.neighbours >= 0) & counts_for
        at, rank = np.nonzero(wrong)
        ours, theirs = labels[self.queries[at]], labels[self.neighbours[at, rank]]
        counts: Counter[tuple[int, int]] = Counter(zip(ours.tolist(), theirs.tolist(), strict=True))
        nearest_of: dict[tuple[int, int], int] = {}  # the two classes → position in `at`
        for place in np.argsort(self.distances[at, rank], kind="stable")[::-1].tolist():
            nearest_of[_unordered(ours[place], theirs[place])] = place
        both = {pair: counts[pair] + counts[pair[::-1]] for pair in nearest_of}
        pairs = []
        for pair in sorted(both, key=lambda pair: (-both[pair], pair))[:most]:
            place = nearest_of[pair]
            query, neighbour = int(self.queries[at[place]]), int(self.neighbours[at[place], rank[place]])
            one, other = int(labels[query]), int(labels[neighbour])
            pairs.append(Pair(one, other, counts[one, other], counts[other, one], query, neighbour))
        return pairs

    def distances_of(self, right: bool) -> list[float]:
        """Of all right or all wrong neighbours; digits that differ from machine to machine are left out."""
        there = self.neighbours >= 0
        return np.round(self.distances[there & (self.hits == right)].astype(float), 4).tolist()


def inspect(images: Scored, most: int = MOST_QUERIES, chosen: np.ndarray | None = None) -> Inspected:
    """Searches the merged index: the queries at the positions `chosen`, else all; of more than `most` evenly chosen."""
    index, queries = images.rows(scored.INDEX), images.rows(scored.QUERY)
    if chosen is None:
        chosen = np.unique(np.linspace(0, len(queries) - 1, min(most, len(queries))).astype(int))
    asked = queries[chosen]
    # In leave-one-out the index is every image, and an image's row in it its own.
    ids, distances = nearest(images.vectors[asked], images.vectors[index], 5, images.leave_one_out and asked)
    rows = np.where(ids >= 0, index[np.maximum(ids, 0)], -1)
    hits, matches = neighbour_hits(ids, images.labels[index], images.labels[asked], images.leave_one_out)
    return Inspected(images, asked, len(queries), rows, distances, hits, matches)


def _unordered(one: int, other: int) -> tuple[int, int]:
    return (int(min(one, other)), int(max(one, other)))
