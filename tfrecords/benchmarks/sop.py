"""Stanford Online Products: `Ebay_train.txt` and `Ebay_test.txt` beside the folders `bicycle_final/` ….

The root is that folder, the folder above it, or `Stanford_Online_Products.zip` (or a folder that holds it). Lines are
`image_id class_id super_class_id path`. The classes of the two lists are disjoint; of the test list each image searches
the others.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Store, find
from tfrecords.listing.items import Item, Lazily, Listing, expect_below
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import in_order, is_number, rows

COLUMNS = ("class_id", "path")


def sop(root: Path, split: str = "train") -> Listing:
    """Lists one split in the order of its list.

    `split`: train or test. Raises BadInput: the list is missing, damaged, empty, or names a path outside the folder.
    """
    name = f"Ebay_{split}.txt"
    store = find(root, name, ("Stanford_Online_Products.zip",))
    if store is None:
        raise BadInput(f"layout sop expects {name} in {root}: is the root right?")
    listed = list(_rows(store, name))
    if not listed:
        raise BadInput(f"{store.where}: {name} lists no image")
    return Listing(in_order(label for label, _ in listed), Lazily(_items, store, listed))


def _rows(store: Store, name: str) -> Iterator[tuple[str, str]]:
    """Class and path of each image."""
    where = f"{store.where}: {name}"
    for number, (label, path) in enumerate(rows(store.text(name).splitlines(), where, COLUMNS, " "), 1):
        if not is_number(label):
            raise BadInput(f"{where}: row {number}: expected a number as class_id, got {label[:60]!r}")
        expect_below(path, where, number)
        yield label, path


def _items(store: Store, listed: list[tuple[str, str]]) -> Iterator[Item]:
    for label, path in listed:
        yield Item(path, label, store.reader(path))


LAYOUT = Layout("sop", sop, {"train": Size(11_318, 59_551), "test": Size(11_316, 60_502)}, searched={"test": "test"})
