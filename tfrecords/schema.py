"""The record: its keys and types; to bytes and back.

`image/encoded` (JPEG bytes) and `image/class/label` (int64) are the keys of the public guie-* sets, so their shards
and ours are interchangeable. `image/key` and `image/source` are ours and may be missing.

Writing uses the package `tfrecord`. Reading walks the protobuf wire format itself: that package cannot be imported
after TensorFlow ("duplicate symbol"), and training reads shards beside TensorFlow.
"""

import importlib
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import NamedTuple, TypeVar

from pipeline.errors import BadInput
from pipeline.reading import File, View
from tfrecords.shards import read_payloads

Bytes = TypeVar("Bytes", memoryview, View)
ENCODED, LABEL, KEY, SOURCE = "image/encoded", "image/class/label", "image/key", "image/source"


class Record(NamedTuple):
    encoded: bytes  # JPEG
    label: int  # in the label space of labels.json
    key: str = ""  # of the image in its source
    source: str = ""


@cache
def _example_pb2() -> ModuleType:
    """`tfrecord.example_pb2` without torch, which the package imports where it is installed (2 s, 200 MB)."""
    if "tensorflow" in sys.modules:  # a process registers a message type once; TensorFlow's is the same message
        return importlib.import_module("tensorflow.core.example.example_pb2")
    missing = object()
    before = sys.modules.get("tfrecord.torch", missing)
    if before is missing and "tfrecord" not in sys.modules:
        # With None in its place the import fails, which the package catches.
        sys.modules["tfrecord.torch"] = None  # type: ignore[assignment]
        try:
            from tfrecord import example_pb2
        finally:
            del sys.modules["tfrecord.torch"]
    else:
        from tfrecord import example_pb2
    return example_pb2


def serialize(record: Record) -> bytes:
    """The record as a `tf.train.Example`; equal records give equal bytes."""
    example = _example_pb2().Example()
    feature = example.features.feature
    feature[ENCODED].bytes_list.value.append(record.encoded)
    feature[LABEL].int64_list.value.append(record.label)
    feature[KEY].bytes_list.value.append(record.key.encode())
    feature[SOURCE].bytes_list.value.append(record.source.encode())
    return example.SerializeToString(deterministic=True)  # the order of a map's entries is undefined otherwise


def parse_record(payload: bytes | memoryview, image: bool = True) -> Record:
    """The record of a serialised `tf.train.Example`.

    `image=False` leaves `encoded` empty, so that the image's bytes in a mapped file are not read. Raises ValueError:
    not an Example, or one without image or label.
    """
    label: int | None = None
    found: dict[str, memoryview] = {}
    try:
        for features in _fields(memoryview(payload), 1):
            for entry in _fields(features, 1):
                name = bytes(next(_fields(entry, 1))).decode()
                if name == LABEL:
                    label = _int64(next(_fields(entry, 2)))
                elif name in (ENCODED, KEY, SOURCE):
                    value = _bytes(next(_fields(entry, 2)))
                    if value is not None:
                        found[name] = value
        key, source = (bytes(found.get(name, b"")).decode() for name in (KEY, SOURCE))
    except (IndexError, StopIteration, UnicodeDecodeError):
        raise ValueError("a record that is no tf.train.Example") from None
    if ENCODED not in found or label is None:
        raise ValueError(f"a record without {LABEL if ENCODED in found else ENCODED}")
    return Record(bytes(found[ENCODED]) if image else b"", label, key, source)


def label_of(payload: Bytes) -> int | None:
    """The label of a serialised Example, found without looking at the rest; None where there is none."""
    wanted = LABEL.encode()
    try:
        for features in _fields(payload, 1):
            for entry in _fields(features, 1):
                if bytes(next(_fields(entry, 1))) == wanted:
                    return _int64(next(_fields(entry, 2)))
    except (IndexError, StopIteration):
        pass
    return None


def read_shard(path: File) -> Iterator[Record]:
    """Every record of a shard, in order; checks their CRCs. Raises BadInput: damage; names the shard and the offset."""
    for offset, payload in read_payloads(path):
        try:
            record = parse_record(payload)
        except ValueError as error:
            raise BadInput(f"{path}: expected {ENCODED} and {LABEL} in record at offset {offset}: {error}") from None
        yield record


def _varint(view: Bytes, at: int) -> tuple[int, int]:
    """The integer that begins at `at`, and where the next field begins."""
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def _fields(view: Bytes, wanted: int) -> Iterator[Bytes]:
    """The values of the fields numbered `wanted` of a message, as views (no copy)."""
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        kind = tag & 7
        if kind == 0:
            start = at
            _, at = _varint(view, at)
        elif kind == 2:
            length, start = _varint(view, at)
            at = start + length
        elif kind in (1, 5):
            start, at = at, at + (8 if kind == 1 else 4)
        else:
            raise IndexError
        if at > len(view):
            raise IndexError
        if tag >> 3 == wanted:
            yield view[start:at]


def _bytes(feature: memoryview) -> memoryview | None:
    """The first value of Feature.bytes_list."""
    return next((value for values in _fields(feature, 1) for value in _fields(values, 1)), None)


def _int64(feature: Bytes) -> int | None:
    """The first value of Feature.int64_list, packed or not."""
    for values in _fields(feature, 3):
        for value in _fields(values, 1):
            number, _ = _varint(value, 0)
            return number - (1 << 64) if number >= 1 << 63 else number
    return None
