"""Existing TFRecords with the public keys (`image/encoded`, `image/class/label`): the guie-* sets as they are.

Classes are the labels found, in numerical order (a set whose labels begin at 1000 gets labels of this run), or, for
records that guie has built, the classes of their `labels.json`. Only the records hold the labels, so listing reads
every shard once.
"""

import glob
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from pipeline.files import matching
from pipeline.reading import file_of, reader
from tfrecords import labels
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder
from tfrecords.listing.layout import Layout
from tfrecords.schema import Record, parse_record
from tfrecords.shards import mapped_payloads, shard_index, unframed


def existing_shards(root: Path, pattern: str = "*.tfrec*") -> Listing:
    """Lists the records of the shards in `root` that match `pattern`.

    Raises BadInput: no such shard, a damaged frame, a record without image or label, or a label that the `labels.json`
    beside the shards does not have.
    """
    existing_folder(root, "a folder of TFRecord shards")
    paths = [Path(str(path)) for path in matching(f"{glob.escape(str(root))}/{pattern}") if path.is_file()]
    if not paths:
        raise BadInput(f"layout tfrecords expects shards {pattern} in {root}: found none (option pattern)")
    found = [np.array([record.label for _, record in _headers(path)], np.int64) for path in paths]
    present = np.unique(np.concatenate(found)).tolist()
    if not present:
        raise BadInput(f"{root}: its {len(paths)} shards hold no record")
    if (root / "labels.json").is_file():
        space = labels.read(root / "labels.json")
        several = len(space.sources) > 1  # two of them may have a class of the same name
        classes = [f"{source}/{name}" if several else name for source, name in space.classes]
        class_ids = dict(zip(classes, space.classes, strict=True))
        names = {name: space.names[class_id] for name, class_id in class_ids.items() if class_id in space.names}
        if not 0 <= present[0] <= present[-1] < len(classes):
            raise BadInput(f"{root}: a record has the label {present[-1]}, labels.json has {len(classes)} classes")
        of_label = dict(enumerate(classes))
    else:
        of_label = {label: str(label) for label in present}
        classes, names = list(of_label.values()), {}
    return Listing(classes, Lazily(_items, paths, of_label), names)


def read_record(path: str, offset: int, length: int) -> bytes:
    """The image of the record framed at `offset`; raises ValueError where its CRC is wrong or it has no image."""
    framed = reader(file_of(path)).read(offset, length)
    try:
        payload = unframed(framed, length)
    except ValueError:
        raise ValueError(f"{path}: the record at offset {offset} is damaged") from None
    return parse_record(payload).encoded


def _items(paths: list[Path], of_label: dict[int, str]) -> Iterator[Item]:
    for path in paths:
        for number, ((offset, length), record) in enumerate(_headers(path)):
            read = partial(read_record, str(path), offset, length)
            yield Item(record.key or f"{path.name}#{number:06d}", of_label[record.label], read)


def _headers(path: Path) -> Iterator[tuple[list[int], Record]]:
    """Span and record of each, the images left out: they are not read, so no CRC is checked."""
    spans = shard_index(path)
    for span, payload in zip(spans.tolist(), mapped_payloads(path, spans), strict=True):
        try:
            yield span, parse_record(payload, image=False)
        except ValueError as error:
            raise BadInput(f"{path}: the record at offset {span[0]}: {error}") from None


LAYOUT = Layout("tfrecords", existing_shards)
