"""Open-metric-learning's CSV: `label,path,split,is_query,is_gallery`, and more columns that are not read.

The root is the CSV, or a folder with `df.csv`. Paths are relative to its folder; absolute ones must lie below it.
`split` is train or validation; of validation a row is a query, of the gallery, or both. Boxes (`x_1` …) are not
applied: an image is listed whole.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import Item, Lazily, Listing, expect_below, reader_below
from tfrecords.listing.layout import Layout
from tfrecords.listing.tables import file_rows, in_order

COLUMNS = ("label", "path", "split", "is_query", "is_gallery")
YES, NO = ("true", "1", "1.0"), ("false", "0", "0.0", "", "none", "nan")


def oml(root: Path, split: str = "train") -> Listing:
    """Lists the rows of one split in their order.

    `split`: train, validation, query or gallery. Raises BadInput: no such file, a missing column, a damaged row, a path
    outside the folder, no row of the split.
    """
    table = root / "df.csv" if root.is_dir() else root
    if not table.is_file():
        raise BadInput(f"layout oml expects its root to be the CSV, or a folder with df.csv: {table} does not exist")
    classes = in_order(label for label, _ in _rows(table, split))
    if not classes:
        raise BadInput(f"{table} has no row of the split {split}")
    return Listing(classes, Lazily(_items, table, split))


def _items(table: Path, split: str) -> Iterator[Item]:
    for label, path in _rows(table, split):
        yield Item(path, label, reader_below(table.parent, path))


def _rows(table: Path, split: str) -> Iterator[tuple[str, str]]:
    """Class and path of each image of the split."""
    folder = os.path.abspath(table.parent)
    for number, (label, path, of, query, gallery) in enumerate(file_rows(table, COLUMNS), 1):
        if of not in ("train", "validation"):
            raise BadInput(f"{table}: row {number}: expected split train or validation, got {of[:60]!r}")
        if not label:
            raise BadInput(f"{table}: row {number}: expected a label, it is empty")
        roles = {"query": _flag(table, number, query), "gallery": _flag(table, number, gallery)}
        if of == "validation" and not any(roles.values()):
            raise BadInput(f"{table}: row {number}: expected is_query or is_gallery, a row of validation has neither")
        if os.path.isabs(path):
            path = os.path.relpath(path, folder)
        expect_below(path, table, number)
        if split == of or (of == "validation" and roles.get(split)):
            yield label, path


def _flag(table: Path, number: int, text: str) -> bool:
    if text.lower() not in YES + NO:
        raise BadInput(f"{table}: row {number}: expected True or False as is_query and is_gallery, got {text[:60]!r}")
    return text.lower() in YES


LAYOUT = Layout("oml", oml, splits=("train", "validation", "query", "gallery"), searched={"query": "gallery"})
