"""Queries against a database, and which of the neighbours show the query's object."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from pipeline import files
from pipeline.benchmarks.ilias import protocol
from pipeline.benchmarks.ilias.database import Database
from pipeline.benchmarks.ilias.truth import Truth, object_of
from pipeline.console import Progress
from pipeline.errors import BadInput
from pipeline.retrieval.large import Neighbours, most_similar
from pipeline.vectors.store import Vectors
from tfrecords.listing.unzipped import escaped

SECONDS = 60.0  # between two times that a search is written down


@dataclass(frozen=True)
class Queries:
    """The vectors of the listed queries."""

    ids: list[str]  # Q, as the authors write them
    vectors: np.ndarray  # float32 [Q, D]
    missing: list[str]  # listed, without a vector: they find nothing
    unknown: int  # vectors of queries that are not listed, which are not asked


def asked(listed: Sequence[str], part: Vectors) -> Queries:
    """The listed queries of a part. Raises BadInput: none of them is there, or one is there twice."""
    row_of: dict[str, int] = {}
    for row, item in enumerate(part.items()):
        key = escaped(item.key)
        if key in row_of:
            raise BadInput(f"expected one vector a query, {key} has two")
        row_of[key] = row
    found = [each for each in listed if each in row_of]
    if not found:
        known = next(iter(row_of), "none")
        raise BadInput(f"expected features of queries such as {listed[0]}, got such as {known}")
    vectors = np.concatenate([block for _, block in part.blocks(1 << 16)])
    missing = [each for each in listed if each not in row_of]
    return Queries([*found, *missing], vectors[[row_of[each] for each in found]], missing, len(row_of) - len(found))


def rank(
    queries: Queries, database: Database, k: int = protocol.K, kept: Path | None = None
) -> tuple[Neighbours, Neighbours]:
    """Exact inner products over the database's vectors; ties by the smaller row, so the positives come first.

    kept: a file, written every SECONDS and read again: a search that was killed goes on behind the last block that it
    holds, and one over further parts behind those that it has seen.

    Returns:
        What the first part answers alone, the positives; and what all do.
    """
    names = [files.fingerprint([queries.ids, hashlib.sha256(queries.vectors.tobytes()).hexdigest(), k])]
    names += [part.identity for part in database.parts]
    core = most_similar(queries.vectors, database.blocks(0), k)
    found, seen = _kept(kept, names) or (core, database.parts[0].count)
    progress, written, end = Progress("bench: searches ilias", database.count, "vectors", seen), monotonic(), 0
    for number, part in enumerate(database.parts):
        end += part.count
        for first, block in database.blocks(number) if end > seen else ():
            if first < seen:
                continue
            found, seen = most_similar(queries.vectors, [(first, block)], k, so_far=found), first + len(block)
            progress.add(len(block))
            if kept is not None and (monotonic() - written > SECONDS or seen == database.count):
                parts = names[: number + 2]
                files.write_arrays(kept, {"parts": parts, "seen": seen, **found._asdict()})
                written = monotonic()
    return _padded(core, queries), _padded(found, queries)


def _kept(path: Path | None, names: list[str]) -> tuple[Neighbours, int] | None:
    """What a search has kept, and over how many of the vectors; None of other parts, or where there is none."""
    held = files.read_arrays(path) if path else None
    if not held or set(held) != {"parts", "seen", "rows", "similarities"}:
        return None
    parts = held["parts"].tolist()
    found = Neighbours(held["rows"], held["similarities"])
    return (found, int(held["seen"])) if parts == names[: len(parts)] else None


def _padded(found: Neighbours, queries: Queries) -> Neighbours:
    """With the queries that are missing, which find nothing."""
    none = ((0, len(queries.missing)), (0, 0))
    rows = np.pad(found.rows, none, constant_values=-1)
    return Neighbours(rows, np.pad(found.similarities, none, constant_values=-np.inf))


class Answers:
    """Which neighbours are positives, and whose.

    Args:
        truth: the lists. positives: the database's first part. Raises BadInput: a positive is there twice.
    """

    def __init__(self, truth: Truth, positives: Vectors):
        place_of = {key: place for place, key in enumerate(truth.positives)}
        self.truth = truth
        self.objects = [object_of(key) for key in truth.positives]
        self.matches = Counter(self.objects)
        self.place = np.full(positives.count + 1, -1, np.int64)  # row → place in the list; the last: of no positive
        seen: set[int] = set()
        for row, item in enumerate(positives.items()):
            place = place_of.get(escaped(item.key), -1)
            if place in seen:
                raise BadInput(f"expected one vector a positive, {truth.positives[place]} has two")
            seen |= {place} - {-1}
            self.place[row] = place
        self.missing = [key for key, place in place_of.items() if place not in seen]
        if not seen:
            raise BadInput(f"expected features of positives such as {truth.positives[0]}, got none of them")

    def scores(self, queries: Sequence[str], ranking: Neighbours, k: int = protocol.K) -> dict[str, np.ndarray]:
        """mAP@k's name and `oracle` → float64 [Q]."""
        wanted, _ = self._wanted(queries, ranking)
        matches = np.array([self.matches[object_of(query)] for query in queries])
        return {
            measure(k): protocol.average_precision(wanted, ranking.similarities, matches, k),
            "oracle": protocol.oracle(wanted, matches, k),
        }

    def by_group(
        self, queries: Sequence[str], ranking: Neighbours, name: str, bounds: Sequence[float], k: int = protocol.K
    ) -> dict[str, np.ndarray]:
        """A group's bounds → AP of the queries that have a positive in it, float64 [≤Q]; see `protocol.grouped`."""
        wanted, places = self._wanted(queries, ranking)
        of_object: dict[str, list[int]] = {}
        for place, each in enumerate(self.objects):
            of_object.setdefault(each, []).append(place)
        owners = [np.array(of_object.get(object_of(query), []), np.int64) for query in queries]
        return protocol.grouped(self.truth.groups[name], bounds, places, wanted, ranking.similarities, owners, k)

    def _wanted(self, queries: Sequence[str], ranking: Neighbours) -> tuple[np.ndarray, np.ndarray]:
        """(bool [Q, k], whether a neighbour shows the query's object; int64 [Q, k], its place in the list or -1)."""
        rows, last = ranking.rows, len(self.place) - 1
        places = self.place[np.where((rows >= 0) & (rows < last), rows, last)]
        numbers = {name: number for number, name in enumerate(self.matches)}
        of_places = np.array([*(numbers[each] for each in self.objects), -2])  # -1 takes the last
        of_queries = np.array([numbers.get(object_of(query), -1) for query in queries])
        return of_places[places] == of_queries[:, None], places


def measure(k: int = protocol.K) -> str:
    """
    >>> measure(), measure(50)
    ('mAP@1k', 'mAP@50')
    """
    return f"mAP@{k // 1000}k" if k % 1000 == 0 else f"mAP@{k}"
