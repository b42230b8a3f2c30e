"""Pairs of the same picture, from hashes and vectors. Pure functions of arrays, in bounded memory.

An image may have thousands of copies. Every image that has one on the other side stands in a pair, with its nearest:
no more pairs than images.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pipeline.leaks.hashing import Hashes
from tfrecords import perceptual

KINDS = ("bytes", "pixels", "hash", "mirrored", "embedding")  # the surest first
NONE = -1
Blocks = Iterable[tuple[np.ndarray, np.ndarray]]  # (images int64 [n], their vectors float32 [n, D], unit length)


class Pair(NamedTuple):
    kind: str
    distance: float  # 0 of bytes and pixels; bits of 256 of a hash; Euclidean of an embedding
    train: int  # rows of the two sides
    bench: int


class Nearest:
    """For each image of one side its best partner of the other: by kind, then distance, then the smaller row."""

    def __init__(self, count: int):
        self.kind = np.full(count, len(KINDS), np.int8)  # position in KINDS
        self.distance = np.full(count, np.inf, np.float32)
        self.partner = np.full(count, NONE, np.int64)

    def offer(self, kind: int, rows: np.ndarray, partners: np.ndarray, distances: np.ndarray) -> None:
        """Pairs of one kind: int64 [P] rows, int64 [P] partners, [P] distances; a row may stand in several."""
        order = np.lexsort((partners, distances, rows))
        rows, once = np.unique(rows[order], return_index=True)
        partners, distances = partners[order][once], distances[order][once].astype(np.float32)
        held, far, other = self.kind[rows], self.distance[rows], self.partner[rows]
        nearer = (distances < far) | ((distances == far) & (partners < other))
        better = (held > kind) | ((held == kind) & nearer)
        rows = rows[better]
        self.kind[rows], self.distance[rows], self.partner[rows] = kind, distances[better], partners[better]

    def rows(self) -> np.ndarray:
        """int64 [P], the rows that have a partner."""
        return np.flatnonzero(self.partner != NONE)


class Matches:
    """What was found so far between a training side and a benchmark."""

    def __init__(self, train: int, bench: int):
        """Of so many images."""
        self.train, self.bench = Nearest(train), Nearest(bench)

    def offer(self, kind: str, train: np.ndarray, bench: np.ndarray, distances: np.ndarray) -> None:
        """Pairs of one kind, [P] each."""
        self.train.offer(KINDS.index(kind), train, bench, distances)
        self.bench.offer(KINDS.index(kind), bench, train, distances)

    def pairs(self) -> list[Pair]:
        """By kind, distance and rows, each pair once."""
        found = set()
        for side, turned in ((self.train, False), (self.bench, True)):
            for row in side.rows().tolist():
                one, other = row, int(side.partner[row])
                found.add((int(side.kind[row]), float(side.distance[row]), *((other, one) if turned else (one, other))))
        return [Pair(KINDS[kind], distance, train, bench) for kind, distance, train, bench in sorted(found)]


def same(train: np.ndarray, bench: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with equal digests, uint8 [N, W] and [M, W]; 0 is no digest. Each row of either side with the first equal.

    Returns (rows of `train`, rows of `bench`), int64 [P].
    """
    forth, back = _first_equal(train, bench), _first_equal(bench, train)
    here, there = np.flatnonzero(forth != NONE), np.flatnonzero(back != NONE)
    return np.concatenate([here, back[there]]), np.concatenate([forth[here], there])


def _first_equal(asked: np.ndarray, among: np.ndarray) -> np.ndarray:
    """int64 [N]: for each digest the first row of `among` that has it, -1 where none has."""
    found = np.full(len(asked), NONE, np.int64)
    useful = np.flatnonzero(among.any(axis=1))
    if not len(useful):
        return found
    rest = _as_one(among[useful])
    order = np.argsort(rest, kind="stable")
    rest, mine = rest[order], _as_one(asked)
    at = np.minimum(np.searchsorted(rest, mine), len(rest) - 1)
    equal = (rest[at] == mine) & asked.any(axis=1)
    found[equal] = useful[order[at[equal]]]
    return found


def _as_one(digests: np.ndarray) -> np.ndarray:
    """uint8 [N, W] → [N] of one sortable value each; equal values, equal digests."""
    return np.ascontiguousarray(digests).view(f"S{digests.shape[1]}")[:, 0]


def match_hashes(found: Matches, train: Hashes, bench: Hashes, distance: int = perceptual.MAX_DISTANCE) -> None:
    """Adds the pairs of equal bytes, of equal pixels, and of perceptual hashes at most `distance` bits apart."""
    for kind in ("content", "pixels"):
        one, other = same(getattr(train, kind), getattr(bench, kind))
        found.offer("bytes" if kind == "content" else kind, one, other, np.zeros(len(one)))
    ours = _Distinct(train.upright)
    for kind, hashes in (("hash", bench.upright), ("mirrored", bench.mirrored)):
        theirs = _Distinct(hashes)
        of_ours, of_theirs = Nearest(len(ours.hashes)), Nearest(len(theirs.hashes))
        for one, other, bits in perceptual.near(ours.hashes, theirs.hashes, distance):
            of_ours.offer(0, one, theirs.first[other], bits)
            of_theirs.offer(0, other, ours.first[one], bits)
        ours.spread(of_ours, found.train, kind)
        theirs.spread(of_theirs, found.bench, kind)


class _Distinct:
    """Perceptual hashes once each, and the images that have each."""

    def __init__(self, hashes: np.ndarray):
        """uint8 [N, 32]."""
        self.images = np.flatnonzero(~perceptual.is_flat(hashes))  # int64 [M]
        self.hashes, once, self.groups = np.unique(
            hashes[self.images], axis=0, return_index=True, return_inverse=True
        )  # uint8 [G, 32], int64 [G], int64 [M]
        self.first = self.images[once]  # int64 [G], the first image that has each

    def spread(self, nearest: Nearest, to: Nearest, kind: str) -> None:
        """Gives what was found for a hash to every image that has it."""
        partners = nearest.partner[self.groups]
        there = np.flatnonzero(partners != NONE)
        to.offer(KINDS.index(kind), self.images[there], partners[there], nearest.distance[self.groups[there]])


def match_vectors(found: Matches, train: Blocks, bench: Callable[[], Blocks], distance: float) -> None:
    """Adds the pairs of embeddings at most `distance` apart: Euclidean, of unit length.

    Args:
        train: its blocks. bench: gives the blocks of the benchmark, anew for each of `train`.
    """
    least = 1 - distance**2 / 2
    for ours, vectors in train:
        for theirs, others in bench():
            similar = vectors @ others.T  # [n, m]
            for cosines, side, rows, partners in (
                (similar, found.train, ours, theirs),
                (similar.T, found.bench, theirs, ours),
            ):
                best = cosines.argmax(axis=1)
                highest = cosines[np.arange(len(cosines)), best]
                near = np.flatnonzero(highest >= least)
                apart = np.sqrt(np.maximum(2 - 2 * highest[near].astype(np.float64), 0))
                side.offer(KINDS.index("embedding"), rows[near], partners[best[near]], apart)
