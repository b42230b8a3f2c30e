"""Makes one shard from its chunk, in a worker process, on any machine that sees the folder.

A shard is done when `.build/<stem>.json`, its mark, describes it, its index and the images that it was made of. The
index and the mark are written first, then the shard is renamed, so a finished shard is never made again; last the mark
gets the stats of both.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import marks
from pipeline.errors import reason
from pipeline.files import write_json, write_text
from pipeline.guards import machine
from tfrecords.labels import SPLITS
from tfrecords.listing.items import as_text
from tfrecords.pixels import Rejected, transcode
from tfrecords.schema import Record, serialize
from tfrecords.selection import Chunk
from tfrecords.shards import ShardWriter, index_path

OF_CHUNK = re.compile(rf"(?P<stem>.+-(?:{'|'.join(SPLITS)})-\d+)-\d+\.(?:tfrec|index)")  # a shard, or its index


@dataclass(frozen=True)
class JpegSettings:
    """How images are stored: the shorter side at most `size_px`; the quality of those encoded here, 1 … 100."""

    size_px: int
    quality: int


def mark_path(folder: Path, stem: str) -> Path:
    return folder / ".build" / f"{stem}.json"


def read_mark(folder: Path, chunk: Chunk) -> dict[str, Any] | None:
    """The mark of a finished chunk; None where the shard is not done or damaged, or is that of another chunk."""
    mark = mark_of(folder, chunk)
    return mark if mark is not None and is_whole(folder, chunk.stem, mark) else None


def is_whole(folder: Path, stem: str, mark: dict[str, Any], renew: bool = True) -> bool:
    """Whether a chunk's shard and index are those that its mark describes, see `marks.same`."""
    before = json.dumps(mark["made"])
    if not all(marks.same(held, marks.Files([(name, folder / name)])) for name, held in mark["made"].items()):
        return False
    if renew and json.dumps(mark["made"]) != before:
        write_json(mark_path(folder, stem), mark)
    return True


def mark_of(folder: Path, chunk: Chunk) -> dict[str, Any] | None:
    """The mark of a chunk that was finished, whatever became of its shard since."""
    try:
        mark = json.loads(mark_path(folder, chunk.stem).read_text(encoding="utf-8"))
        whole = mark["tasks"] == fingerprint(chunk) and len(mark["hashes"]) == mark["count"]
        whole = whole and len(mark["reject_hashes"]) == len(mark["rejects"]) == chunk.count - mark["count"]
        return mark if whole and isinstance(mark["made"], dict) and isinstance(mark["quick"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def quick(chunk: Chunk) -> str:
    """A digest of the stats of the files behind the images, see `marks`."""
    return marks.stat_digest(item.file for item, _ in chunk.items())


def changed_images(folder: Path, chunk: Chunk, renew: bool = True) -> list[str]:
    """Keys of the images whose bytes are not those that the finished chunk was made of.

    Where there is none the mark is renewed (`renew`): the files behind the images have other stats alone.
    """
    mark = mark_of(folder, chunk)
    if mark is None:
        return []
    now = quick(chunk)  # before they are read
    rejected = {key: digest for (key, _, _), digest in zip(mark["rejects"], mark["reject_hashes"], strict=True)}
    kept = iter(mark["hashes"])
    changed = []
    for item, _ in chunk.items():
        before = rejected[item.key] if item.key in rejected else next(kept, "")
        try:
            digest = _digest(item.read())
        except (OSError, ValueError) as error:
            if machine.refuses(error):
                raise  # the image may be unchanged
            digest = ""
        if digest != before:
            changed.append(item.key)
    if renew and not changed:
        write_json(mark_path(folder, chunk.stem), {**mark, "quick": now})
    return changed


def remove_shards(folder: Path, stems: Container[str]) -> None:
    """The chunks' shards, then their marks, which say that guie made them: killed in between, they are made again."""
    for path in folder.iterdir():
        found = OF_CHUNK.fullmatch(path.name)
        if found and found["stem"] in stems:
            path.unlink()
    for path in folder.glob(".build/*.json"):
        if path.stem in stems:
            path.unlink()


def fingerprint(chunk: Chunk) -> str:
    """16 hex digits of the chunk's keys, classes and labels, in order."""
    hasher = hashlib.blake2b(digest_size=8)
    for item, label in chunk.items():
        hasher.update(f"{item.key}\0{item.class_name}\0{label}\n".encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


def make_shard(folder: Path, jpeg: JpegSettings, chunk: Chunk) -> dict[str, Any]:
    """Reads, transcodes and writes a chunk's images, one image in memory at a time.

    Returns the mark: file ("" where no image was kept), source, split, count, bytes, sha256, labels {label: count},
    rejects [[key, class, reason]], hashes (of the images as found, one an image kept), reject_hashes ("" of what cannot
    be read), quick (see `quick`), tasks (the chunk's fingerprint), made (the shard and its index, see `marks`).
    """
    finished = read_mark(folder, chunk)
    if finished is not None:  # another worker of a distributed build was faster
        return finished
    temporary = folder / f".partial-{chunk.stem}-{os.getpid()}"
    try:
        mark, index = _write(temporary, chunk, jpeg)
        if mark["file"]:
            shard = folder / mark["file"]
            write_text(index_path(shard), index)
            hashes = {shard: mark["sha256"], index_path(shard): hashlib.sha256(index.encode()).hexdigest()}
            for path, digest in hashes.items():
                mark["made"][path.name] = {"quick": "", "content": marks.of_contents([(path.name, digest)])}
        write_json(mark_path(folder, chunk.stem), mark)
        if mark["file"]:
            os.replace(temporary, folder / mark["file"])
            for name, held in mark["made"].items():
                held["quick"] = marks.Files([(name, folder / name)]).quick()
            write_json(mark_path(folder, chunk.stem), mark)
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
    reject_hashes: list[str] = []
    stats = quick(chunk)  # before the images are read
    writer = ShardWriter(path)
    try:
        for item, label in chunk.items():
            data = None
            try:
                data = item.read()
                stored = transcode(data, jpeg.size_px, jpeg.quality)
            except Rejected as error:
                if "Insufficient memory" in str(error):  # libjpeg's words: the image may be whole
                    raise MemoryError(str(error)) from None
                rejects.append((item.key, item.class_name, str(error)))
                reject_hashes.append(_digest(data))
                continue
            except (OSError, ValueError) as error:
                if machine.refuses(error):
                    raise  # the image may be whole
                # Without the path that an OSError names: rejects.csv is the same on every machine.
                why = as_text(getattr(error, "strerror", None) or reason(error, most=1000))
                rejects.append((item.key, item.class_name, f"cannot be read: {why}"))
                reject_hashes.append(_digest(data))
                continue
            writer.write(serialize(Record(stored.encoded, label, item.key, chunk.source)))
            kept[label] += 1
            hashes.append(_digest(data))
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
        "reject_hashes": reject_hashes,
        "quick": stats,
        "tasks": fingerprint(chunk),
        "made": {},
    }
    return mark, writer.index_text()


def _digest(data: bytes | None) -> str:
    """16 hex digits of an image's bytes; "" of what could not be read."""
    return "" if data is None else hashlib.blake2b(data, digest_size=8).hexdigest()
