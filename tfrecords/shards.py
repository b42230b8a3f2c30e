"""The TFRecord file format: framing, checksums, the index beside a shard. No protobuf, no TensorFlow.

A shard is a chain of framed records, each `length uint64 | crc of length uint32 | payload | crc of payload uint32`,
little endian; the CRCs are CRC-32C, masked. The index is a text file of `offset length` lines (the form of the
package tfrecord's `tfrecord2idx`): where each framed record begins, and its length with the frame, in bytes.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import crc32c
import numpy as np

from pipeline.errors import BadInput

HEADER_BYTES, FOOTER_BYTES = 12, 4
MAX_PAYLOAD_BYTES = (
    1 << 30
)  # a longer "length" is a damaged frame; believing it would ask for that much memory


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated and offset as the format asks."""
    crc = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """One framed record: `len(payload) + 16` bytes."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload)))
    )


def index_path(shard: Path) -> Path:
    return shard.with_suffix(".index")


class ShardWriter:
    """Writes framed payloads to `path` and keeps what the index and the manifest need.

    Attributes:
        spans: `(offset, length)` of every framed record so far, in bytes.
        sha256: of all bytes so far.
    """

    def __init__(self, path: Path):
        self.file: BinaryIO = path.open("wb")
        self.spans: list[tuple[int, int]] = []
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, payload: bytes) -> None:
        framed = frame(payload)
        self.file.write(framed)
        self.sha256.update(framed)
        self.spans.append((self.bytes, len(framed)))
        self.bytes += len(framed)

    def index_text(self) -> str:
        return "".join(f"{offset} {length}\n" for offset, length in self.spans)

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())  # a renamed shard is whole even after a power cut
        self.file.close()


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"expected a shard, cannot read {path}: {error.strerror}") from None


def read_payloads(path: Path, verify: bool = True) -> Iterator[tuple[int, bytes]]:
    """`(offset, payload)` of every record; one record in memory at a time.

    Raises:
        BadInput: no such file, a frame that is cut off, or (with `verify`) one whose CRC is wrong; the message
            names the shard and the offset in bytes.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            length = _payload_length(file, path, offset, size)
            rest = file.read(length + FOOTER_BYTES)
            payload = rest[:length]
            if verify and struct.unpack("<I", rest[length:])[0] != masked_crc(payload):
                raise BadInput(
                    f"{path}: record at offset {offset} has a wrong CRC: the shard is damaged, build it again"
                )
            yield offset, payload
            offset += HEADER_BYTES + length + FOOTER_BYTES


def walk(path: Path) -> np.ndarray:
    """The spans of a shard found by its framing alone (only headers are read).

    Returns:
        `[N, 2]` int64: offset and length of each framed record, in bytes.

    Raises:
        BadInput: as `read_payloads`, of which only the headers' CRC is checked.
    """
    spans = []
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            length = HEADER_BYTES + _payload_length(file, path, offset, size) + FOOTER_BYTES
            spans.append((offset, length))
            offset += length
            file.seek(offset)
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def shard_index(path: Path) -> np.ndarray:
    """The spans of a shard: from `<stem>.index` beside it, else (the public guie-* sets) by walking the framing.

    Returns:
        `[N, 2]` int64: offset and length of each framed record, in bytes.

    Raises:
        BadInput: no such shard, a damaged frame, or an index that is of another shard.
    """
    beside = index_path(path)
    if not beside.is_file():
        return walk(path)
    try:
        numbers = np.array(beside.read_text(encoding="ascii").split(), dtype=np.int64)
        spans = numbers.reshape(-1, 2)
    except (ValueError, OverflowError):
        raise BadInput(f"{beside} is not an index (lines of `offset length`): remove it") from None
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInput(f"expected a shard, cannot read {path}: {error.strerror}") from None
    ends = spans.sum(axis=1)
    starts = np.concatenate([[0], ends[:-1]])
    if (spans[:, 0] != starts[: len(spans)]).any() or (int(ends[-1]) if len(ends) else 0) != size:
        last = int(ends[-1]) if len(ends) else 0
        raise BadInput(
            f"{path} has {size} bytes, its index ends at offset {last}: one of them is half-written or of "
            f"another shard; build the shard again, or remove the index if the shard is right"
        )
    return spans


def _payload_length(file: BinaryIO, path: Path, offset: int, size: int) -> int:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise BadInput(f"{path}: record at offset {offset} is cut off: the shard is half-written")
    length, crc = struct.unpack("<QI", header)
    if crc != masked_crc(header[:8]) or length > MAX_PAYLOAD_BYTES:
        raise BadInput(
            f"{path}: no record begins at offset {offset} (wrong length CRC): the shard is damaged or is no TFRecord"
        )
    if offset + HEADER_BYTES + length + FOOTER_BYTES > size:
        raise BadInput(
            f"{path}: record at offset {offset} is cut off at byte {size}: the shard is half-written"
        )
    return length
