"""The Met: `MET_database.json`, `mini_MET_database.json`, `valset.json`, `testset.json`, and the images that they name.

The lists stand in the root or its `ground_truth/`, the images (`MET/<id>/0.jpg`, `test_met/`, `test_other/`,
`test_noart/`) in the root or its `images/`. The training images are the index of the queries. A query without a
`MET_id` shows no exhibit of the Met: a distractor, NO_CLASS.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import (
    NO_CLASS,
    Item,
    Lazily,
    Listing,
    existing_folder,
    expect_below,
    file_in,
    reader_below,
)
from tfrecords.listing.json_rows import json_rows
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import is_number

LISTS = {"train": "MET_database.json", "mini": "mini_MET_database.json", "val": "valset.json", "test": "testset.json"}
DISTRACTORS = {"val": 2_036, "test": 18_316}


def met(root: Path, split: str = "train", distractors: bool = False) -> Listing:
    """Lists one split in the order of its list.

    Args:
        root: the folder that holds the lists or `ground_truth/`.
        split: train, mini (a tenth of train), val or test.
        distractors: the queries that show no exhibit, too.

    Raises BadInput: the list or the images are missing; the list is damaged, or names a path outside the folder.
    """
    existing_folder(root, "the folder of the Met")
    lists = file_in(root, ("", "ground_truth"), LISTS[split], "met")
    classes = sorted({label for _, label in _rows(lists, distractors)})
    if not classes:
        raise BadInput(f"{lists} lists no image")
    images = root / "images" if (root / "images").is_dir() else root
    return Listing([str(label) for label in classes], Lazily(_items, images, lists, distractors))


def _items(images: Path, lists: Path, distractors: bool) -> Iterator[Item]:
    for path, label in _rows(lists, distractors):
        yield Item(path, str(label), reader_below(images, path))


def _rows(lists: Path, distractors: bool) -> Iterator[tuple[str, int]]:
    """Path and exhibit of each image."""
    queries = lists.name in (LISTS["val"], LISTS["test"])
    for number, row in enumerate(json_rows(lists), 1):
        if queries and "MET_id" not in row and not distractors:
            continue
        label = row.get("MET_id", int(NO_CLASS)) if queries else row.get("id")
        if isinstance(label, str) and is_number(label):
            label = int(label)  # the authors' own code reads either
        path = row.get("path")
        if type(label) is not int or type(path) is not str:
            expected = f"path as text and {'MET_id' if queries else 'id'} as a whole number"
            raise BadInput(f"{lists}: row {number}: expected {expected}, got {path!r} and {label!r}"[:400])
        expect_below(path, lists, number)
        yield path, label


LAYOUT = Layout(
    "met",
    met,
    {"train": Size(224_408, 397_121), "mini": Size(33_501, 38_307), "val": Size(None, 129), "test": Size(None, 1_003)},
    sized=lambda size, options: size._replace(
        images=size.images + options["distractors"] * DISTRACTORS.get(options["split"], 0)
    ),
    searched={"val": "train", "test": "train"},
)
