"""Stage: images on disk → capped, checked shards.

    guie tfrecords CONFIG [KEY=VALUE …]

Reads the sources of `records.sources`; writes `<run_dir>/records/`: shards `<source>-<split>-<NN>-<count>.tfrec`
with an index beside each, labels.json, rejects.csv, duplicates.csv, manifest.json (last). What each shard holds is
decided before any pixel is read, so a build that was killed goes on where it was, to the same bytes, and many
processes (or machines: Apache Beam) give the same shards as one.

A place that a rejected image leaves free is filled by the next image of its class in the order of the hash, in further
shards, until the class is full or used up. So a class shrinks below its cap only where it has no more whole images.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Run
from pipeline.console import Progress
from pipeline.errors import BadInput
from pipeline.files import fingerprint, read_json, write_json, write_text
from tfrecords import beam, duplicates
from tfrecords import chunks as chunk_files
from tfrecords import selection as plans
from tfrecords.chunks import Pixels
from tfrecords.duplicates import Pair
from tfrecords.labels import SPLITS, ClassId, LabelSpace
from tfrecords.processes import cores, in_processes
from tfrecords.selection import Chunk, Plan

FORMAT = 1  # of the records; a change of pixels or order must raise it, so old and new shards never mix


def main(config: Run) -> None:
    """Builds `<run_dir>/records/`, or says that it is built.

    Raises:
        BadInput: see plan.py; also a folder that holds records of another config, and more rejects than
            `records.max_reject_share`.
    """
    records, folder = config.records, Path(config.run_dir) / "records"
    listings = plans.list_sources(config)
    plan = plans.make(records, listings)
    total = sum(chunk.count for chunk in plan.chunks)
    print(
        f"tfrecords: {len(listings)} sources ({', '.join(listings)}), {len(plan.space.classes):,} classes, {total:,} "
        f"images of {sum(plan.seen.values()):,} taken → {folder}",
        flush=True,
    )
    identity = {
        "format": FORMAT,
        "config": _config_fingerprint(config),
        "listing": _listing_fingerprint(plan),
    }
    _claim(folder, identity)
    made = list(plan.chunks)
    marks = build_chunks(config, folder, made)
    while new := plans.refill(records, listings, plan, _kept(plan.space, marks), made):
        count = sum(chunk.count for chunk in new)
        print(f"tfrecords: {count:,} more images for the places of rejected ones", flush=True)
        made += new
        marks |= build_chunks(config, folder, new)
    ordered = [marks[chunk.stem] for chunk in made]
    rejects = plan.too_small + [
        (key, mark["source"], name, reason) for mark in ordered for key, name, reason in mark["rejects"]
    ]
    write_text(folder / "rejects.csv", _csv(["key", "source", "class", "reason"], rejects))
    rejected, seen = sum(len(mark["rejects"]) for mark in ordered), sum(chunk.count for chunk in made)
    if rejected > records.max_reject_share * seen:
        raise BadInput(
            f"{rejected:,} of {seen:,} images were rejected, more than records.max_reject_share="
            f"{records.max_reject_share:g}; why stands in {folder / 'rejects.csv'}"
        )
    space = replace(plan.space, counts=_counts(plan.space, ordered))
    write_json(folder / "labels.json", space.to_json())
    shards = [
        {key: mark[key] for key in ("file", "source", "split", "count", "bytes", "sha256")}
        for mark in ordered
        if mark["file"]
    ]
    images = sum(shard["count"] for shard in shards)
    manifest = {
        **identity,
        "images": images,
        "classes": len(space.classes),
        "rejects": len(rejects),
        "near_duplicates": records.near_duplicates,
        "shards": shards,
    }
    if not _is_written(folder, manifest):
        rows = duplicates.rows(find_duplicates(config, folder, made, ordered))
        write_text(folder / "duplicates.csv", _csv(duplicates.COLUMNS, rows))
        write_json(folder / "manifest.json", manifest)
    print(table(space, ordered))
    short = [known for known in space.classes if sum(space.counts[known]) < max(records.min_per_class, 1)]
    if short:
        print(f"warning: {len(short)} classes fell below records.min_per_class by rejects, e.g. {short[0]}")
    if plan.too_small:
        print(
            f"left out: {len(plan.too_small)} images of classes below records.min_per_class={records.min_per_class}"
        )
    with (folder / "duplicates.csv").open(encoding="utf-8", newline="") as file:
        for kind, count in Counter(row["kind"] for row in csv.DictReader(file)).items():
            print(
                f"warning: {count} images stand in two splits ({kind} duplicates): {folder / 'duplicates.csv'}"
            )
    print(
        f"records: {images:,} images in {len(shards)} shards, {len(space.classes):,} classes, {len(rejects):,} rejects "
        f"→ {folder}"
    )


def build_chunks(config: Run, folder: Path, chunks: list[Chunk]) -> dict[str, dict[str, Any]]:
    """Makes the chunks that are not done yet. Returns stem → mark, of all of them."""
    records = config.records
    total = sum(chunk.count for chunk in chunks)
    marks = {chunk.stem: mark for chunk in chunks if (mark := chunk_files.done(folder, chunk)) is not None}
    missing = [chunk for chunk in chunks if chunk.stem not in marks]
    pixels = Pixels(records.image_size_px, records.jpeg_quality)
    if marks:
        print(f"tfrecords: {len(marks)} of {len(chunks)} shards are done", flush=True)
    if records.runner == "beam":
        beam.make_chunks(folder, missing, pixels, records.beam_options)
        return {chunk.stem: _mark(folder, chunk) for chunk in chunks}
    progress = Progress("tfrecords", total, "images", done=total - sum(chunk.count for chunk in missing))
    rejected = sum(len(mark["rejects"]) for mark in marks.values())
    workers = min(records.workers if records.workers > 0 else cores(), max(len(missing), 1))
    for chunk, mark in in_processes(partial(chunk_files.make, folder, pixels), missing, workers):
        marks[chunk.stem] = mark
        rejected += len(mark["rejects"])
        progress.add(chunk.count, f"{rejected} rejects")
    return marks


def find_duplicates(
    config: Run, folder: Path, chunks: list[Chunk], marks: list[dict[str, Any]]
) -> list[Pair]:
    """The same picture in two splits, exact and (`records.near_duplicates`) near."""
    images: list[duplicates.Image] = []
    for chunk, mark in zip(chunks, marks, strict=True):
        left_out = {key for key, _, _ in mark["rejects"]}
        kept = (item.key for item, _ in chunk.items() if item.key not in left_out)
        images += [duplicates.Image(chunk.source, chunk.split, key) for key in kept]
    pairs = duplicates.exact(images, [digest for mark in marks for digest in mark["hashes"]])
    if config.records.near_duplicates:
        shards = [folder / mark["file"] for mark in marks if mark["file"]]
        by_shard = duplicates.perceptual_hashes(shards, config.records.workers)
        hashes = np.array([value for shard in shards for value in by_shard[shard]], dtype=np.uint64)
        known = {pair.other for pair in pairs}
        pairs += [pair for pair in duplicates.near(images, hashes) if pair.other not in known]
    return pairs


def _mark(folder: Path, chunk: Chunk) -> dict[str, Any]:
    mark = chunk_files.done(folder, chunk)
    if mark is None:
        raise BadInput(f"Beam ended without {chunk.stem}: do its workers see {folder.absolute()}?")
    return mark


def table(space: LabelSpace, marks: list[dict[str, Any]]) -> str:
    """Images by source and split, as text."""
    counts = Counter((mark["source"], split) for mark in marks for split in [mark["split"]] * mark["count"])
    rows = [["source", "classes", *SPLITS, "total"]]
    ranges = space.ranges()
    for source in space.sources:
        own = [counts[source, split] for split in SPLITS]
        rows.append([source, f"{ranges[source][1]:,}", *(f"{count:,}" for count in (*own, sum(own)))])
    sums = [sum(counts[source, split] for source in space.sources) for split in SPLITS]
    if len(space.sources) > 1:
        rows.append(["all", f"{len(space.classes):,}", *(f"{count:,}" for count in (*sums, sum(sums)))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Marks the folder as that of this config and listing; refuses one that holds other records."""
    claim = folder / ".build" / "identity.json"
    if claim.exists():
        before = read_json(claim)
        if before != identity:
            what = next(key for key in ("format", "config", "listing") if before.get(key) != identity[key])
            why = {
                "format": "of another version of guie",
                "config": "of another config",
                "listing": "of other images",
            }
            raise BadInput(f"{folder} holds records {why[what]}: remove it, or choose another run_dir")
    elif folder.is_dir() and any(folder.glob("*.tfrec")):
        raise BadInput(f"{folder} holds shards that this stage did not make: choose another run_dir")
    for stale in [*folder.glob(".partial-*"), *folder.glob(".build/.partial-*")]:
        stale.unlink(missing_ok=True)
    write_json(claim, identity)


