"""CIFAR-10 and CIFAR-100: the Python pickles and the binary form, as folders or as the published `.tar.gz`.

The pickles are read by `plain_pickle`, which executes none of their code. Classes are in the sets' own order.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import BadInput
from tfrecords.listing import plain_pickle
from tfrecords.listing.archives import Store, find
from tfrecords.listing.arrays import batch, read_image
from tfrecords.listing.items import Item, Lazily, Listing
from tfrecords.listing.layout import Layout, Size

SIDE = 32
PIXELS = 3 * SIDE * SIDE
TEN = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
HUNDRED = {"train": ["train"], "test": ["test"]}
# Of a pickle the key of its labels; of a binary None, the bytes of labels before an image's pixels, and which counts.
Form = tuple[bytes | None, int, int]
PUBLISHED = {"train": 50_000, "test": 10_000, "all": 60_000}  # images, of either set


def cifar10(root: Path, split: str = "train") -> Listing:
    """Lists CIFAR-10.

    `root`: the folder of the batches, one above it, or the archive. `split`: train, test or all. Raises BadInput:
    neither form is there, or a file is missing, damaged or holds more than arrays and containers.
    """
    archives = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
    files = _files(TEN, split)
    if (python := find(root, "batches.meta", archives)) is not None:
        names = _names(python, "batches.meta", b"label_names")
        return _listing(python, files, "", names, (b"labels", 0, 0))
    if (binary := find(root, "batches.meta.txt", archives)) is not None:
        return _listing(binary, files, ".bin", _lines(binary, "batches.meta.txt"), (None, 1, 0))
    raise BadInput(f"layout cifar10 expects batches.meta or batches.meta.txt in {root}: found neither")


def cifar100(root: Path, split: str = "train", coarse: bool = False) -> Listing:
    """Lists CIFAR-100 by its 100 fine or 20 coarse classes. Other arguments and errors as `cifar10`."""
    archives = ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz")
    files = _files(HUNDRED, split)
    kind = "coarse" if coarse else "fine"
    if (python := find(root, "meta", archives)) is not None:
        names = _names(python, "meta", f"{kind}_label_names".encode())
        return _listing(python, files, "", names, (f"{kind}_labels".encode(), 0, 0))
    if (binary := find(root, "fine_label_names.txt", archives)) is not None:
        names = _lines(binary, f"{kind}_label_names.txt")
        return _listing(binary, files, ".bin", names, (None, 2, 0 if coarse else 1))
    raise BadInput(f"layout cifar100 expects meta or fine_label_names.txt in {root}: found neither")


def parse_pickle(data: bytes) -> np.ndarray:
    """A python batch's bytes → uint8 [N, 32, 32, 3]. Raises ValueError."""
    return _images(_field(plain_pickle.loads(data), b"data"))


def parse_binary(label_bytes: int, data: bytes) -> np.ndarray:
    """A binary batch's bytes → uint8 [N, 32, 32, 3]. Raises ValueError."""
    return _images(_binary_rows(label_bytes, data)[:, label_bytes:])


def _listing(store: Store, files: list[str], suffix: str, names: list[str], form: Form) -> Listing:
    for file in files:
        if not store.has(file + suffix):
            raise BadInput(f"expected the file {file}{suffix} in {store.where}: the set is not whole")
    return Listing(names, Lazily(_items, store, [file + suffix for file in files], names, form))


def _items(store: Store, files: list[str], names: list[str], form: Form) -> Iterator[Item]:
    labels_key, label_bytes, label_byte = form
    for name in files:
        read = store.reader(name)
        try:
            if labels_key is not None:
                labels = _field(plain_pickle.loads(read()), labels_key)
            else:
                labels = _binary_rows(label_bytes, read())[:, label_byte].tolist()
        except (OSError, ValueError) as error:
            raise BadInput(f"{store.where}: {name} is not a CIFAR batch: {error}") from None
        if not isinstance(labels, list) or not all(type(n) is int and 0 <= n < len(names) for n in labels):
            raise BadInput(f"{store.where}: {name}: expected labels 0–{len(names) - 1}")
        file = batch(read, parse_pickle) if labels_key is not None else batch(read, parse_binary, label_bytes)
        for index, label in enumerate(labels):
            yield Item(f"{name}/{index:05d}", names[label], partial(read_image, file, index))


def _images(rows: Any) -> np.ndarray:
    plain = isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.ndim == 2
    if not plain or rows.shape[1] != PIXELS:
        raise ValueError(f"expected rows of {PIXELS} bytes")
    return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _binary_rows(label_bytes: int, data: bytes) -> np.ndarray:
    row = label_bytes + PIXELS
    if not data or len(data) % row:
        raise ValueError(f"{len(data)} bytes are no multiple of {row}: the file is cut short")
    return np.frombuffer(data, np.uint8).reshape(-1, row)


def _field(batch: Any, key: bytes) -> Any:
    """`batch[key]`: keys are bytes in the published pickles, text in pickles that Python 3 has rewritten."""
    if not isinstance(batch, dict):
        raise ValueError("expected a dict")
    for name in (key, key.decode()):
        if name in batch:
            return batch[name]
    raise ValueError(f"no {key.decode()!r} in it")


def _names(store: Store, file: str, key: bytes) -> list[str]:
    try:
        names = _field(plain_pickle.loads(store.reader(file)()), key)
    except (OSError, ValueError) as error:
        raise BadInput(f"{store.where}: {file} cannot be read: {error}") from None
    if not isinstance(names, list) or not names or not all(isinstance(n, bytes | str) for n in names):
        raise BadInput(f"{store.where}: {file}: expected a list of names")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]


def _lines(store: Store, file: str) -> list[str]:
    return [line.strip() for line in store.text(file).splitlines() if line.strip()]


def _files(of_splits: dict[str, list[str]], split: str) -> list[str]:
    return of_splits["train"] + of_splits["test"] if split == "all" else of_splits[split]


CIFAR10 = Layout("cifar10", cifar10, {split: Size(10, images) for split, images in PUBLISHED.items()})
CIFAR100 = Layout(
    "cifar100",
    cifar100,
    {split: Size(100, images) for split, images in PUBLISHED.items()},
    sized=lambda size, options: size._replace(classes=20) if options["coarse"] else size,
)
