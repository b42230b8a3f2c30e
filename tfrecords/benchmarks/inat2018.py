"""iNaturalist 2018: `train_val2018/<kingdom>/<category>/….jpg`, its JSON, and the lists for retrieval.

- train, test: `Inaturalist_train_set1.txt`, `Inaturalist_test_set1.txt` (in the root or `Inat_dataset_splits/`), a path
  a line; their classes are disjoint, of the test list each image searches the others.
- train2018, val2018: the competition's JSON (COCO's form: images, annotations); both have the same classes.

A class is the number of its category, which is also the folder of its images; `categories.json` names them where it is
there.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import (
    Item,
    Lazily,
    Listing,
    existing_file,
    existing_folder,
    expect_below,
    file_in,
    reader_below,
)
from tfrecords.listing.json_rows import json_rows
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import is_number, text_lines

LISTS = {"train": "Inaturalist_train_set1.txt", "test": "Inaturalist_test_set1.txt"}
SIZES = {
    "train": Size(5_690, 325_846),
    "test": Size(2_452, 136_093),
    "train2018": Size(8_142, 437_513),
    "val2018": Size(8_142, 24_426),
}


def inat2018(root: Path, split: str = "train") -> Listing:
    """Lists one split in the order of its list.

    `split`: train, test, train2018 or val2018. Raises BadInput: the list is missing, damaged, empty, or names a path
    outside the folder.
    """
    existing_folder(root, "the folder of iNaturalist 2018")
    if split in LISTS:
        path = file_in(root, ("", "Inat_dataset_splits"), LISTS[split], "inat2018")
        listed = list(_of_list(path))
    else:
        path = existing_file(root / f"{split}.json", "inat2018")
        listed = list(_of_json(path))
    if not listed:
        raise BadInput(f"{path} lists no image")
    classes = sorted({category for _, category in listed})
    names = _names(root / "categories.json")
    named = {str(category): names[category] for category in classes if category in names}
    return Listing([str(category) for category in classes], Lazily(_items, root, listed), named)


def _items(root: Path, listed: list[tuple[str, int]]) -> Iterator[Item]:
    for path, category in listed:
        yield Item(path, str(category), reader_below(root, path))


def _of_list(path: Path) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(map(str.strip, text_lines(path)), 1):
        if not line:
            continue
        folders = line.split("/")[:-1]
        if len(folders) < 2 or not is_number(folders[-1]):
            raise BadInput(f"{path}: row {number}: expected …/<category>/<image>, got {line[:80]!r}")
        expect_below(line, path, number)
        yield line, int(folders[-1])


def _of_json(path: Path) -> Iterator[tuple[str, int]]:
    """Annotations stand behind the images: two passes."""
    category_of: dict[int, int] = {}
    for number, row in enumerate(json_rows(path, "annotations"), 1):
        image, category = row.get("image_id"), row.get("category_id")
        if type(image) is not int or type(category) is not int or category < 0:
            came = f"{image!r} and {category!r}"[:100]
            raise BadInput(f"{path}: annotation {number}: expected image_id and category_id as numbers, got {came}")
        category_of[image] = category
    for number, row in enumerate(json_rows(path, "images"), 1):
        image, name = row.get("id"), row.get("file_name")
        if type(image) is not int or type(name) is not str or image not in category_of:
            came = f"{image!r} and {name!r}"[:200]
            raise BadInput(f"{path}: image {number}: expected an annotated id and file_name as text, got {came}")
        expect_below(name, path, number)
        yield name, category_of[image]


def _names(path: Path) -> dict[int, str]:
    """Category → species; empty where there is no such file."""
    rows = json_rows(path) if path.is_file() else ()
    return {row["id"]: row["name"] for row in rows if type(row.get("id")) is int and type(row.get("name")) is str}


LAYOUT = Layout("inat2018", inat2018, SIZES, searched={"test": "test"})
