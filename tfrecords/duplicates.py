"""The same picture in two splits: exact (same bytes) and near (perceptual hash, see perceptual.py).

A test image that was also trained on inflates the score. Nothing is removed: `duplicates.csv` lists the pairs, and the
user judges them. Flat pictures share hashes with unrelated ones and are left out.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from tfrecords import perceptual
from tfrecords.labels import SPLITS
from tfrecords.processes import in_processes
from tfrecords.schema import read_shard


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
    """Each image with the nearest earlier image of another split, where at most `perceptual.MAX_DISTANCE` bits differ.

    `hashes` is uint8 `[N, 32]`, perceptual; all 0 where the picture is flat.
    """
    splits = np.array([SPLITS.index(image.split) for image in images])
    useful = np.flatnonzero(~perceptual.is_flat(hashes))
    distinct, groups = np.unique(hashes[useful], axis=0, return_inverse=True)
    members, sizes = useful[np.argsort(groups, kind="stable")], np.bincount(groups, minlength=len(distinct))
    begin = np.cumsum(sizes) - sizes  # of a hash in `members`
    first = np.full((len(distinct), len(SPLITS)), len(images))  # image that has it in each split
    np.minimum.at(first, (groups, splits[useful]), useful)
    best: dict[int, tuple[int, int]] = {}  # image → (distance, other)
    for one, other, distances in perceptual.near(distinct, distinct):
        pair = np.repeat(np.arange(len(one)), sizes[one])  # of hashes, for each image that has the one
        image = members[begin[one][pair] + np.arange(len(pair)) - (np.cumsum(sizes[one]) - sizes[one])[pair]]
        candidates = first[other[pair]]  # [P, splits]
        candidates[np.arange(len(pair)), splits[image]] = len(images)
        earliest = candidates.min(axis=1)
        found = np.flatnonzero(earliest < image)
        order = found[np.lexsort((earliest[found], distances[pair[found]], image[found]))]
        for row in order[np.unique(image[order], return_index=True)[1]].tolist():
            best[int(image[row])] = int(distances[pair[row]]), int(earliest[row])
    return [Pair("near", distance, images[one], images[other]) for other, (distance, one) in sorted(best.items())]


def perceptual_hash(encoded: bytes) -> np.ndarray:
    """uint8 `[32]` of a stored JPEG; all 0 where it is flat."""
    try:
        least = 2 * perceptual.SIDE_PX
        grey = simplejpeg.decode_jpeg(encoded, "GRAY", min_height=least, min_width=least)[..., 0]
    except ValueError:
        grey = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    return perceptual.perceptual_hash(perceptual.thumbnail(grey))


def perceptual_hashes(shards: Iterable[Path], workers: int) -> dict[Path, np.ndarray]:
    """Shard → the perceptual hash of each of its images, uint8 `[N, 32]`. Rereads the shards, in parallel."""
    return dict(in_processes(_hash_shard, shards, workers))


def _hash_shard(path: Path) -> np.ndarray:
    hashes = [perceptual_hash(record.encoded) for record in read_shard(path)]
    return np.stack(hashes) if hashes else np.zeros((0, perceptual.BYTES), np.uint8)


def rows(pairs: Iterable[Pair]) -> list[tuple[str, ...]]:
    """Rows of duplicates.csv, see COLUMNS."""
    return [(pair.kind, str(pair.distance), *pair.image, *pair.other) for pair in pairs]
