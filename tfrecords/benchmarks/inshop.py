"""DeepFashion's In-shop Clothes Retrieval: `list_eval_partition.txt` and `img/WOMEN/Dresses/id_00000002/….jpg`.

The list stands in the root or its `Eval/`; `img/` (or `img.zip`) in the root or its `Img/`. Its first line is the
number of images, its second the header `image_name item_id evaluation_status`. Queries search the gallery; no item of
theirs is trained on.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Store, find
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder, expect_below, file_in
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import in_order, is_number, text_lines

LIST, HEADER = "list_eval_partition.txt", ["image_name", "item_id", "evaluation_status"]
SPLITS = ("train", "query", "gallery")


def inshop(root: Path, split: str = "train") -> Listing:
    """Lists one split in the order of the list.

    `split`: train, query or gallery. Raises BadInput: the list or the images are missing; the list is damaged, has no
    image of the split, or names a path outside the folder.
    """
    existing_folder(root, "the folder of In-shop Clothes Retrieval")
    path = file_in(root, ("", "Eval", "Anno"), LIST, "inshop")
    listed = [(image, item) for image, item, status in _rows(path) if status == split]
    if not listed:
        raise BadInput(f"{path} lists no image of the split {split}")
    return Listing(in_order(item for _, item in listed), Lazily(_items, _images(root), listed))


def _rows(path: Path) -> Iterator[list[str]]:
    """Image, item and split of each line."""
    lines = text_lines(path)
    if len(lines) < 2 or not is_number(lines[0].strip()) or lines[1].split() != HEADER:
        raise BadInput(f"{path}: expected the number of images, then the line {' '.join(HEADER)!r}")
    found = 0
    for number, line in enumerate(lines[2:], 1):
        values = line.split()
        if not values:
            continue
        if len(values) != 3 or values[2] not in SPLITS:
            raise BadInput(
                f"{path}: row {number}: expected {' '.join(HEADER)} ({', '.join(SPLITS)}), got {line[:80]!r}"
            )
        expect_below(values[0], path, number)
        found += 1
        yield values
    if found != int(lines[0]):
        raise BadInput(f"{path}: its first line says {int(lines[0])} images, {found} follow: it is cut off")


def _images(root: Path) -> Store:
    for folder in (root, root / "Img"):
        if folder.is_dir() and (found := find(folder, "img", ("img.zip",))) is not None:
            return found
    raise BadInput(
        f"layout inshop expects the images in {root / 'img'} or {root / 'Img' / 'img'}, or img.zip: found none"
    )


def _items(store: Store, listed: list[tuple[str, str]]) -> Iterator[Item]:
    for image, item in listed:
        yield Item(image, item, store.reader(image))


LAYOUT = Layout(
    "inshop",
    inshop,
    {"train": Size(3_997, 25_882), "query": Size(3_985, 14_218), "gallery": Size(3_985, 12_612)},
    searched={"query": "gallery"},
)
