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
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console, marks
from pipeline.config import Records, Run
from pipeline.errors import BadInput
from pipeline.files import fingerprint, read_json, write_csv, write_json
from pipeline.guards import stage_log
from pipeline.guards.locks import one_at_a_time
from tfrecords import beam, chunks, duplicates, selection
from tfrecords.chunks import JpegSettings
from tfrecords.duplicates import Pair
from tfrecords.labels import SPLITS, ClassId, LabelSpace
from tfrecords.processes import cores, in_processes
from tfrecords.selection import Chunk
from tfrecords.sources import Listing

# Of the records: raise it with any change of pixels or order, so that old and new shards never mix.
FORMAT = 2
MADE = ("labels.json", "rejects.csv", "duplicates.csv", "manifest.json")
LISTING, UNFINISHED = "the list of images", "the build was not finished"


@one_at_a_time
def main(config: Run, redo: bool = False) -> None:
    """Builds `<run_dir>/records/`, or says that it is built.

    `redo`: records of another config or of other images are removed and built anew. Raises BadInput as
    `selection.select`; without `redo` the folder holds such records; a shard that is not of this build; more rejects
    than `records.max_reject_share`.
    """
    with stage_log.logged(Path(config.run_dir), "tfrecords", of_children=True) as work:
        _build(config, redo, work)


