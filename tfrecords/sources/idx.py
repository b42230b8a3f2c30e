"""MNIST and Fashion-MNIST: idx files, gzipped or not, in the root, in `raw/` or in `<Name>/raw/`."""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from tfrecords.listing.arrays import batch, read_image
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder, read_file
from tfrecords.listing.layout import Layout, Size

DIGITS = {str(digit): str(digit) for digit in range(10)}
KINDS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FASHION = {str(number): kind for number, kind in enumerate(KINDS)}
STEMS = {"train": "train", "test": "t10k"}
PUBLISHED = {"train": Size(10, 60_000), "test": Size(10, 10_000), "all": Size(10, 70_000)}
MAX_BYTES = 1 << 30  # of a file unpacked; MNIST has 47 MB


def mnist(root: Path, split: str = "train") -> Listing:
    """Lists MNIST's digits; `split` is train, test or all. Raises BadInput where a file is missing or damaged."""
    return _listing(root, split, DIGITS)


def fashion_mnist(root: Path, split: str = "train") -> Listing:
    """Lists Fashion-MNIST's ten kinds; `split` is train, test or all. Raises BadInput as `mnist`."""
    return _listing(root, split, FASHION)


def parse_idx(data: bytes) -> np.ndarray:
    """The uint8 array of an idx file's bytes, gzipped or not.

    Raises ValueError: not an idx file of bytes, or shorter or longer than its header says.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(MAX_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"the gzip stream is damaged: {error}") from None
    if len(data) < 8 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4:
        raise ValueError(f"no idx header of unsigned bytes: {data[:4].hex()!r}")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise ValueError(f"the header says {shape} bytes, {len(data) - start} follow")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _listing(root: Path, split: str, names: dict[str, str]) -> Listing:
    existing_folder(root, "a folder of idx files")
    splits = ("train", "test") if split == "all" else (split,)
    files = {s: (_find(root, f"{STEMS[s]}-images"), _find(root, f"{STEMS[s]}-labels")) for s in splits}
    return Listing(list(names), Lazily(_items, files), names)


def _items(files: dict[str, tuple[Path, Path]]) -> Iterator[Item]:
    for split, (images, labels_file) in files.items():
        try:
            labels = parse_idx(read_file(str(labels_file)))
        except (OSError, ValueError) as error:
            raise BadInput(f"{labels_file} is not an idx file of labels: {error}") from None
        if labels.ndim != 1 or (len(labels) and labels.max() > 9):
            raise BadInput(f"{labels_file}: expected one label 0–9 an image, got shape {labels.shape}")
        file = batch(partial(read_file, str(images)), parse_idx)
        for index, label in enumerate(labels):
            yield Item(f"{split}/{index:05d}", str(label), partial(read_image, file, index))


def _find(root: Path, stem: str) -> Path:
    """The file `train-images-idx3-ubyte` under any of its usual names: with a dot, with .gz, in raw/."""
    folders = [root, root / "raw", *sorted(root.glob("*/raw"))]
    names = [f"{stem}{dash}{kind}-ubyte{end}" for end in ("", ".gz") for dash in "-." for kind in ("idx3", "idx1")]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise BadInput(f"expected {stem}-idx{3 if 'images' in stem else 1}-ubyte (or .gz) in {root}, found none")


MNIST = Layout("mnist", mnist, PUBLISHED)
FASHION_MNIST = Layout("fashion_mnist", fashion_mnist, PUBLISHED)
