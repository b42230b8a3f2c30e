"""CARS196 for retrieval: `cars_annos.mat` and `car_ims/` (or `car_ims.tgz`).

The first 98 of the 196 classes are trained on, of the other 98 each image searches the others. (The set's own split for
classification shares its classes, and is not used.)
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput, reason
from pipeline.guards import machine
from tfrecords.listing.archives import Store, open_archive
from tfrecords.listing.items import Item, Lazily, Listing, existing_file, existing_folder, expect_below
from tfrecords.listing.layout import Layout, Size

LIST, TRAINED_CLASSES = "cars_annos.mat", 98
LARGEST_BYTES = 1 << 28  # of a variable of the list, unpacked; the set's own takes some ten million
COMPRESSED = 15  # the kind of a packed variable in MATLAB's format 5


def cars196(root: Path, split: str = "train") -> Listing:
    """Lists one split in the order of `cars_annos.mat`.

    `split`: train or test. Raises BadInput: that file is missing, damaged or of another form, names a path outside the
    folder; the images are missing.
    """
    existing_folder(root, "the folder of CARS196")
    path = existing_file(root / LIST, "cars196")
    names, listed = _annotations(path)
    listed = [(image, label) for image, label in listed if (label <= TRAINED_CLASSES) == (split == "train")]
    if not listed:
        raise BadInput(f"{path} lists no image of the split {split}")
    classes = sorted({label for _, label in listed})
    named = {str(label): names[label - 1] for label in classes if label <= len(names)}
    return Listing([str(label) for label in classes], Lazily(_items, _images(root), listed), named)


def _annotations(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Names of classes 1, 2, …; path and class of each image."""
    from scipy.io import loadmat  # scipy takes a third of a second to import

    try:
        _refuse_bomb(path)
        # A struct array is [1, N]; the names are cells.
        held = loadmat(str(path), variable_names=("annotations", "class_names"), squeeze_me=True)
        table = np.ravel(held["annotations"])
        paths, labels = table["relative_im_path"].tolist(), table["class"].tolist()
        names = [str(each) for each in np.ravel(held["class_names"]).tolist()]
    except Exception as error:  # of whatever kind the damage is
        if machine.refuses(error):
            raise
        what = "annotations (relative_im_path, class) and class_names"
        raise BadInput(
            f"{path}: expected MATLAB's struct array {what}, it cannot be read so: {reason(error)}"
        ) from None
    listed = []
    for number, (image, label) in enumerate(zip(paths, labels, strict=True), 1):
        if type(image) is not str or type(label) is not int or label < 1:
            raise BadInput(f"{path}: row {number}: expected a path and a class from 1 on, got {(image, label)!r}"[:300])
        expect_below(image, path, number)
        listed.append((image, label))
    return names, listed


def _refuse_bomb(path: Path) -> None:
    """Raises ValueError where a variable of a .mat would unpack to more than LARGEST_BYTES."""
    data = path.read_bytes()
    at = 128  # behind the header
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj()
            unpacked.decompress(data[at + 8 : at + 8 + size], LARGEST_BYTES)
            if unpacked.unconsumed_tail:
                raise ValueError(f"a variable of more than {LARGEST_BYTES:,} bytes")
        at += 8 + size


def _images(root: Path) -> Store:
    if (root / "car_ims").is_dir():
        return Store(root)
    if (root / "car_ims.tgz").is_file():
        return open_archive(root / "car_ims.tgz")
    raise BadInput(f"layout cars196 expects the images in {root / 'car_ims'} or car_ims.tgz: found neither")


def _items(store: Store, listed: list[tuple[str, int]]) -> Iterator[Item]:
    for image, label in listed:
        yield Item(image, str(label), store.reader(image))


LAYOUT = Layout("cars196", cars196, {"train": Size(98, 8_054), "test": Size(98, 8_131)}, searched={"test": "test"})
