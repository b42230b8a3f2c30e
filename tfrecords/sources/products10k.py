"""Products-10K: `train.csv` and `test.csv` with `name,class,group` beside the images in `train/` and `test/`.

`train.zip` and `test.zip` are read as they are where the folders are missing. Both splits have the classes of
`train.csv` in numerical order, so the same class has the same label in each; `class_names.csv` (`class,name`) names
them where it exists.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Store, open_archive
from tfrecords.listing.items import Item, Lazily, Listing, existing_file, existing_folder
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import class_counts, file_rows, in_order


def products10k(root: Path, split: str = "train", iconic: bool = False) -> Listing:
    """Lists one split.

    Args:
        root: the folder that holds `train.csv`.
        split: train or test.
        iconic: the studio photographs `iconic/<class>.jpg` too.

    Raises BadInput: a folder, CSV or column is missing, or a class is no whole number.
    """
    existing_folder(root, "the folder of Products-10K")
    table = existing_file(root / f"{split}.csv", "products10k")
    train = existing_file(root / "train.csv", "products10k")
    classes = in_order(class_counts(train, ("class",), numbers=True))
    if split == "test":  # classes that only the test has come last, so the others keep their labels
        known = set(classes)
        classes += in_order(label for (label,) in file_rows(table, ("class",)) if label not in known)
    names = {}
    if (root / "class_names.csv").is_file():
        names = {row[0]: row[1] for row in file_rows(root / "class_names.csv", ("class", "name"))}
    return Listing(classes, Lazily(_items, root, split, table, classes if iconic else []), names)


def _items(root: Path, split: str, table: Path, iconic_classes: list[str]) -> Iterator[Item]:
    store = _images(root, split)
    for name, label in file_rows(table, ("name", "class")):
        yield Item(f"{split}/{name}", label, store.reader(name))
    if iconic_classes:
        photos = Store(existing_folder(root / "iconic", "the iconic photographs of Products-10K"))
        present = set(photos.files())
        for label in iconic_classes:
            if f"{label}.jpg" in present:
                yield Item(f"iconic/{label}.jpg", label, photos.reader(f"{label}.jpg"))


def _images(root: Path, split: str) -> Store:
    if (root / split).is_dir():
        return Store(root / split)
    if (root / f"{split}.zip").is_file():
        packed = open_archive(root / f"{split}.zip")
        return Store(packed.where, packed.readers, f"{split}/") if packed.has_folder(split) else packed
    raise BadInput(f"layout products10k expects the images in {root / split}/ or {split}.zip: found neither")


LAYOUT = Layout(
    "products10k",
    products10k,
    {"train": Size(9691, 141_931), "test": Size(9691, 55_376)},
    sized=lambda size, options: size._replace(images=size.images + size.classes * options["iconic"]),
)
