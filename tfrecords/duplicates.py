"""The same picture in two splits: exact (same bytes) and near (perceptual hash).

A test image that was also trained on inflates the score. Nothing is removed: `duplicates.csv` lists the pairs, and the
user judges them.

The perceptual hash ("dHash") is 64 bits: the signs of the differences between neighbours on a 9 × 8 grey thumbnail. The
same photograph recoded, resized or slightly brightened keeps nearly all of them. Flat pictures share hashes with
unrelated ones and are left out.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from tfrecords.labels import SPLITS
from tfrecords.processes import in_processes
from tfrecords.schema import read_shard

MAX_DISTANCE = 4  # bits of 64
FLAT_SIGNS = 8  # with fewer differences than this that are not zero a picture counts as flat
BANDS = tuple(np.array_split(np.arange(64), MAX_DISTANCE + 1))  # hashes ≤ 4 bits apart agree on one of five bands


class Image(NamedTuple):
    source: str
    split: str
    key: str


class Pair(NamedTuple):
    kind: str  # exact | near
    distance: int  # bits
    image: Image
    other: Image


COLUMNS = ["kind", "distance", "source", "split", "key", "other_source", "other_split", "other_key"]


def exact(images: Sequence[Image], hashes: Sequence[str]) -> list[Pair]:
    """Images whose bytes, by their `hashes`, are in an earlier split too, each with the first such image."""
    groups: dict[str, list[Image]] = {}
    for image, digest in zip(images, hashes, strict=True):
        groups.setdefault(digest, []).append(image)
    pairs = []
    for group in groups.values():
        first = min(group, key=lambda image: SPLITS.index(image.split))
        pairs += [Pair("exact", 0, first, image) for image in group if image.split != first.split]
    return pairs


def near(images: Sequence[Image], hashes: np.ndarray) -> list[Pair]:
    """Each image with the nearest earlier image of another split, where at most MAX_DISTANCE bits differ.

    Only images that agree on a whole band of bits are compared, not every image with every other. `hashes` is
    `[N]` uint64, perceptual; 0 where the picture is flat.
    """
    splits = np.array([image.split for image in images])
    best: dict[int, tuple[int, int]] = {}  # image → (distance, other)
    useful = np.flatnonzero(hashes != 0)
    for band in BANDS:
        mask = np.uint64(sum(1 << int(bit) for bit in band))
        order = useful[np.argsort(hashes[useful] & mask, kind="stable")]
        values = hashes[order] & mask
        edges = np.flatnonzero(values[1:] != values[:-1]) + 1
        for bucket in np.split(order, edges):
            for position, image in enumerate(bucket[1:], 1):
                before = bucket[:position]
                before = before[splits[before] != splits[image]]
                if not len(before):
                    continue
                distances = np.bitwise_count(hashes[before] ^ hashes[image])
                nearest = int(np.argmin(distances))
                candidate = (int(distances[nearest]), int(before[nearest]))
                if candidate < best.get(int(image), (MAX_DISTANCE + 1, -1)):
                    best[int(image)] = candidate
    return [Pair("near", distance, images[one], images[other]) for other, (distance, one) in sorted(best.items())]


def perceptual_hash(encoded: bytes) -> int:
    """The 64 bits of a stored JPEG; 0 where it is flat."""
    try:
        grey = simplejpeg.decode_jpeg(encoded, "GRAY", min_height=32, min_width=32)[..., 0]
    except ValueError:
        grey = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    thumbnail = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    differences = np.diff(thumbnail, axis=1)
    if np.count_nonzero(differences) < FLAT_SIGNS:
        return 0
    return int(np.packbits(differences > 0).view(">u8")[0])


def perceptual_hashes(shards: Iterable[Path], workers: int) -> dict[Path, list[int]]:
    """Shard → the perceptual hash of each of its images, in order. Rereads the shards, in parallel."""
    return dict(in_processes(_hash_shard, shards, workers))


def _hash_shard(path: Path) -> list[int]:
    return [perceptual_hash(record.encoded) for record in read_shard(path)]


def rows(pairs: Iterable[Pair]) -> list[tuple[str, ...]]:
    """Rows of duplicates.csv, see COLUMNS."""
    return [(pair.kind, str(pair.distance), *pair.image, *pair.other) for pair in pairs]
