"""COMMAND  images on disk → capped, checked shards.

guie tfrecords CONFIG [KEY=VALUE …]
the sources of `records.sources` → <run_dir>/records/: shards <source>-<split>-<NN>-<count>.tfrec with an index beside
each, labels.json, rejects.csv, duplicates.csv, manifest.json (last)

What each shard holds is decided before any pixel is read. So a build that was killed continues to the same bytes, and
many processes (or machines: Apache Beam) write the same shards as one.

A rejected image is replaced by the next image of its class in the order of the hash, in further shards, until the class
is full or used up: a class stays below its cap only where it has no more whole images.
"""

import csv
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.files import fingerprint, read_json, write_csv, write_json
from tfrecords import beam, chunks, duplicates, selection
from tfrecords.chunks import JpegSettings
from tfrecords.duplicates import Pair
from tfrecords.labels import SPLITS, ClassId, LabelSpace
from tfrecords.processes import cores, in_processes
from tfrecords.selection import Chunk

# Of the records: raise it with any change of pixels or order, so that old and new shards never mix.
FORMAT = 2


def main(config: Run) -> None:
    """Builds `<run_dir>/records/`, or says that it is built.

    Raises BadInput as `selection.select`; the folder holds records of another config; more rejects than
    `records.max_reject_share`.
    """
    records, folder = config.records, Path(config.run_dir) / "records"
    listings = selection.list_sources(config)
    selected = selection.select(records, listings)
    total = sum(chunk.count for chunk in selected.chunks)
    print(
        f"tfrecords: {len(listings)} sources ({', '.join(listings)}), {len(selected.space.classes):,} classes, "
        f"{total:,} images of {sum(selected.listed.values()):,} taken → {folder}",
        flush=True,
    )
    listing = fingerprint([(chunk.stem, chunks.fingerprint(chunk)) for chunk in selected.chunks])
    identity = {"format": FORMAT, "config": _config_fingerprint(config), "listing": listing}
    _claim(folder, identity)
    made = list(selected.chunks)
    marks = build_chunks(config, folder, made)
    while new := selection.select_replacements(records, listings, selected, _kept(selected.space, marks), made):
        print(f"tfrecords: {sum(chunk.count for chunk in new):,} more images replace rejected ones", flush=True)
        made += new
        marks |= build_chunks(config, folder, new)
    ordered = [marks[chunk.stem] for chunk in made]
    rejects = selected.too_small + [
        (key, mark["source"], name, reason) for mark in ordered for key, name, reason in mark["rejects"]
    ]
    write_csv(folder / "rejects.csv", ["key", "source", "class", "reason"], rejects)
    rejected, seen = sum(len(mark["rejects"]) for mark in ordered), sum(chunk.count for chunk in made)
    if rejected > records.max_reject_share * seen:
        raise BadInput(
            f"{rejected:,} of {seen:,} images were rejected, more than records.max_reject_share="
            f"{records.max_reject_share:g}; the reasons are in {folder / 'rejects.csv'}"
        )
    space = replace(selected.space, counts=_counts(selected.space, ordered))
    write_json(folder / "labels.json", space.to_json())
    kept = ("file", "source", "split", "count", "bytes", "sha256")
    shards = [{key: mark[key] for key in kept} for mark in ordered if mark["file"]]
    images = sum(shard["count"] for shard in shards)
    manifest = {
        **identity,
        "images": images,
        "classes": len(space.classes),
        "rejects": len(rejects),
        "near_duplicates": records.near_duplicates,
        "shards": shards,
    }
    earlier = folder / "manifest.json"  # written last
    if not (earlier.exists() and (folder / "duplicates.csv").exists() and read_json(earlier) == manifest):
        rows = duplicates.rows(find_duplicates(config, folder, made, ordered))
        write_csv(folder / "duplicates.csv", duplicates.COLUMNS, rows)
        write_json(folder / "manifest.json", manifest)
    print(table(space, ordered))
    short = [class_id for class_id in space.classes if sum(space.counts[class_id]) < max(records.min_per_class, 1)]
    if short:
        print(f"warning: {len(short)} classes fell below records.min_per_class by rejects, e.g. {short[0]}")
    if few := len(selected.too_small):
        print(f"left out: {few} images of classes below records.min_per_class={records.min_per_class}")
    with (folder / "duplicates.csv").open(encoding="utf-8", newline="") as file:
        for kind, count in Counter(row["kind"] for row in csv.DictReader(file)).items():
            print(f"warning: {count} images are in two splits ({kind} duplicates): {folder / 'duplicates.csv'}")
    print(
        f"records: {images:,} images in {len(shards)} shards, {len(space.classes):,} classes, {len(rejects):,} rejects "
        f"→ {folder}"
    )


