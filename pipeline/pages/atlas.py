"""Thumbnails of scored images: one by one, as figures, or many in one picture for the map of a report."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.data import sources
from pipeline.evaluation import scored
from pipeline.evaluation.scored import Scored
from pipeline.pages.neighbours import Inspected
from pipeline.pages.pictures import Figure, as_jpeg, data_url
from pipeline.pages.render import distance, short
from pipeline.retrieval import projection
from tfrecords.sources import Item

Images = dict[tuple[str, str, str], Item]  # of `scored.images`
MOST_POINTS, TILE_PX, QUALITY = 1500, 56, 70
FIGURE_QUALITY = 78
MOST_CLASSES = 400  # names in the page; images of further classes stand under OTHERS
CAPTION = 60  # letters of a class and of a key
OTHERS = "further classes"


def pictures(images: Scored, listed: Images, rows: Iterable[int], side_px: int) -> dict[int, Image.Image]:
    """Row of `images` → its picture, at most `side_px` a side; rows whose image is gone or damaged are not among them.

    Threads read and decode.
    """
    there = [row for row in dict.fromkeys(rows) if item_of(images, listed, row)]
    items = [item for row in there if (item := item_of(images, listed, row))]

    def small(pixels: np.ndarray) -> Image.Image:
        picture = Image.fromarray(pixels)
        picture.thumbnail((side_px, side_px))
        return picture

    threads = max(4, os.cpu_count() or 1)
    found = sources.read_each(items, small, threads, 4 * threads)
    return {there[number]: picture for number, picture, _ in found if picture is not None}


class Pictured:
    """Queries and their five nearest as figures of a page, each picture inside it."""

    def __init__(self, inspected: Inspected, listed: Images, at: Iterable[int], side_px: int, more: Iterable[int] = ()):
        """Reads the pictures of the queries at the positions `at`, of their neighbours, and of the rows `more`."""
        self.inspected = inspected
        rows = [row for each in at for row in (inspected.queries[each], *inspected.neighbours[each]) if row >= 0]
        found = pictures(inspected.scored, listed, [*map(int, rows), *more], side_px)
        self._sources = {row: data_url(as_jpeg(picture, FIGURE_QUALITY)) for row, picture in found.items()}

    def figure(self, row: int, caption: str, kind: str = "") -> Figure:
        images = self.inspected.scored
        name = f"{images.classes[row]}, {images.domains[row]} {images.keys[row]}"
        return Figure(self._sources.get(row, ""), name, caption, kind, note=images.classes[row])

    def query(self, at: int, caption: str) -> Figure:
        return self.figure(int(self.inspected.queries[at]), caption)

    def neighbours(self, at: int) -> list[Figure]:
        """Each with its distance, right or wrong."""
        columns = (self.inspected.neighbours[at], self.inspected.distances[at], self.inspected.hits[at])
        return [
            self.figure(int(row), distance(far), "right" if hit else "wrong")
            for row, far, hit in zip(*columns, strict=True)
            if row >= 0
        ]


def item_of(images: Scored, listed: Images, row: int) -> Item | None:
    return listed.get((images.domains[row], images.roles[row], images.keys[row]))


def map_of(images: Scored, listed: Images, most: int = MOST_POINTS) -> dict[str, Any]:
    """What map.js draws, JSON-able: the index in the plane, with one picture of all thumbnails.

    Returns:
        {"x", "y": numbers in 0 … 1; "classes": position in "names"; "captions"; "atlas": a data URL, "" where no image
        can be read; "columns", "size": of its tiles in px; "of": images of the index; "method": of the plane}.
    """
    index = images.rows(scored.INDEX)
    rows = index[np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).astype(int))]
    places = np.round(projection.plane(images.vectors[rows]), 3)
    labels, of_class = np.unique(images.labels[rows], return_inverse=True)
    counts = np.bincount(of_class, minlength=len(labels))
    kept = {label: place for place, label in enumerate(np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist())}
    names = [images.classes[rows[int(np.flatnonzero(of_class == label)[0])]] for label in kept]
    classes = [kept.get(label, len(names)) for label in of_class.tolist()]
    columns = max(1, int(np.ceil(np.sqrt(len(rows)))))
    found = pictures(images, listed, rows.tolist(), TILE_PX)
    return {
        "x": places[:, 0].astype(float).round(3).tolist(),
        "y": places[:, 1].astype(float).round(3).tolist(),
        "classes": classes,
        "names": [*names, *[OTHERS] * (len(labels) > len(names))],
        "captions": [_caption(images, row) for row in rows.tolist()],
        "atlas": _tiled([found.get(row) for row in rows.tolist()], columns) if found else "",
        "columns": columns,
        "size": TILE_PX,
        "of": len(index),
        "method": projection.method_of(len(rows)),
    }


def _caption(images: Scored, row: int) -> str:
    key = short(images.keys[row], CAPTION, from_end=True)
    return f"{short(images.classes[row], CAPTION)} · {images.domains[row]} {key}"


def _tiled(tiles: Sequence[Image.Image | None], columns: int) -> str:
    lines = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * TILE_PX, lines * TILE_PX), "white")
    for number, tile in enumerate(tiles):
        if tile is not None:
            square = ImageOps.pad(tile, (TILE_PX, TILE_PX), color="white")
            canvas.paste(square, (number % columns * TILE_PX, number // columns * TILE_PX))
    return data_url(as_jpeg(canvas, QUALITY))
