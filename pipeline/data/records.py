"""Records by number: what stands in the shards, found once, and read in any order. No TensorFlow.

A `RecordSet` knows of every record its shard, offset, length and label, so that the order of training is a matter of
arithmetic (`pipeline/data/batches.py`): any record can be read at any time, and resuming needs no replay.
"""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from pipeline.files import fingerprint, identity, matching, read_json
from tfrecords.labels import SPLITS
from tfrecords.schema import LABEL, label_of, parse_record
from tfrecords.shards import FOOTER_BYTES, mapped_payloads, shard_index, unframed

OPEN_FILES = 128  # a process may hold about a thousand; large sets have more shards than that
SHARD_NAME = re.compile(rf"(?P<source>.+)-(?:{'|'.join(SPLITS)})-\d+-\d+\.tfrec")


class RecordSet:
    """The records of some shards, numbered 0 … N−1 in the order of shards and offsets."""

    def __init__(self, shards: Sequence[Path], shard: np.ndarray, spans: np.ndarray, labels: np.ndarray):
        self.shards, self.shard = list(shards), shard  # the files; int32 [N], which of them a record is in
        self.spans, self.labels = spans, labels  # int64 [N, 2], offset and bytes of the framed record; int64 [N]
        self.whole: RecordSet | None = None  # what it is a part of, and which rows of that; None: nothing
        self.rows: np.ndarray | None = None
        self._files: OrderedDict[int, int] = OrderedDict()  # shard → file descriptor, least used first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: np.ndarray) -> "RecordSet":
        """The records of `rows`, int64 [n], as a set of its own."""
        found = RecordSet(self.shards, self.shard[rows], self.spans[rows], self.labels[rows])
        found.whole, found.rows = self, rows
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
        records = (parse_record(self.payload(item)) for item in range(len(self)))
        return [(record.key, record.source) for record in records]

    @cached_property
    def digest(self) -> str:
        """32 hex digits of every record's length and checksum: other images, labels or keys, other digits."""
        found = hashlib.sha256(self.spans[:, 1].tobytes())
        for item, (offset, length) in enumerate(self.spans.tolist()):
            found.update(self._pread(int(self.shard[item]), offset + length - FOOTER_BYTES, FOOTER_BYTES))
        return found.hexdigest()[:32]

    @cached_property
    def identity(self) -> str:
        """16 hex digits of the shards: names, lengths and labels of every record, and what `guie tfrecords` or a look
        into each file knows of the images; the same wherever the shards lie.

        Quick also where the disk is far away, unlike `digest`, which reads of every record.
        """
        known = {folder: _listed(folder) for folder in {path.parent for path in self.shards}}
        each = []
        for path in self.shards:
            listed = known[path.parent].get((path.name, path.stat().st_size))
            each.append((path.name, listed or identity(path)))
        held = hashlib.sha256(self.shard.tobytes() + self.spans.tobytes() + self.labels.tobytes()).hexdigest()
        return fingerprint([each, held])

    def read(self, items: np.ndarray) -> list[bytes]:
        """The encoded images of `items` ([B] integers), checksums checked; BadInput: names shard and offset."""
        images = []
        for item in items:
            try:
                images.append(parse_record(self.payload(int(item))).encoded)
            except ValueError as error:
                raise BadInput(f"{self.place(item)}: {error}") from None
        return images

    def payload(self, item: int) -> bytes:
        """The serialised Example of one record."""
        offset, length = (int(number) for number in self.spans[item])
        try:
            return unframed(self._pread(int(self.shard[item]), offset, length), length)
        except ValueError as error:
            raise BadInput(
                f"{self.place(item)}: {error}: the shard is damaged or has changed, build it again"
            ) from None

    def place(self, item: int) -> str:
        """Where a record stands, for messages."""
        return f"{self.shards[self.shard[item]]}: record at offset {self.spans[item, 0]}"

    def _pread(self, shard: int, offset: int, length: int) -> bytes:
        with self._lock:  # a file must not be closed under another thread's read
            if shard not in self._files:
                if len(self._files) >= OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
                self._files[shard] = os.open(self.shards[shard], os.O_RDONLY)
            self._files.move_to_end(shard)
            return os.pread(self._files[shard], length, offset)

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)


def open_records(patterns: Sequence[str | Path]) -> RecordSet:
    """Finds the shards and every record in them, in the order of `patterns` (paths or globs), by name within one.

    Raises BadInput: a pattern matches no shard, a shard is half-written or is no TFRecord, a record has no label.
    """
    shards: dict[Path, None] = {}
    for pattern in patterns:
        found = matching(pattern)
        if not found:
            raise BadInput(f"expected shards (*.tfrec), none match {pattern}: has `guie tfrecords` been run?")
        shards.update(dict.fromkeys(found))
    if not shards:
        raise BadInput("expected shards (*.tfrec), no path was given")
    with ThreadPoolExecutor(8) as pool:  # waiting for disks, mostly
        parts = list(pool.map(_shard_records, shards))
    counts = [len(labels) for _, labels in parts]
    if not sum(counts):
        raise BadInput(f"expected records, the {len(shards)} shards of {patterns[0]} … hold none")
    spans, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    return RecordSet(list(shards), np.repeat(np.arange(len(shards), dtype=np.int32), counts), spans, labels)


def open_any(patterns: Sequence[str | Path]) -> RecordSet | None:
    """As `open_records`; None where no pattern matches a shard."""
    return open_records(patterns) if any(map(matching, patterns)) else None


def _listed(folder: Path) -> dict[tuple[str, int], str]:
    """(shard, bytes) → its hash, as the manifest of `guie tfrecords` has it; empty where there is none."""
    manifest = folder / "manifest.json"
    found = read_json(manifest) if manifest.is_file() else {}
    rows = found.get("shards") if isinstance(found, dict) else None
    rows = [row for row in rows or [] if isinstance(row, dict) and {"file", "bytes", "sha256"} <= row.keys()]
    return {(row["file"], row["bytes"]): row["sha256"] for row in rows}


def _shard_records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """([n, 2] int64 spans, [n] int64 labels) of one shard; reads no image."""
    spans = shard_index(path)
    labels = np.empty(len(spans), np.int64)
    for row, payload in enumerate(mapped_payloads(path, spans)):
        label = label_of(payload)
        if label is None:
            at = f"in the record at offset {spans[row, 0]}"
            raise BadInput(f"{path}: expected an Example with {LABEL} {at}: damaged, or no labelled images")
        labels[row] = label
    return spans, labels
