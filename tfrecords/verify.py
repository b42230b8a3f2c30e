"""COMMAND  rereads every shard.

guie verify RECORDS_DIR [--workers N]
<run_dir>/records/ → every problem with its shard and offset, on the screen

Checks the bytes and the hash of each shard against manifest.json, the CRC of every frame, the index and the count; that
every record parses, its label is in labels.json and its source is the shard's; that every image decodes without a
warning. Shards without a manifest (the public guie-* sets) are checked for all but hashes, labels and sources.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import Progress
from pipeline.errors import BadInput
from pipeline.files import file_sha256, read_json
from tfrecords import labels as label_spaces
from tfrecords.pixels import Rejected, decode_stored
from tfrecords.processes import in_processes
from tfrecords.schema import parse_record
from tfrecords.shards import FRAME_BYTES, index_path, read_payloads, shard_index


@dataclass(frozen=True)
class Config:
    records: Path
    workers: int = 0  # 0: one process a core


@dataclass(frozen=True)
class Expected:
    """What a shard should be. None: not known."""

    path: Path
    count: int | None
    bytes: int | None = None
    sha256: str | None = None
    source: str | None = None
    labels: int | None = None  # labels are below this


def main(config: Config) -> None:
    """Prints every problem; raises BadInput at the end where there is one."""
    expected = expectations(config.records)
    problems = _unlisted(config.records, expected)
    print(f"verify: {len(expected)} shards of {config.records}", flush=True)
    progress = Progress("verify", sum(shard.count or 0 for shard in expected), "images")
    images = 0
    of_shard: dict[Path, list[str]] = {}
    for shard, (count, found) in in_processes(check_shard, expected, config.workers):
        images += count
        of_shard[shard.path] = found
        progress.add(count, f"{sum(map(len, of_shard.values()))} problems")
    for shard in expected:
        problems += of_shard[shard.path]
    for problem in problems:
        print(problem)
    if problems:
        raise BadInput(f"{len(problems)} problems in {config.records}, the first: {problems[0]}")
    print(f"verified: {images:,} images in {len(expected)} shards of {config.records}, nothing wrong")


def expectations(folder: Path) -> list[Expected]:
    """What the manifest says of each shard; without a manifest what the shards' names say.

    Raises BadInput: no such folder, no shards, an unfinished build, a manifest of another kind.
    """
    if not folder.is_dir():
        raise BadInput(f"expected a records folder, {folder} is none")
    if (folder / "manifest.json").is_file():
        manifest: Any = read_json(folder / "manifest.json")
        classes = len(label_spaces.read(folder / "labels.json").classes)
        try:
            return [
                Expected(folder / row["file"], row["count"], row["bytes"], row["sha256"], row["source"], classes)
                for row in manifest["shards"]
            ]
        except (KeyError, TypeError):
            raise BadInput(f"{folder / 'manifest.json'} is not the manifest of guie tfrecords") from None
    if (folder / ".build").is_dir():
        raise BadInput(f"{folder} holds an unfinished build: run guie tfrecords again, it goes on from there")
    shards = sorted(folder.glob("*.tfrec"))
    if not shards:
        raise BadInput(f"{folder} holds no shards (*.tfrec)")
    print(f"no manifest.json in {folder}: hashes, labels and sources are not checked")
    counts = [re.search(r"-(\d+)\.tfrec$", path.name) for path in shards]
    return [Expected(path, int(match[1]) if match else None) for path, match in zip(shards, counts, strict=True)]


def check_shard(shard: Expected) -> tuple[int, list[str]]:
    """Images read, and every problem as `path: record at offset N: what`."""
    path = shard.path
    problems: list[str] = []
    spans: list[tuple[int, int]] = []
    if not path.is_file():
        return 0, [f"{path}: missing"]
    size = path.stat().st_size
    if shard.bytes is not None and size != shard.bytes:
        problems.append(f"{path}: {size:,} bytes, the manifest says {shard.bytes:,}")
    elif shard.sha256 is not None and file_sha256(path) != shard.sha256:
        problems.append(f"{path}: its SHA-256 is not the manifest's")
    try:
        for offset, payload in read_payloads(path):
            spans.append((offset, len(payload) + FRAME_BYTES))
            problems += [f"{path}: record at offset {offset}: {what}" for what in _check_record(payload, shard)]
    except BadInput as error:
        problems.append(str(error))  # names the shard and the offset; the records after it cannot be found
        return len(spans), problems
    if shard.count is not None and len(spans) != shard.count:
        problems.append(f"{path}: {len(spans)} records, expected {shard.count}")
    if index_path(path).is_file():
        try:
            if not np.array_equal(shard_index(path), np.array(spans, dtype=np.int64).reshape(-1, 2)):
                problems.append(f"{index_path(path)}: not the index of its shard")
        except BadInput as error:
            problems.append(str(error))
    elif shard.sha256 is not None:
        problems.append(f"{index_path(path)}: missing")
    return len(spans), problems


def _check_record(payload: bytes, shard: Expected) -> Iterator[str]:
    """What is wrong with one record."""
    try:
        record = parse_record(payload)
    except ValueError as error:
        yield str(error)
        return
    if shard.labels is not None and not 0 <= record.label < shard.labels:
        yield f"label {record.label}, labels.json has 0 to {shard.labels - 1}"
    if shard.source is not None and record.source != shard.source:
        yield f"source {record.source!r}, expected {shard.source!r}"
    try:
        decode_stored(record.encoded)
    except Rejected as error:
        yield f"image {record.key!r}: {error}"


def _unlisted(folder: Path, expected: list[Expected]) -> list[str]:
    """Shards that the manifest does not name; a glob would find them and train on them."""
    named = {shard.path.name for shard in expected}
    return [f"{path}: not in the manifest" for path in sorted(folder.glob("*.tfrec")) if path.name not in named]
