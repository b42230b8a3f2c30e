"""Makes one shard from its chunk, in a worker process, on any machine that sees the folder.

A shard is done when it has its final name and `.build/<stem>.json`, its mark, describes it. The index and the mark are
written first and the shard is renamed last, so a finished shard is never made again.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import reason
from pipeline.files import write_json, write_text
from pipeline.guards import machine
from tfrecords.listing.items import as_text
from tfrecords.pixels import Rejected, transcode
from tfrecords.schema import Record, serialize
from tfrecords.selection import Chunk
from tfrecords.shards import ShardWriter, index_path


@dataclass(frozen=True)
class JpegSettings:
    """How images are stored: the shorter side at most `size_px`; the quality of those encoded here, 1 … 100."""

    size_px: int
    quality: int


def mark_path(folder: Path, stem: str) -> Path:
    return folder / ".build" / f"{stem}.json"


def read_mark(folder: Path, chunk: Chunk) -> dict[str, Any] | None:
    """The mark of a finished chunk; None where the shard is not done, or is that of another chunk."""
    try:
        mark = json.loads(mark_path(folder, chunk.stem).read_text(encoding="utf-8"))
        if mark["tasks"] != fingerprint(chunk):
            return None
        if mark["file"]:
            shard = folder / mark["file"]
            if shard.stat().st_size != mark["bytes"] or not index_path(shard).exists():
                return None
    except (OSError, ValueError, KeyError):
        return None
    return mark


def fingerprint(chunk: Chunk) -> str:
    """16 hex digits of the chunk's keys, classes and labels, in order."""
    hasher = hashlib.blake2b(digest_size=8)
    for item, label in chunk.items():
        hasher.update(f"{item.key}\0{item.class_name}\0{label}\n".encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


def make_shard(folder: Path, jpeg: JpegSettings, chunk: Chunk) -> dict[str, Any]:
    """Reads, transcodes and writes a chunk's images, one image in memory at a time.

    Returns the mark: file ("" where no image was kept), source, split, count, bytes, sha256, labels {label: count},
    rejects [[key, class, reason]], hashes (of the images as found, one an image kept), tasks (the chunk's fingerprint).
    """
    finished = read_mark(folder, chunk)
    if finished is not None:  # another worker of a distributed build was faster
        return finished
    temporary = folder / f".partial-{chunk.stem}-{os.getpid()}"
    try:
        mark, index = _write(temporary, chunk, jpeg)
        if mark["file"]:
            write_text(index_path(folder / mark["file"]), index)
        write_json(mark_path(folder, chunk.stem), mark)
        if mark["file"]:
            os.replace(temporary, folder / mark["file"])
    except Exception as error:
        machine.note(error, folder / chunk.stem)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return mark


def _write(path: Path, chunk: Chunk, jpeg: JpegSettings) -> tuple[dict[str, Any], str]:
    """Writes the shard to `path`; returns its mark and the text of its index."""
    kept: Counter[int] = Counter()
    rejects: list[tuple[str, str, str]] = []
    hashes: list[str] = []
    writer = ShardWriter(path)
    try:
        for item, label in chunk.items():
            try:
                data = item.read()
                stored = transcode(data, jpeg.size_px, jpeg.quality)
            except Rejected as error:
                if "Insufficient memory" in str(error):  # libjpeg's words: the image may be whole
                    raise MemoryError(str(error)) from None
                rejects.append((item.key, item.class_name, str(error)))
                continue
            except (OSError, ValueError) as error:
                if machine.refuses(error):
                    raise  # the image may be whole
                # Without the path that an OSError names: rejects.csv is the same on every machine.
                why = as_text(getattr(error, "strerror", None) or reason(error, most=1000))
                rejects.append((item.key, item.class_name, f"cannot be read: {why}"))
                continue
            writer.write(serialize(Record(stored.encoded, label, item.key, chunk.source)))
            kept[label] += 1
            hashes.append(hashlib.blake2b(data, digest_size=8).hexdigest())
    finally:
        writer.close()
    count = len(writer.spans)
    mark = {
        "file": f"{chunk.stem}-{count}.tfrec" if count else "",
        "source": chunk.source,
        "split": chunk.split,
        "count": count,
        "bytes": writer.bytes,
        "sha256": writer.sha256.hexdigest(),
        "labels": {str(label): kept[label] for label in sorted(kept)},
        "rejects": rejects,
        "hashes": hashes,
        "tasks": fingerprint(chunk),
    }
    return mark, writer.index_text()