def build_chunks(config: Run, folder: Path, todo: list[Chunk]) -> dict[str, dict[str, Any]]:
    """Makes the shards that are not done yet. Returns stem → mark, of all of them."""
    records = config.records
    total = sum(chunk.count for chunk in todo)
    marks = {chunk.stem: mark for chunk in todo if (mark := chunks.read_mark(folder, chunk)) is not None}
    missing = [chunk for chunk in todo if chunk.stem not in marks]
    jpeg = JpegSettings(records.image_size_px, records.jpeg_quality)
    if marks:
        print(f"tfrecords: {len(marks)} of {len(todo)} shards are done", flush=True)
    if records.runner == "beam":
        beam.make_shards(folder, missing, jpeg, records.beam_options)
        marks |= {chunk.stem: mark for chunk in missing if (mark := chunks.read_mark(folder, chunk)) is not None}
        if lost := [chunk.stem for chunk in missing if chunk.stem not in marks]:
            raise BadInput(f"Beam ended without {lost[0]}: do its workers see {folder.absolute()}?")
        return marks
    progress = console.Progress("tfrecords", total, "images", done=total - sum(chunk.count for chunk in missing))
    rejected = sum(len(mark["rejects"]) for mark in marks.values())
    workers = min(records.workers if records.workers > 0 else cores(), max(len(missing), 1))
    for chunk, mark in in_processes(partial(chunks.make_shard, folder, jpeg), missing, workers):
        marks[chunk.stem] = mark
        rejected += len(mark["rejects"])
        progress.add(chunk.count, f"{rejected} rejects")
    return marks


def find_duplicates(config: Run, folder: Path, made: list[Chunk], marks: list[dict[str, Any]]) -> list[Pair]:
    """The same picture in two splits, exact and (`records.near_duplicates`) near."""
    images: list[duplicates.Image] = []
    for chunk, mark in zip(made, marks, strict=True):
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


def table(space: LabelSpace, marks: list[dict[str, Any]]) -> str:
    """Images by source and split, as text."""
    counts: Counter[tuple[str, str]] = Counter()
    for mark in marks:
        counts[mark["source"], mark["split"]] += mark["count"]
    ranges = space.ranges()
    names = [*ranges]
    rows = [[ranges[source][1], *(counts[source, split] for split in SPLITS)] for source in names]
    if len(rows) > 1:
        names.append("all")
        rows.append([sum(column) for column in zip(*rows, strict=True)])
    texts = [[name, *(f"{count:,}" for count in [*row, sum(row[1:])])] for name, row in zip(names, rows, strict=True)]
    return console.table(["source", "classes", *SPLITS, "total"], texts)


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Marks the folder as that of this config and listing; refuses one that holds other records."""
    claim = folder / ".build" / "identity.json"
    if claim.exists():
        before = read_json(claim)
        if before != identity:
            what = next(key for key in ("format", "config", "listing") if before.get(key) != identity[key])
            why = {"format": "of another version of guie", "config": "of another config", "listing": "of other images"}
            raise BadInput(f"{folder} holds records {why[what]}: remove it, or choose another run_dir")
    elif folder.is_dir() and any(folder.glob("*.tfrec")):
        raise BadInput(f"{folder} holds shards that guie tfrecords did not make: choose another run_dir")
    for stale in [*folder.glob(".partial-*"), *folder.glob(".build/.partial-*")]:
        stale.unlink(missing_ok=True)
    write_json(claim, identity)


def _config_fingerprint(config: Run) -> str:
    """Of the keys that decide the bytes; the data's location and the number of workers do not."""
    value = asdict(config.records)
    for key in ("workers", "max_reject_share", "near_duplicates", "runner", "beam_options"):
        value.pop(key)
    left_out = sorted(set(value["split"].pop("left_out")))
    if left_out:  # without one the records are those of a config from before there was the key
        value["split"]["left_out"] = left_out
    if config.records.merge_classes:
        value["merge_classes"] = Path(config.records.merge_classes).read_text(encoding="utf-8-sig")
    return fingerprint(value)


def _counts(space: LabelSpace, marks: list[dict[str, Any]]) -> dict[ClassId, tuple[int, int, int]]:
    """Class → images kept in train, validation, test."""
    counts: Counter[tuple[int, str]] = Counter()
    for mark in marks:
        for label, count in mark["labels"].items():
            counts[int(label), mark["split"]] += count
    return {
        class_id: (counts[label, "train"], counts[label, "validation"], counts[label, "test"])
        for label, class_id in enumerate(space.classes)
    }


def _kept(space: LabelSpace, marks: dict[str, dict[str, Any]]) -> dict[ClassId, int]:
    """Class → images kept so far."""
    return {class_id: sum(counts) for class_id, counts in _counts(space, list(marks.values())).items()}
