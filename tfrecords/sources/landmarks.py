"""Google Landmarks v2 and Recognition 2021: `train.csv` with `id,landmark_id` (further columns are ignored).

Images lie under three levels of the id's first characters, `train/a/b/c/abc….jpg`, or in the public tars
`images_000.tar` …, in the root or in `train/`, which are read as they are. The landmarks with most images are taken;
of two with equally many, the one with the smaller id. Classes are in the order of their ids.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Reader, Store, open_archive
from tfrecords.listing.items import Item, Lazily, Listing, existing_file, existing_folder, refuse
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import class_counts, file_rows, in_order

COLUMNS = ("id", "landmark_id")


def landmarks(root: Path, classes: int = 7000) -> Listing:
    """Lists the images of the `classes` landmarks that have most.

    Raises BadInput: `train.csv` or the images are missing, a landmark id is no whole number, `classes` below 1.
    """
    if classes < 1:
        raise BadInput(f"layout landmarks: option classes expects 1 or more, got {classes}")
    existing_folder(root, "the folder of Google Landmarks")
    table = existing_file(root / "train.csv", "landmarks")
    counts = class_counts(table, COLUMNS, numbers=True)
    most = sorted(counts, key=lambda landmark: (-counts[landmark], int(landmark)))[:classes]
    return Listing(in_order(most), Lazily(_items, root, table, frozenset(most)))


def _items(root: Path, table: Path, taken: frozenset[str]) -> Iterator[Item]:
    packed = _tars(root)
    folder = Store(root / "train")
    for image, landmark in file_rows(table, COLUMNS):
        if landmark not in taken:
            continue
        if len(image) < 3 or not image.isalnum():
            read: Reader = partial(refuse, f"id {image!r} is no image id (three or more letters and digits)")
        elif packed is None:
            read = folder.reader(f"{image[0]}/{image[1]}/{image[2]}/{image}.jpg")
        else:
            read = packed.get(image) or partial(refuse, f"{image}.jpg is in none of the tars")
        yield Item(image, landmark, read)


def _tars(root: Path) -> dict[str, Reader] | None:
    """id → reader over all tars; None where the images are files."""
    paths = [path for folder in (root, root / "train") for path in sorted(folder.glob("images_*.tar"))]
    if not paths:
        existing_folder(root / "train", "the images in train/a/b/c/ or tars images_000.tar …")
        return None
    found: dict[str, Reader] = {}
    for path in paths:
        for name, reader in (open_archive(path).readers or {}).items():
            found[name.rsplit("/", 1)[-1].removesuffix(".jpg")] = reader
    return found


LAYOUT = Layout(
    "landmarks",
    landmarks,
    {"train": Size(81_313, 1_580_470)},
    sized=lambda size, options: size._replace(classes=min(size.classes, options["classes"])),
)
