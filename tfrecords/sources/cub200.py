"""CUB-200-2011 as published: `images.txt`, `image_class_labels.txt`, `classes.txt`, `train_test_split.txt`, `images/`.

The root is that folder, the folder above it, or the archive `CUB_200_2011.tgz` (or a folder that holds it).

For retrieval the first 100 classes are trained on; of the other 100 each image searches the others.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Store, find
from tfrecords.listing.items import Item, Lazily, Listing
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import is_number

TRAINED_CLASSES = 100  # of the protocol for retrieval


def cub200(root: Path, split: str = "all") -> Listing:
    """Lists the birds of one split, classes in the set's own order.

    `split`: all, train or test (by `train_test_split.txt`). Raises BadInput: a text file of the set is missing or
    contradicts the others.
    """
    store, classes, labels = _tables(root)
    wanted = None
    if split != "all":
        flags = _table(store, "train_test_split.txt")
        wanted = {image for image, flag in flags.items() if flag == ("1" if split == "train" else "0")}
    return _listing(store, classes, labels, wanted)


def cub200_retrieval(root: Path, split: str = "train") -> Listing:
    """Lists the birds of classes 1 to 100 (`split` train) or of the others (test). Raises BadInput as `cub200`."""
    store, classes, labels = _tables(root)
    classes = {
        number: name for number, name in classes.items() if (int(number) <= TRAINED_CLASSES) == (split == "train")
    }
    if not classes:
        raise BadInput(f"{store.where}: classes.txt has no class of the split {split} (the first 100 are train)")
    return _listing(store, classes, labels, {image for image, label in labels.items() if label in classes})


def _tables(root: Path) -> tuple[Store, dict[str, str], dict[str, str]]:
    """The set, number → class, image → number of its class."""
    store = find(root, "images.txt", ("CUB_200_2011.tgz", "CUB_200_2011.tar.gz", "CUB_200_2011.tar"))
    if store is None:
        raise BadInput(f"layout cub200 expects images.txt in {root}: is the root right?")
    classes = _table(store, "classes.txt")
    labels = _table(store, "image_class_labels.txt")
    if unknown := next((label for label in labels.values() if label not in classes), None):
        raise BadInput(f"{store.where}: image_class_labels.txt names the class {unknown}, classes.txt does not")
    return store, classes, labels


def _listing(store: Store, classes: dict[str, str], labels: dict[str, str], wanted: set[str] | None) -> Listing:
    ordered = sorted(classes, key=int)
    names = {classes[n]: classes[n].partition(".")[2].replace("_", " ") or classes[n] for n in ordered}
    return Listing([classes[n] for n in ordered], Lazily(_items, store, classes, labels, wanted), names)


def _items(store: Store, classes: dict[str, str], labels: dict[str, str], wanted: set[str] | None) -> Iterator[Item]:
    for image, path in _table(store, "images.txt").items():
        if wanted is not None and image not in wanted:
            continue
        if image not in labels:
            raise BadInput(f"{store.where}: image {image} has no line in image_class_labels.txt")
        yield Item(path, classes[labels[image]], store.reader(f"images/{path}"))


def _table(store: Store, name: str) -> dict[str, str]:
    """Lines such as `1 001.Black_footed_Albatross` → number → rest."""
    table = {}
    for number, line in enumerate(store.text(name).splitlines(), 1):
        key, _, value = line.strip().partition(" ")
        if not key:
            continue
        if not is_number(key) or not value:
            raise BadInput(f"{store.where}: {name} line {number}: expected a number and a value, got {line[:60]!r}")
        table[key] = value.strip()
    return table


LAYOUT = Layout("cub200", cub200, {"all": Size(200, 11_788), "train": Size(200, 5_994), "test": Size(200, 5_794)})
RETRIEVAL = Layout(
    "cub200_retrieval",
    cub200_retrieval,
    {"train": Size(100, 5_864), "test": Size(100, 5_924)},
    searched={"test": "test"},
)
