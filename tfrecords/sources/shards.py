"""Existing TFRecords with the public keys (`image/encoded`, `image/class/label`): the guie-* sets as they
are.

Classes are the labels found, in the order of their numbers (a set whose labels begin at 1000 takes its place
in this run's label space), or, for records that guie has built, the classes of their `labels.json`. A label
is only found by reading, so every shard is gone through once when the set is listed.
"""

import mmap
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from tfrecords import labels
from tfrecords.schema import Record, parse
from tfrecords.shards import FOOTER_BYTES, HEADER_BYTES, masked_crc, shard_index
from tfrecords.sources.items import Item, Lazily, Listing, existing_folder


def existing_shards(root: Path, pattern: str = "*.tfrec*") -> Listing:
    """Lists the records of the shards in `root` that match `pattern`.

    Raises:
        BadInput: no such shard, a damaged frame, a record without image or label, or a label that the
            `labels.json` beside the shards does not have.
    """
    existing_folder(root, "a folder of TFRecord shards")
    paths = sorted(path for path in root.glob(pattern) if path.is_file())
    if not paths:
        raise BadInput(f"layout tfrecords expects shards {pattern} in {root}: found none (option pattern)")
    found = [_labels(path) for path in paths]
    present = np.unique(np.concatenate([numbers for numbers, _ in found])).tolist()
    if not present:
        raise BadInput(f"{root}: its {len(paths)} shards hold no record")
    if (root / "labels.json").is_file():
        space = labels.read(root / "labels.json")
        several = len(space.sources) > 1  # the same class name may then stand twice
        classes = [f"{source}/{name}" if several else name for source, name in space.classes]
        known = dict(zip(classes, space.classes, strict=True))
        names = {name: space.names[id_] for name, id_ in known.items() if id_ in space.names}
        if not 0 <= present[0] <= present[-1] < len(classes):
            raise BadInput(
                f"{root}: a record has the label {present[-1]}, labels.json has {len(classes)} classes"
            )
        of_label = dict(enumerate(classes))
    else:
        of_label = {label: str(label) for label in present}
        classes, names = list(of_label.values()), {}
    return Listing(classes, Lazily(_items, paths, found, of_label), names)


def read_record(path: str, offset: int, length: int) -> bytes:
    """The image of the record framed at `offset`; raises ValueError where its CRC is wrong or it holds none."""
    with open(path, "rb") as file:
        file.seek(offset)
        framed = file.read(length)
    payload = framed[HEADER_BYTES:-FOOTER_BYTES]
    if len(framed) != length or struct.unpack("<I", framed[-FOOTER_BYTES:])[0] != masked_crc(payload):
        raise ValueError(f"{path}: the record at offset {offset} is damaged")
    return parse(payload).encoded


def _items(
    paths: list[Path], found: list[tuple[np.ndarray, bool]], of_label: dict[int, str]
) -> Iterator[Item]:
    for path, (numbers, keyed) in zip(paths, found, strict=True):
        keys = (record.key for record in _records(path)) if keyed else None
        for index, (offset, length) in enumerate(shard_index(path).tolist()):
            key = (next(keys) if keys else "") or f"{path.name}#{index:06d}"
            yield Item(key, of_label[int(numbers[index])], partial(read_record, str(path), offset, length))


def _labels(path: Path) -> tuple[np.ndarray, bool]:
    """The label of each record, [N] int64, and whether the records have keys of their own."""
    keyed, numbers = False, []
    for record in _records(path):
        numbers.append(record.label)
        keyed = keyed or bool(record.key)
    return np.array(numbers, np.int64), keyed


def _records(path: Path) -> Iterator[Record]:
    """Every record by the index; CRCs are checked when an image is read, not here."""
    spans = shard_index(path).tolist()
    if not spans:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        for offset, length in spans:
            try:
                yield parse(pages[offset + HEADER_BYTES : offset + length - FOOTER_BYTES])
            except ValueError as error:
                raise BadInput(f"{path}: the record at offset {offset}: {error}") from None
