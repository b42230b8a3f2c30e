"""The TFRecord file format: frames, CRCs, the index beside a shard. No protobuf, no TensorFlow.

A shard is a sequence of framed records, each `length uint64 | CRC of length uint32 | payload | CRC of payload uint32`,
little endian; the CRCs are CRC-32C, masked. The index is a text file of `offset length` lines, as the package
tfrecord's `tfrecord2idx` writes it: the span of each framed record (frame included), in bytes.
"""

import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

import crc32c
import numpy as np

from pipeline.errors import BadInput
from pipeline.files import size as bytes_of
from pipeline.reading import File

HEADER_BYTES, FOOTER_BYTES = 12, 4
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
MAX_PAYLOAD_BYTES = 1 << 30  # a longer "length" is damage; believing it would allocate that much memory

AnyFile = TypeVar("AnyFile", bound=File)


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated and offset as the format requires."""
    crc = crc32c.crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """One framed record: `len(payload) + FRAME_BYTES` bytes."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))


def unframed(framed: bytes, length: int) -> bytes:
    """The payload of one framed record.

    `framed` is what was read of it, `length` its bytes by the index. Raises ValueError: fewer bytes, or a wrong CRC.
    """
    payload = framed[HEADER_BYTES:-FOOTER_BYTES]
    if len(framed) != length or int.from_bytes(framed[-FOOTER_BYTES:], "little") != masked_crc(payload):
        raise ValueError("wrong CRC")
    return payload


def index_path(shard: AnyFile) -> AnyFile:
    return shard.with_suffix(".index")  # type: ignore[return-value]


class ShardWriter:
    """Writes framed payloads to `path`, and collects what the index and the manifest need.

    Attributes:
        spans: `(offset, length)` of every framed record so far, in bytes.
        bytes, sha256: size and hash of the file so far.
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


def _opened(path: File) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"expected a shard, cannot read {path}: {error.strerror}") from None


def read_payloads(path: File) -> Iterator[tuple[int, bytes]]:
    """`(offset, payload)` of every record, one in memory at a time.

    Raises BadInput: no such file, a frame that is cut off, or one whose CRC is wrong; the message names the shard and
    the offset in bytes.
    """
    for file, offset, length in _frames(path):
        payload, footer = file.read(length), file.read(FOOTER_BYTES)
        if int.from_bytes(footer, "little") != masked_crc(payload):
            raise BadInput(f"{path}: record at offset {offset} has a wrong CRC: the shard is damaged, build it again")
        yield offset, payload


def mapped_payloads(path: Path, spans: np.ndarray) -> Iterator[memoryview]:
    """The payloads at `spans` (see `shard_index`); CRCs are not checked.

    The file is mapped: of a payload only the pages that somebody looks at are read.
    """
    if not len(spans):  # an empty file cannot be mapped
        return
    with path.open("rb") as file:
        # No `with` for the map: it is unmapped with the last view on it.
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for offset, length in spans.tolist():
        yield mapped[offset + HEADER_BYTES : offset + length - FOOTER_BYTES]


def walk(path: File) -> np.ndarray:
    """The spans of a shard by its frames alone: reads only their headers.

    Returns `[N, 2]` int64: offset and length of each framed record, in bytes. Raises BadInput as `read_payloads`; only
    the CRCs of the headers are checked.
    """
    spans = [(offset, length + FRAME_BYTES) for _, offset, length in _frames(path)]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def shard_index(path: File) -> np.ndarray:
    """The spans of a shard: from `<stem>.index` beside it, else (the public guie-* sets) by `walk`.

    Returns `[N, 2]` int64: offset and length of each framed record, in bytes. Raises BadInput: no such shard, a damaged
    frame, or the index of another shard.
    """
    beside = index_path(path)
    if not beside.is_file():
        return walk(path)
    try:
        spans = np.array(beside.read_text(encoding="ascii").split(), dtype=np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        raise BadInput(f"{beside} is not an index (lines of `offset length`): remove it") from None
    size = bytes_of(path)
    ends = spans.sum(axis=1)
    starts = np.concatenate([[0], ends[:-1]])
    last = int(ends[-1]) if len(ends) else 0
    if (spans[:, 0] != starts[: len(spans)]).any() or last != size:
        raise BadInput(
            f"{path} has {size} bytes, its index ends at offset {last}: one of them is half-written or of "
            f"another shard; build the shard again, or remove the index if the shard is right"
        )
    return spans


def _frames(path: File) -> Iterator[tuple[BufferedReader, int, int]]:
    """`(file, offset, payload length)` of every framed record, the file positioned at its payload. Raises BadInput."""
    with _opened(path) as file:
        size, offset = bytes_of(path), 0
        while offset < size:
            file.seek(offset)
            header = file.read(HEADER_BYTES)
            length, crc = struct.unpack("<QI", header.ljust(HEADER_BYTES, b"\0"))
            whole = len(header) == HEADER_BYTES
            if whole and (crc != masked_crc(header[:8]) or length > MAX_PAYLOAD_BYTES):
                raise BadInput(
                    f"{path}: no record begins at offset {offset} (wrong length CRC): the shard is damaged or is no "
                    "TFRecord"
                )
            if not whole or offset + length + FRAME_BYTES > size:
                raise BadInput(f"{path}: record at offset {offset} is cut off at byte {size}: it is half-written")
            yield file, offset, length
            offset += length + FRAME_BYTES
