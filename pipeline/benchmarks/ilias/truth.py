"""What ILIAS asks and what answers it, by the authors' lists of ids: ASCII, see `unzipped.escaped`.

<root>/image_ids/image_query_ids.txt    id[,…] a line, such as name_xxx/query/Qxxx_yy.jpg
<root>/image_ids/positive_ids.txt       id,scale,clutter
<root>/image_ids/text_query_ids.txt     id, such as name_xxx/query/Txxx.txt
"""

import csv
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput, reason
from tfrecords.benchmarks import ilias as layout

# Quartiles of the positives, by the authors: of their scale, the object's share of the image, and of their clutter.
SCALES = (0.0, 0.06880213760855043, 0.13526567164179104, 0.2729876723163842, float("inf"))
CLUTTERS = (0.0, 18.0, 33.0, 53.0, float("inf"))


@dataclass(frozen=True)
class Truth:
    """The lists of ILIAS. An object is the first folder of an id: each query of it is matched by each positive."""

    image_queries: list[str]  # sorted
    text_queries: list[str]  # sorted
    positives: list[str]  # sorted
    # "scale" and "clutter" → what each positive has of it, float64 [P].
    groups: dict[str, np.ndarray] = field(default_factory=dict)


def object_of(key: str) -> str:
    """The object that an image or a text shows.

    >>> object_of("bold_bimp_000/pos/P000_08.jpg")
    'bold_bimp_000'
    """
    return key.split("/", 1)[0]


def read(root: Path) -> Truth:
    """The authors' lists, in <root>/image_ids or <root>.

    Raises BadInput: one is missing or not of its form, an id stands twice, there is no query or no positive. Without
    `text_query_ids.txt` there are no text queries.
    """
    queries, positives = (layout.find_list(root, layout.LISTS[name]) for name in ("image_queries", "positives"))
    texts = queries.with_name("text_query_ids.txt")
    rows = sorted(_rows(positives))
    try:
        groups = {name: np.array([float(row[place]) for row in rows]) for name, place in (("scale", 1), ("clutter", 2))}
    except (ValueError, IndexError) as error:
        raise BadInput(f"{positives}: expected id,scale,clutter a line ({reason(error)})") from None
    truth = Truth(
        sorted(row[0] for row in _rows(queries)),
        sorted(row[0] for row in _rows(texts)) if texts.exists() else [],
        [row[0] for row in rows],
        groups,
    )
    for what, path, ids in (("query", queries, truth.image_queries), ("positive", positives, truth.positives)):
        if not ids:
            raise BadInput(f"{path}: expected the id of a {what} a line, it has none")
        if twice := next((each for each, after in pairwise(ids) if each == after), ""):
            raise BadInput(f"{path}: expected each {what} once, {twice} stands twice")
    return truth


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"expected the ids of ILIAS in {path} ({reason(error)})") from None
