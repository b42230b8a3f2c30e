"""Stage: rereads every shard.

    guie verify RECORDS_DIR [--workers N]

Checks each shard's bytes and hash against manifest.json, every frame's CRC, the index, the count, that every record
parses, that its label is one of labels.json and its source the shard's, and that every image decodes without a
warning. Prints every problem with its shard and offset. Shards without a manifest (the public guie-* sets) are
checked for all but the hash and the labels.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import Progress
from pipeline.errors import BadInput
from pipeline.files import read_json
from tfrecords import labels as label_spaces
from tfrecords.pixels import Rejected, decode
from tfrecords.processes import in_processes
from tfrecords.schema import parse as parse_record
from tfrecords.shards import index_path, read_payloads, shard_index


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
    """Raises BadInput where anything is wrong; every problem has been printed by then."""
    expected = expectations(config.records)
    problems = _strangers(config.records, expected)
    print(f"verify: {len(expected)} shards of {config.records}", flush=True)
    progress = Progress("verify", sum(shard.count or 0 for shard in expected), "images")
    images = 0
    found: dict[Path, list[str]] = {}
    for shard, (count, own) in in_processes(check_shard, expected, config.workers):
        images += count
        found[shard.path] = own
        progress.add(count, f"{sum(map(len, found.values()))} problems")
    for shard in expected:
        problems += found[shard.path]
    for problem in problems:
        print(problem)
    if problems:
        raise BadInput(f"{len(problems)} problems in {config.records}, the first: {problems[0]}")
    print(f"verified: {images:,} images in {len(expected)} shards of {config.records}, nothing wrong")


def expectations(folder: Path) -> list[Expected]:
    """What the manifest says, or without one what the shards' names say.

    Raises:
        BadInput: no such folder, no shards, a build that is not finished, a manifest of another kind.
    """
    if not folder.is_dir():
        raise BadInput(f"expected a records folder, {folder} is none")
    if (folder / "manifest.json").is_file():
        manifest: Any = read_json(folder / "manifest.json")
        classes = len(label_spaces.read(folder / "labels.json").classes)
        try:
            return [
                Expected(
                    folder / row["file"], row["count"], row["bytes"], row["sha256"], row["source"], classes
                )
                for row in manifest["shards"]
            ]
        except (KeyError, TypeError):
            raise BadInput(f"{folder / 'manifest.json'} is not the manifest of guie tfrecords") from None
    if (folder / ".build").is_dir():
        raise BadInput(f"{folder} holds an unfinished build: run guie tfrecords again, it goes on from there")
    shards = sorted(folder.glob("*.tfrec"))
    if not shards:
        raise BadInput(f"{folder} holds no shards (*.tfrec)")
    print(f"no manifest.json in {folder}: hashes and labels are not checked")
    counts = [re.search(r"-(\d+)\.tfrec$", path.name) for path in shards]
    return [
        Expected(path, int(match[1]) if match else None) for path, match in zip(shards, counts, strict=True)
    ]


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
    elif shard.sha256 is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                problems.append(f"{path}: its SHA-256 is not the manifest's")
    try:
        for offset, payload in read_payloads(path):
            spans.append((offset, len(payload) + 16))
            problems += [
                f"{path}: record at offset {offset}: {what}" for what in _check_record(payload, shard)
            ]
    except BadInput as error:
        problems.append(str(error))  # names the shard and the offset; nothing behind it can be found
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
        decode(record.encoded)
    except Rejected as error:
        yield f"image {record.key!r}: {error}"


def _strangers(folder: Path, expected: list[Expected]) -> list[str]:
    """Shards that the manifest does not name: a glob would train on them."""
    known = {shard.path.name for shard in expected}
    return [
        f"{path}: not in the manifest" for path in sorted(folder.glob("*.tfrec")) if path.name not in known
    ]