def _is_written(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the build was finished before: its last file is there and says the same."""
    path = folder / "manifest.json"
    return path.exists() and (folder / "duplicates.csv").exists() and read_json(path) == manifest


def _config_fingerprint(config: Run) -> str:
    """Of what decides the bytes; where the data lies and how many workers there are does not."""
    value = asdict(config.records)
    for key in ("workers", "max_reject_share", "near_duplicates", "runner", "beam_options"):
        value.pop(key)
    if config.records.merge_classes:
        value["merge_classes"] = Path(config.records.merge_classes).read_text(encoding="utf-8-sig")
    return fingerprint(value)


def _listing_fingerprint(plan: Plan) -> str:
    return fingerprint([(chunk.stem, chunk_files.fingerprint(chunk)) for chunk in plan.chunks])


def _kept(space: LabelSpace, marks: dict[str, dict[str, Any]]) -> Counter[ClassId]:
    kept: Counter[ClassId] = Counter()
    for mark in marks.values():
        for label, count in mark["labels"].items():
            kept[space.classes[int(label)]] += count
    return kept


def _counts(space: LabelSpace, marks: list[dict[str, Any]]) -> dict[ClassId, tuple[int, int, int]]:
    counts: Counter[tuple[int, str]] = Counter()
    for mark in marks:
        for label, count in mark["labels"].items():
            counts[int(label), mark["split"]] += count
    return {
        known: (counts[label, "train"], counts[label, "validation"], counts[label, "test"])
        for label, known in enumerate(space.classes)
    }


def _csv(columns: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
