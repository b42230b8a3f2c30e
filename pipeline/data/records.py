"""Records by number: what stands in the shards, found once, and read in any order. No TensorFlow.

A `RecordSet` knows of every record its shard, offset, length and label, so that the order of training is a matter of
arithmetic (`pipeline/data/batches.py`): any record can be read at any time, and resuming needs no replay.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from pipeline.files import fingerprint, identity, matching
from pipeline.reading import File, View, reader, side_by_side
from tfrecords.labels import SPLITS
from tfrecords.schema import LABEL, Record, label_of, parse_record
from tfrecords.shards import FOOTER_BYTES, HEADER_BYTES, mapped_payloads, shard_index, unframed

OPEN_FILES = 128  # a process may hold about a thousand; large sets have more shards than that
PIECE = 4  # records of which a thread reads a few bytes each, before it takes others
FAR_SECONDS = 5e-4  # a first byte that takes longer comes from a disk that is far away, or is asleep
SHARD_NAME = re.compile(rf"(?P<source>.+)-(?:{'|'.join(SPLITS)})-\d+-\d+\.tfrec")


class RecordSet:
    """The records of some shards, numbered 0 … N−1 in the order of shards and offsets."""

    def __init__(self, shards: Sequence[File], shard: np.ndarray, spans: np.ndarray, labels: np.ndarray):
        self.shards, self.shard = list(shards), shard  # the files; int32 [N], which of them a record is in
        self.spans, self.labels = spans, labels  # int64 [N, 2], offset and bytes of the framed record; int64 [N]
        self.whole: RecordSet | None = None  # what it is a part of, and which rows of that; None: nothing
        self.rows: np.ndarray | None = None
        # A file that leaves the cache is closed when the last read on it ends.
        self._file = lru_cache(OPEN_FILES)(lambda number: reader(self.shards[number]))

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: np.ndarray) -> "RecordSet":
        """The records of `rows`, int64 [n], as a set of its own."""
        found = RecordSet(self.shards, self.shard[rows], self.spans[rows], self.labels[rows])
        found.whole, found.rows, found._file = self, rows, self._file
        return found

    @cached_property
    def keys(self) -> list[str]:
        """`image/key` of every record; "" where a record has none (the public sets). Reads every record once."""
        return [key for key, _ in self._names]

    @cached_property
    def sources(self) -> list[str]:
        """`image/source` of every record; "" where a record has none. Reads every record once."""
        return [source for _, source in self._names]

    @cached_property
    def domains(self) -> np.ndarray:
        """str [N]: each record's source, by its shard's name, `<source>-<split>-<NN>-<count>.tfrec`; else "".

        Reads no record: the public sets', which have no `image/source`, are told apart, too.
        """
        names = [SHARD_NAME.fullmatch(path.name) for path in self.shards]
        return np.array([name["source"] if name else "" for name in names])[self.shard]

    @cached_property
    def _names(self) -> list[tuple[str, str]]:
        def names(item: int) -> tuple[str, str]:
            record = self._record(item)
            return record.key, record.source

        return side_by_side(names, range(len(self)), PIECE)

    @cached_property
    def digest(self) -> str:
        """32 hex digits of every record's length and checksum: other images, labels or keys, other digits."""

        def checksum(item: int) -> bytes:
            return self._bytes(item, int(self.spans[item].sum()) - FOOTER_BYTES, FOOTER_BYTES)

        found = hashlib.sha256(self.spans[:, 1].tobytes())
        found.update(b"".join(side_by_side(checksum, range(len(self)), PIECE)))
        return found.hexdigest()[:32]

    @cached_property
    def identity(self) -> str:
        """16 hex digits of the shards: names, lengths and labels of every record, and pieces of each file; the same
        wherever the shards lie.

        Quick also where the disk is far away, unlike `digest`, which reads of every record.
        """
        held = hashlib.sha256(self.shard.tobytes() + self.spans.tobytes() + self.labels.tobytes()).hexdigest()
        return fingerprint([side_by_side(lambda path: (path.name, identity(path)), self.shards), held])

    def image(self, item: int) -> bytes:
        """The encoded image of one record, its checksum checked; BadInput: names shard and offset."""
        return self._record(item).encoded

    def read_block(self, first: int, last: int) -> bytes:
        """The bytes of the shard from record `first` to record `last`, both of one shard and both included."""
        begin = int(self.spans[first, 0])
        return self._bytes(first, begin, int(self.spans[last].sum()) - begin)

    def record(self, item: int, framed: bytes) -> Record:
        """A record that was read, its checksum checked; BadInput: names shard and offset."""
        try:
            return parse_record(unframed(framed, int(self.spans[item, 1])))
        except ValueError as error:
            raise BadInput(
                f"{self.place(item)}: {error}: the shard is damaged or has changed, build it again"
            ) from None

    def _record(self, item: int) -> Record:
        return self.record(item, self._bytes(item, *self.spans[item].tolist()))

    def _bytes(self, item: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the record's shard from `offset` on."""
        return self._file(int(self.shard[item])).read(offset, length)

    def place(self, item: int) -> str:
        """Where a record stands, for messages."""
        return f"{self.shards[self.shard[item]]}: record at offset {self.spans[item, 0]}"


def open_records(patterns: Sequence[str | Path]) -> RecordSet:
    """Finds the shards and every record in them, in the order of `patterns` (paths or globs), by name within one.

    Raises BadInput: a pattern matches no shard, a shard is half-written or is no TFRecord, a record has no label.
    """
    shards: dict[File, None] = {}
    for pattern in patterns:
        found = matching(pattern)
        if not found:
            raise BadInput(f"expected shards (*.tfrec), none match {pattern}: has `guie tfrecords` been run?")
        shards.update(dict.fromkeys(found))
    if not shards:
        raise BadInput("expected shards (*.tfrec), no path was given")
    parts = side_by_side(shard_index, list(shards))
    counts = [len(spans) for spans in parts]
    if not sum(counts):
        raise BadInput(f"expected records, the {len(shards)} shards of {patterns[0]} … hold none")
    spans: np.ndarray = np.concatenate(parts)
    shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    labels = np.concatenate([_labels(path, each) for path, each in zip(shards, parts, strict=True)])
    return RecordSet(list(shards), shard, spans, labels)


def open_any(patterns: Sequence[str | Path]) -> RecordSet | None:
    """As `open_records`; None where no pattern matches a shard."""
    return open_records(patterns) if any(map(matching, patterns)) else None


def _labels(path: File, spans: np.ndarray) -> np.ndarray:
    """int64 [n]: the label of each record of a shard; reads no image."""
    if not len(spans):
        return np.empty(0, np.int64)
    source, began = reader(path), time.monotonic()
    source.read(0, 1)
    if isinstance(path, Path) and time.monotonic() - began < FAR_SECONDS:
        found = [label_of(payload) for payload in mapped_payloads(path, spans)]
    else:  # a page of a mapped file that is waited for stops every thread of Python

        def label(span: list[int]) -> int | None:
            return label_of(View(source, span[0] + HEADER_BYTES, sum(span) - FOOTER_BYTES))

        found = side_by_side(label, spans.tolist(), PIECE)
    if None in found:
        at = f"in the record at offset {spans[found.index(None), 0]}"
        raise BadInput(f"{path}: expected an Example with {LABEL} {at}: damaged, or no labelled images")
    return np.array(found, np.int64)
