"""Embeddings of a side, kept on disk, and the distance within which two images are taken for one picture.

No distance fits every embedder, so where none is given it is measured: altered copies of some of the benchmark's images
say how far a copy lies, its images of other classes how near a picture lies that is none.
"""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import BadInput
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.embedding.chunks import embed_into
from pipeline.leaks.matching import Blocks
from pipeline.leaks.sides import Side
from pipeline.retrieval.vectors import unit_length
from pipeline.vectors.store import Store
from tfrecords import pixels
from tfrecords.sources import Item

BLOCK_ROWS = 4096
SAMPLE = 100  # images of which copies are made
LOOK_ALIKES = 1000  # images whose nearest of another class is sought
FALSE_SHARE = 0.01  # of images that may have one of another class within the distance
WAYS = ("cropped", "mirrored", "recoded")
CROPPED, QUALITY = 0.8, 50  # of each side that is kept; of the JPEG


class Embedded(NamedTuple):
    """A side's vectors; row n of the store is the image `rows[n]`."""

    store: Store
    rows: np.ndarray  # int64 [n]

    def blocks(self) -> Blocks:
        for first, vectors in self.store.blocks(BLOCK_ROWS):
            yield self.rows[first : first + len(vectors)], unit_length(vectors)


class Limit(NamedTuple):
    """The distance that was settled on, and how it does."""

    distance: float  # Euclidean, of unit length
    copies: float  # share of the altered copies within it
    look_alikes: float  # share of the benchmark's images with one of another class within it


def embed_side(side: Side, folder: Path, submission: Submission, batch_size: int) -> Embedded:
    """Embeds the images that `folder` does not hold yet. Raises BadInput as `embed_into`; no image can be read."""
    named = ((side.names[of], item) for of, item in zip(side.sets.tolist(), side.items, strict=True))
    store = embed_into(
        folder, submission, named, batch_size=batch_size, dtype="float16", what=f"leaks: {side.spec}",
        total=len(side.items), redo=True,
    )  # fmt: skip
    if not store.count:
        raise BadInput(f"{side.spec}: no image can be read")
    return Embedded(store, np.fromiter(_rows(side, store), np.int64, store.count))


def _rows(side: Side, store: Store) -> Iterator[int]:
    """The image of each vector: both are in one order, images that cannot be read have none."""
    images = enumerate(zip(side.sets.tolist(), side.items, strict=True))
    for vector in store.items():
        yield next(row for row, (of, item) in images if (side.names[of], item.key) == (vector.source, vector.key))


def measured_limit(bench: Side, embedded: Embedded, folder: Path, submission: Submission, batch_size: int) -> Limit:
    """The distance that all but a hundredth of the copies are within, or less: see FALSE_SHARE."""
    count = embedded.store.count
    chosen = np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int))
    items = [bench.items[row] for row in embedded.rows[chosen]]
    copies = [("copies", _copy(item, way, at)) for at, item in enumerate(items) for way in WAYS]
    store = embed_into(
        folder, submission, copies, batch_size=batch_size, what=f"leaks: copies of {bench.spec}", redo=True
    )
    originals = [int(row.key.split("/")[1]) for row in store.items()]
    vectors = np.concatenate([vectors for _, vectors in store.blocks()])
    taken = _taken(embedded, chosen)
    apart = np.linalg.norm(unit_length(vectors) - taken[originals], axis=1)
    others = _look_alikes(bench, embedded)
    distance = float(min(np.quantile(apart, 0.99), np.quantile(others, FALSE_SHARE)))
    return Limit(distance, float((apart <= distance).mean()), float((others <= distance).mean()))


def _copy(item: Item, way: str, at: int) -> Item:
    return Item(f"{way}/{at}", item.class_name, partial(altered, item.file, item, way))


def altered(_file: str, item: Item, way: str) -> bytes:
    """The image as somebody else may have it; its file is named first, see `Item.file`."""
    image = Image.fromarray(pixels.read(item.read()))
    if way == "cropped":
        width, height = (max(1, round(CROPPED * side)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    elif way == "mirrored":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY if way == "recoded" else 95)
    return file.getvalue()


def _taken(embedded: Embedded, chosen: np.ndarray) -> np.ndarray:
    """float32 [len(chosen), D]: vectors of rows of the store, rising."""
    found = []
    for first, vectors in embedded.store.blocks(BLOCK_ROWS):
        here = chosen[(chosen >= first) & (chosen < first + len(vectors))]
        found.append(unit_length(vectors[here - first]))
    return np.concatenate(found)


def _look_alikes(bench: Side, embedded: Embedded) -> np.ndarray:
    """Distance of some images to their nearest of another class in the benchmark; 2 where there is none."""
    count = embedded.store.count
    chosen = np.unique(np.linspace(0, count - 1, min(LOOK_ALIKES, count)).astype(int))
    numbers: dict[tuple[int, str], int] = {}
    sets = zip(bench.sets[embedded.rows].tolist(), (bench.items[row].class_name for row in embedded.rows), strict=True)
    labels = np.array([numbers.setdefault(each, len(numbers)) for each in sets])
    asked, highest = _taken(embedded, chosen), np.full(len(chosen), -1, np.float32)
    for first, vectors in embedded.store.blocks(BLOCK_ROWS):
        cosines = asked @ unit_length(vectors).T
        cosines[labels[chosen][:, None] == labels[first : first + len(vectors)]] = -1
        highest = np.maximum(highest, cosines.max(axis=1))
    return np.sqrt(np.maximum(2 - 2 * highest.astype(np.float64), 0))
