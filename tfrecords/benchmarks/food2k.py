"""Food2K: `train_finetune.txt`, `val_finetune.txt`, `test_finetune.txt` with lines `path class`, `Food2k_complete/`.

The lists stand in the root, in `Food2k_label/` or in `Food2k_complete/`; paths, `<class>/<image>.jpg`, are below
`Food2k_complete/` or the root. The split `all` needs no list: a folder a class. All splits have the same classes;
class-disjoint ones are UnED's.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import (
    Item,
    Lazily,
    Listing,
    existing_folder,
    expect_below,
    file_in,
    files_below,
    reader_below,
)
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import in_order, is_number, text_lines

IMAGES, PLACES = "Food2k_complete", ("", "Food2k_label", "Food2k_complete")


def food2k(root: Path, split: str = "train") -> Listing:
    """Lists one split in the order of its list; `all` class by class.

    `split`: train, val, test or all. Raises BadInput: the list or the images are missing; a line is damaged, or names a
    path outside the folder.
    """
    existing_folder(root, "the folder of Food2K")
    images = root / IMAGES if (root / IMAGES).is_dir() else root
    listed = _of_folders(images) if split == "all" else _of_list(root, split)
    if not listed:
        raise BadInput(f"layout food2k: the split {split} of {root} holds no image")
    return Listing(in_order(label for _, label in listed), Lazily(_items, images, listed))


def _of_folders(images: Path) -> list[tuple[str, str]]:
    found = [(path, path.split("/")[0]) for path in files_below(str(images))]
    found = [(path, label) for path, label in found if path != label and is_number(label)]
    return sorted(found, key=lambda each: (int(each[1]), each[0]))


def _of_list(root: Path, split: str) -> list[tuple[str, str]]:
    path = file_in(root, PLACES, f"{split}_finetune.txt", "food2k")
    found = []
    for number, line in enumerate(text_lines(path), 1):
        image, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not is_number(label):
            raise BadInput(f"{path}: row {number}: expected a path and the number of a class, got {line[:80]!r}")
        image = image.strip().removeprefix("/")  # the authors' code joins them as text
        expect_below(image, path, number)
        found.append((image, label))
    return found


def _items(images: Path, listed: list[tuple[str, str]]) -> Iterator[Item]:
    for path, label in listed:
        yield Item(path, label, reader_below(images, path))


LAYOUT = Layout("food2k", food2k, {"all": Size(2_000, 1_036_564)}, splits=("all", "train", "val", "test"))
