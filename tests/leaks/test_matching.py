"""Pairs from hashes and vectors: every image that has a copy stands in one, with its nearest, and there are no more."""

import numpy as np
import pytest

from pipeline.leaks.hashing import HASHES, Hashes
from pipeline.leaks.matching import Matches, match_hashes, match_vectors
from tfrecords import perceptual

BITS = 8 * perceptual.BYTES


def drawn(count: int, seed: int) -> Hashes:
    """Hashes of pictures that have nothing in common."""
    rng = np.random.default_rng(seed)
    return Hashes(
        **{name: rng.integers(1, 256, (count, width), np.uint8) for name, width in HASHES.items()}, rejects={}
    )


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    found = hashes.copy()
    for bit in np.random.default_rng(seed).choice(BITS, bits, replace=False):
        found[bit // 8] ^= 1 << bit % 8
    return found


def obvious(train: Hashes, bench: Hashes, most: int) -> set[tuple]:
    """(kind, distance, train, bench) by comparing every image with every other."""

    def best(mine: int, theirs: int, turned: bool) -> set[tuple]:
        found = set()
        for one in range(mine):
            candidates = []
            for other in range(theirs):
                at, of = (other, one) if turned else (one, other)
                if train.content[at].any() and (train.content[at] == bench.content[of]).all():
                    candidates.append((0, 0.0, other))
                if train.pixels[at].any() and (train.pixels[at] == bench.pixels[of]).all():
                    candidates.append((1, 0.0, other))
                for kind, hashes in ((2, bench.upright), (3, bench.mirrored)):
                    bits = sum(int(a ^ b).bit_count() for a, b in zip(train.upright[at], hashes[of], strict=True))
                    if train.upright[at].any() and hashes[of].any() and bits <= most:
                        candidates.append((kind, float(bits), other))
            if candidates:
                kind, distance, other = min(candidates)
                found.add((kind, distance, *((other, one) if turned else (one, other))))
        return found

    return best(len(train.content), len(bench.content), False) | best(len(bench.content), len(train.content), True)


def test_the_pairs_are_those_of_comparing_every_image_with_every_other():
    train, bench = drawn(60, 1), drawn(45, 2)
    for row, (ours, bits) in enumerate([(3, 0), (3, 40), (9, 41), (10, 16), (10, 17), (11, 5), (12, 5), (13, 30)]):
        bench.upright[row] = flipped(train.upright[ours], bits, row)
    bench.mirrored[8] = flipped(train.upright[20], 12, 0)
    bench.mirrored[0] = train.upright[21]  # nearer by the mirror image, but surer upright
    train.upright[40:43] = train.upright[10]  # copies within one side
    bench.content[20], bench.pixels[20], bench.upright[20] = train.content[5], train.pixels[5], train.upright[5]
    bench.pixels[21:24] = train.pixels[6]
    train.pixels[7] = train.pixels[6]
    for hashes, row in ((train, 50), (bench, 30)):  # what cannot be read, and flat pictures, are copies of nothing
        for name in HASHES:
            getattr(hashes, name)[row] = 0
    train.upright[51] = bench.upright[31] = bench.mirrored[31] = 0
    matches = Matches(60, 45)
    match_hashes(matches, train, bench)
    kinds = {"bytes": 0, "pixels": 1, "hash": 2, "mirrored": 3}
    found = {(kinds[pair.kind], pair.distance, pair.train, pair.bench) for pair in matches.pairs()}
    assert found == obvious(train, bench, perceptual.MAX_DISTANCE)
    assert {kind for kind, *_ in found} == {0, 1, 2, 3} and len(found) == len(matches.pairs())
    fewer = Matches(60, 45)
    match_hashes(fewer, train, bench, distance=16)
    assert {(kinds[p.kind], p.distance, p.train, p.bench) for p in fewer.pairs()} == obvious(train, bench, 16)


def test_thousands_of_equal_pictures_are_no_more_pairs_than_images():
    train, bench = drawn(5_000, 3), drawn(4_000, 4)
    for name in HASHES:
        getattr(train, name)[:3_000] = getattr(bench, name)[:3_500] = 7
    matches = Matches(5_000, 4_000)
    match_hashes(matches, train, bench)
    pairs = matches.pairs()
    assert {pair.train for pair in pairs} == set(range(3_000)) and {pair.bench for pair in pairs} == set(range(3_500))
    assert len(pairs) == 3_000 + 3_500 - 1 and {pair.kind for pair in pairs} == {"bytes"}


@pytest.mark.parametrize("most", [0, 40, 70])
def test_the_search_misses_no_pair_within_its_distance(most):
    rng = np.random.default_rng(most)
    index = rng.integers(0, 256, (300, perceptual.BYTES), np.uint8)
    queries = np.stack([flipped(index[row], row % 80, row) for row in range(300)])
    found = {
        (int(a), int(b), int(bits))
        for part in perceptual.near(queries, index, most)
        for a, b, bits in zip(*part, strict=True)
    }
    bits = np.bitwise_count(queries[:, None] ^ index[None]).sum(axis=2)  # [Q, N]
    assert found == {(int(a), int(b), int(bits[a, b])) for a, b in np.argwhere(bits <= most)}
    assert len(found) >= most


def test_vectors_are_paired_by_their_distance_in_blocks_of_any_size():
    rng = np.random.default_rng(0)
    train, bench = (rng.normal(size=(count, 16)).astype(np.float32) for count in (50, 40))
    bench[:20] = train[10:30] + 0.2 * rng.normal(size=(20, 16)).astype(np.float32)
    train, bench = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train, bench))
    apart = np.linalg.norm(train[:, None] - bench[None], axis=2)
    wanted = {(t, int(apart[t].argmin())) for t in range(50) if apart[t].min() <= 0.7}
    wanted |= {(int(apart[:, b].argmin()), b) for b in range(40) if apart[:, b].min() <= 0.7}
    assert len(wanted) > 15

    def blocks(vectors: np.ndarray, size: int):
        rows = np.arange(len(vectors))
        return [(rows[at : at + size], vectors[at : at + size]) for at in range(0, len(vectors), size)]

    for size in (7, 64):
        matches = Matches(50, 40)
        match_vectors(matches, blocks(train, size), lambda size=size: blocks(bench, size), 0.7)
        assert {(pair.train, pair.bench) for pair in matches.pairs()} == wanted
        for pair in matches.pairs():
            assert pair.kind == "embedding" and abs(pair.distance - apart[pair.train, pair.bench]) < 1e-5
