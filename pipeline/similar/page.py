"""Results of `guie similar search`: a picture of each query, a page with all of them, rows of a CSV."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import files
from pipeline.pages.pictures import Tile, as_jpeg, data_url, neighbour_picture
from pipeline.pages.render import render
from pipeline.similar.crop import Box
from pipeline.similar.embedder import Stored
from tfrecords import pixels
from tfrecords.sources import Item


@dataclass(frozen=True)
class Found:
    """The neighbours of one query."""

    rows: list[int]  # of the index, nearest first
    distances: list[float]  # Euclidean, of unit vectors
    classes: list[str]  # the likeliest ones where the method is `classify`, else empty


def write_pictures(
    run_dir: Path,
    indexed: Stored,
    queried: Stored,
    found: Sequence[Found],
    names: dict[str, str],
    shown: Sequence[int],
    labelled: bool,
) -> Path:
    """Writes one PNG a query and similar.html with all of them; returns the page's path.

    Args:
        names: class → what a human calls it.
        shown: rows of the queries.
        labelled: whether the queries have classes: frames then show which neighbours are right.
    """

    def tile(image: Item, text: str, box: Box | None, right: bool | None) -> Tile:
        return Tile(pixels.read(image.read()), text, right, box)

    pictures = []
    for row in shown:
        query, result = queried.images[row], found[row]
        title = names.get(query.class_name, query.class_name) or Path(query.key).name
        likely = f"as {', '.join(result.classes)}" if result.classes else "query"
        tiles = [tile(query, f"{title}\n{likely}", queried.boxes[row], None)]
        for hit, distance in zip(result.rows, result.distances, strict=True):
            near = indexed.images[hit]
            right = near.class_name == query.class_name if labelled else None
            text = f"{names.get(near.class_name, near.class_name)}\n{distance:.3f}"
            tiles.append(tile(near, text, indexed.boxes[hit], right))
        picture = neighbour_picture(tiles[0], tiles[1:])
        safe = re.sub(r"[^\w.-]+", "_", query.key).strip("_.")[-80:]
        with files.atomic_path(run_dir / "pictures" / f"{row:04d}-{safe}.png") as temporary:
            picture.save(temporary, "PNG")
        pictures.append((title, data_url(as_jpeg(picture))))
    page = run_dir / "similar.html"
    title = "guie similar: queries and their nearest images"
    files.write_text(page, render("neighbours.html", title=title, pictures=pictures, labelled=labelled))
    return page


def neighbour_rows(indexed: Stored, queried: Stored, found: Sequence[Found], names: dict[str, str]) -> list[tuple]:
    """Header and rows of neighbours.csv: one row a query and neighbour."""
    rows: list[tuple] = [("query", "query_class", "rank", "key", "class", "name", "distance", "within")]
    for image, result in zip(queried.images, found, strict=True):
        for rank, (hit, distance) in enumerate(zip(result.rows, result.distances, strict=True), 1):
            near = indexed.images[hit]
            name = names.get(near.class_name, near.class_name)
            within = "; ".join(result.classes)
            neighbour = (rank, near.key, near.class_name, name, f"{distance:.5f}", within)
            rows.append((image.key, image.class_name, *neighbour))
    return rows
