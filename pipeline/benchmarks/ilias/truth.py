"""What ILIAS asks and what answers it: the id lists of the authors, or the folders of its core.

<root>/image_ids/image_query_ids.txt    id[,…] a line, such as name_xxx/query/Qxxx_yy.jpg
<root>/image_ids/positive_ids.txt       id,scale,clutter
<root>/image_ids/text_query_ids.txt     id, such as name_xxx/query/Txxx.txt
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput, reason
from tfrecords.sources import list_source

LISTS = "image_ids"
PUBLISHED = {"image queries": 1_232, "text queries": 1_000, "positives": 4_715}
# Quartiles of the positives, by the authors: of their scale, the object's share of the image, and of their clutter.
SCALES = (0.0, 0.06880213760855043, 0.13526567164179104, 0.2729876723163842, float("inf"))
CLUTTERS = (0.0, 18.0, 33.0, 53.0, float("inf"))


@dataclass(frozen=True)
class Truth:
    """The lists of ILIAS. An object is the first folder of an id: each query of it is matched by each positive."""

    image_queries: list[str]  # sorted
    text_queries: list[str]  # sorted
    positives: list[str]  # sorted
    # Group → what each positive has of it, float64 [P]: "scale" and "clutter", from the authors' list alone.
    groups: dict[str, np.ndarray] = field(default_factory=dict)

    def caveats(self) -> list[str]:
        """A line for each list that is not of the published length."""
        found = {"image queries": self.image_queries, "positives": self.positives}
        return [
            f"{len(ids):,} {name} where ILIAS has {PUBLISHED[name]:,}: no figure to compare"
            for name, ids in found.items()
            if len(ids) != PUBLISHED[name]
        ]


def object_of(key: str) -> str:
    """The object that an image or a text shows.

    >>> object_of("bold_bimp_000/pos/P000_08.jpg")
    'bold_bimp_000'
    """
    return key.split("/", 1)[0]


def escaped(key: str) -> str:
    """A path as the authors write it into lists and features: ASCII, with #U and four hex digits for all else.

    >>> escaped("čaj_007/pos/P007_00.jpg"), escaped("é")
    ('#U010daj_007/pos/P007_00.jpg', '#U00e9')
    """
    return key if key.isascii() else "".join(each if each.isascii() else f"#U{ord(each):04x}" for each in key)


def read(root: Path) -> Truth:
    """The authors' lists, or without them what lies in the folders of the core, whose groups are not known.

    Raises BadInput: neither is there, a list is not of its form, a key stands twice, no query or no positive.
    """
    if (root / LISTS).is_dir():
        truth = _of_lists(root / LISTS)
    else:
        queries, positives = (_of_folders(root, split) for split in ("image_queries", "positives"))
        truth = Truth(queries, [], positives)
    for what, keys in (("queries", truth.image_queries), ("positives", truth.positives)):
        if not keys:
            raise BadInput(f"{root}: expected {what} of ILIAS, it has none")
        if len(set(keys)) < len(keys):
            twice = next(key for key, after in pairwise(sorted(keys)) if key == after)
            raise BadInput(f"{root}: expected each of the {what} once, {twice} stands twice")
    return truth


def _of_folders(root: Path, split: str) -> list[str]:
    return sorted(escaped(item.key) for item in list_source("ilias", root, {"split": split}).items)


def _of_lists(folder: Path) -> Truth:
    queries = [row[0] for row in _rows(folder / "image_query_ids.txt")]
    texts = folder / "text_query_ids.txt"
    rows = sorted(_rows(folder / "positive_ids.txt"))
    try:
        groups = {name: np.array([float(row[place]) for row in rows]) for name, place in (("scale", 1), ("clutter", 2))}
    except (ValueError, IndexError) as error:
        raise BadInput(f"{folder}/positive_ids.txt: expected id,scale,clutter a line ({reason(error)})") from None
    return Truth(
        sorted(queries),
        sorted(row[0] for row in _rows(texts)) if texts.exists() else [],
        [row[0] for row in rows],
        groups,
    )


def _rows(path: Path) -> list[Sequence[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"expected the ids of ILIAS in {path} ({reason(error)})") from None