def _build(config: Run, redo: bool, work: stage_log.Work) -> None:
    records, folder = config.records, Path(config.run_dir) / "records"
    listings = selection.list_sources(config)
    selected = selection.select(records, listings)
    total = sum(chunk.count for chunk in selected.chunks)
    print(
        f"tfrecords: {len(listings)} sources ({', '.join(listings)}), {len(selected.space.classes):,} classes, "
        f"{total:,} images of {sum(selected.listed.values()):,} taken → {folder}",
        flush=True,
    )
    stage = _stage(config, selected)
    _claim(stage, redo)
    was_whole, is_new = not stage.reasons(), not _marked(folder)
    begun = None if was_whole else stage.begin(MADE)  # nothing is written where all is there
    made: list[Chunk] = []
    done: dict[str, dict[str, Any]] = {}
    for new in _rounds(records, listings, selected, done):
        if made:
            print(f"tfrecords: {sum(chunk.count for chunk in new):,} more images replace rejected ones", flush=True)
        made += new
        done |= build_chunks(config, folder, new, redo)
    ordered = [done[chunk.stem] for chunk in made]
    _expect_these_alone(folder, made, ordered)
    rejects = [*selected.too_small, *selected.left_out] + [
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
    work.images, work.skip = images * is_new, was_whole
    manifest = {
        "format": FORMAT,
        "config": fingerprint(stage.keys),
        "listing": stage.inputs[LISTING].content(),
        "images": images,
        "classes": len(space.classes),
        "rejects": len(rejects),
        "near_duplicates": records.near_duplicates,
        "shards": shards,
    }
    path = folder / "manifest.json"
    if begun or not path.exists() or read_json(path) != manifest:
        rows = duplicates.rows(find_duplicates(config, folder, made, ordered))
        write_csv(folder / "duplicates.csv", duplicates.COLUMNS, rows)
        write_json(path, manifest)  # after all that it tells of
        stage.finish(begun or stage.begun(MADE))
    print(table(space, ordered))
    short = [class_id for class_id in space.classes if sum(space.counts[class_id]) < max(records.min_per_class, 1)]
    if short:
        print(f"warning: {len(short)} classes fell below records.min_per_class by rejects, e.g. {short[0]}")
    if few := len(selected.too_small):
        print(f"left out: {few} images of classes below records.min_per_class={records.min_per_class}")
    if records.leave_out:
        print(f"left out: {len(selected.left_out):,} images that {records.leave_out} names")
    with (folder / "duplicates.csv").open(encoding="utf-8", newline="") as file:
        for kind, count in Counter(row["kind"] for row in csv.DictReader(file)).items():
            print(f"warning: {count} images are in two splits ({kind} duplicates): {folder / 'duplicates.csv'}")
    print(
        f"records: {images:,} images in {len(shards)} shards, {len(space.classes):,} classes, {len(rejects):,} rejects "
        f"→ {folder}"
    )


def reasons(config: Run) -> list[str]:
    """Why the records are not what a build would make now; empty where they are. Writes nothing.

    Raises BadInput as `main`.
    """
    folder, listings = Path(config.run_dir) / "records", selection.list_sources(config)
    selected = selection.select(config.records, listings)
    stage = _stage(config, selected)
    then = stage.read()
    if then is None:
        return [marks.NEVER]
    if why := marks.differences(then, stage.keys, stage.inputs):
        return why
    done: dict[str, dict[str, Any]] = {}
    for todo in _rounds(config.records, listings, selected, done):
        found, changed = examine(config, folder, todo, renew=False)
        if changed:
            return [_of_images(changed)]
        if missing := [chunk.stem for chunk in todo if chunk.stem not in found]:
            damaged = f"{len(missing)} of {len(todo)} shards are missing or damaged, the first: {missing[0]}"
            return [damaged] if then.get("finished") else [UNFINISHED]
        done |= found
    return stage.damaged(then)


def build_chunks(config: Run, folder: Path, todo: list[Chunk], redo: bool = False) -> dict[str, dict[str, Any]]:
    """Makes the shards that are not done yet. Returns stem → mark, of all of them.

    Raises BadInput where images are not those that a shard was made of; with `redo` it is made anew.
    """
    records = config.records
    total = sum(chunk.count for chunk in todo)
    done, changed = examine(config, folder, todo)
    if changed and not redo:
        raise BadInput(f"{folder}: {_of_images(changed)}; {marks.MEND}")
    if changed:
        print(f"tfrecords: {_of_images(changed)}: {len(changed)} shards are made anew", flush=True)
        (folder / "manifest.json").unlink(missing_ok=True)
    done = {stem: mark for stem, mark in done.items() if stem not in changed}
    missing = [chunk for chunk in todo if chunk.stem not in done]
    chunks.remove_shards(folder, {chunk.stem for chunk in missing})
    jpeg = JpegSettings(records.image_size_px, records.jpeg_quality)
    if done:
        print(f"tfrecords: {len(done)} of {len(todo)} shards are done", flush=True)
    if records.runner == "beam":
        beam.make_shards(folder, missing, jpeg, records.beam_options)
        done |= {chunk.stem: mark for chunk in missing if (mark := chunks.read_mark(folder, chunk)) is not None}
        if lost := [chunk.stem for chunk in missing if chunk.stem not in done]:
            raise BadInput(f"Beam ended without {lost[0]}: do its workers see {folder.absolute()}?")
        return done
    progress = console.Progress("tfrecords", total, "images", done=total - sum(chunk.count for chunk in missing))
    rejected = sum(len(mark["rejects"]) for mark in done.values())
    work = partial(chunks.make_shard, folder, jpeg)
    try:
        with closing(in_processes(work, missing, _workers(config, missing))) as made:
            for chunk, mark in made:
                done[chunk.stem] = mark
                rejected += len(mark["rejects"])
                progress.add(chunk.count, f"{rejected} rejects")
    finally:
        _remove_partial(folder)  # of workers that ended within a shard
    return done


def examine(
    config: Run, folder: Path, todo: list[Chunk], renew: bool = True
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Stem → mark of the chunks whose shard is whole; stem → keys of images that changed since it was made.

    Of chunks whose images have other stats the images are read, in parallel. With `renew` marks get the new stats,
    and a line is printed.
    """
    found = {chunk.stem: chunks.mark_of(folder, chunk) for chunk in todo}
    other = [chunk for chunk in todo if (mark := found[chunk.stem]) and mark["quick"] != chunks.quick(chunk)]
    changed: dict[str, list[str]] = {}
    if other:
        if renew:
            print(f"tfrecords: files of {len(other)} shards have other times: comparing their images", flush=True)
        work = in_processes(partial(chunks.changed_images, folder, renew=renew), other, _workers(config, other))
        changed = {chunk.stem: keys for chunk, keys in work if keys}
        found |= {chunk.stem: chunks.mark_of(folder, chunk) for chunk in other}  # with the new stats
    whole = {stem: mark for stem, mark in found.items() if mark and chunks.is_whole(folder, stem, mark, renew)}
    return whole, changed


def find_duplicates(config: Run, folder: Path, made: list[Chunk], done: list[dict[str, Any]]) -> list[Pair]:
    """The same picture in two splits, exact and (`records.near_duplicates`) near."""
    images: list[duplicates.Image] = []
    for chunk, mark in zip(made, done, strict=True):
        left_out = {key for key, _, _ in mark["rejects"]}
        kept = (item.key for item, _ in chunk.items() if item.key not in left_out)
        images += [duplicates.Image(chunk.source, chunk.split, key) for key in kept]
    pairs = duplicates.exact(images, [digest for mark in done for digest in mark["hashes"]])
    shards = [folder / mark["file"] for mark in done if mark["file"]]
    if config.records.near_duplicates and shards:
        by_shard = duplicates.perceptual_hashes(shards, config.records.workers)
        hashes = np.concatenate([by_shard[shard] for shard in shards])
        known = {pair.other for pair in pairs}
        pairs += [pair for pair in duplicates.near(images, hashes) if pair.other not in known]
    return pairs


def table(space: LabelSpace, done: list[dict[str, Any]]) -> str:
    """Images by source and split, as text."""
    counts: Counter[tuple[str, str]] = Counter()
    for mark in done:
        counts[mark["source"], mark["split"]] += mark["count"]
    ranges = space.ranges()
    names = [*ranges]
    rows = [[ranges[source][1], *(counts[source, split] for split in SPLITS)] for source in names]
    if len(rows) > 1:
        names.append("all")
        rows.append([sum(column) for column in zip(*rows, strict=True)])
    texts = [[name, *(f"{count:,}" for count in [*row, sum(row[1:])])] for name, row in zip(names, rows, strict=True)]
    return console.table(["source", "classes", *SPLITS, "total"], texts)


def _stage(config: Run, selected: selection.Selection) -> marks.Stage:
    """The records as a whole; what each shard was made of stands in its own mark."""
    listing = fingerprint([(chunk.stem, chunks.fingerprint(chunk)) for chunk in selected.chunks])
    inputs: dict[str, marks.Input] = {LISTING: marks.Digest(listing)}
    if config.records.merge_classes:
        inputs["records.merge_classes"] = marks.Files.below(Path(config.records.merge_classes))
    if config.records.leave_out:
        inputs["records.leave_out"] = marks.Files.below(Path(config.records.leave_out))
    return marks.Stage("records", Path(config.run_dir) / "records", _keys(config), inputs, place=".build")


def _rounds(
    records: Records, listings: Mapping[str, Listing], selected: selection.Selection, done: dict[str, dict[str, Any]]
) -> Iterator[list[Chunk]]:
    """The selected chunks, then those that replace rejected images; the caller adds their marks to `done` (by stem)."""
    made = list(selected.chunks)
    yield selected.chunks
    while new := selection.select_replacements(records, listings, selected, _kept(selected.space, done), made):
        made += new
        yield new


def _claim(stage: marks.Stage, redo: bool) -> None:
    """Refuses a folder that holds other records; with `redo` removes what guie made of them."""
    folder, then = stage.folder, stage.read()
    ours = then is not None or any(folder.glob(".build/*.json"))
    if not ours and any(folder.glob("*.tfrec")):
        raise BadInput(f"{folder} holds shards that guie tfrecords did not make: choose another run_dir")
    why = ["its mark is missing"] if ours else []
    if then is not None:
        why = marks.differences(then, stage.keys, stage.inputs)
    if why and not redo:
        raise BadInput(f"{folder} holds records of another config or of other images: {marks.said(why)}; {marks.MEND}")
    if why:
        print(f"tfrecords: {marks.said(why)}: {folder} is removed and built anew", flush=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        chunks.remove_shards(folder, _marked(folder))
        stage.drop()
    _remove_partial(folder)


def _remove_partial(folder: Path) -> None:
    for stale in [*folder.glob(".partial-*"), *folder.glob(".build/.partial-*")]:
        stale.unlink(missing_ok=True)


def _expect_these_alone(folder: Path, made: list[Chunk], done: list[dict[str, Any]]) -> None:
    """Removes shards of an earlier round that no class needs now; BadInput for one that guie did not make."""
    chunks.remove_shards(folder, _marked(folder) - {chunk.stem for chunk in made})
    named = {mark["file"] for mark in done}
    if others := sorted(path for path in folder.glob("*.tfrec") if path.name not in named):
        raise BadInput(f"{others[0]} is no shard of this build and would be trained on: move it elsewhere")


def _marked(folder: Path) -> set[str]:
    """The stems of the chunks that have a mark."""
    return {path.stem for path in folder.glob(".build/*-*.json")}


def _of_images(changed: dict[str, list[str]]) -> str:
    keys = [key for found in changed.values() for key in found]
    return f"{len(keys):,} images changed since the records were built, the first: {min(keys)}"


def _workers(config: Run, todo: list[Chunk]) -> int:
    return min(config.records.workers if config.records.workers > 0 else cores(), max(len(todo), 1))


def _keys(config: Run) -> dict[str, Any]:
    """The keys that decide the bytes; the data's location and the number of workers do not."""
    value = asdict(config.records)
    others = ("workers", "max_reject_share", "near_duplicates", "runner", "beam_options", "merge_classes", "leave_out")
    for key in others:
        value.pop(key)
    for source in value["sources"]:
        source.pop("root")
        if source["split"] is None:  # as in the marks of records from before there was the key
            source.pop("split")
    value["split"]["left_out"] = sorted(set(value["split"]["left_out"]))
    return {"the records' format": FORMAT, **marks.flat(value, "records")}


def _counts(space: LabelSpace, done: list[dict[str, Any]]) -> dict[ClassId, tuple[int, int, int]]:
    """Class → images kept in train, validation, test."""
    counts: Counter[tuple[int, str]] = Counter()
    for mark in done:
        for label, count in mark["labels"].items():
            counts[int(label), mark["split"]] += count
    return {
        class_id: (counts[label, "train"], counts[label, "validation"], counts[label, "test"])
        for label, class_id in enumerate(space.classes)
    }


def _kept(space: LabelSpace, done: dict[str, dict[str, Any]]) -> dict[ClassId, int]:
    """Class → images kept so far."""
    return {class_id: sum(counts) for class_id, counts in _counts(space, list(done.values())).items()}
