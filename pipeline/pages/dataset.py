"""What a run's data was and what its stages took, for the report; a file that is missing leaves its part out."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import files
from pipeline.errors import BadInput
from pipeline.evaluation.score_table import Table
from pipeline.guards import stage_log
from pipeline.pages.render import count, duration, megabytes, rate
from tfrecords import labels
from tfrecords.labels import SPLITS, LabelSpace

MOST_REASONS = 12


class Dataset(NamedTuple):
    counts: Table | None  # images a source and split
    rejects: Table | None  # reasons with their numbers
    rejected: int
    duplicates: Table | None
    duplicated: int
    notes: list[str]


def of_records(folder: Path, rejects: list[dict[str, str]]) -> Dataset:
    """Of a records folder; `rejects`: of metrics.json, the scored images that could not be read."""
    notes, counts = [], None
    try:
        counts = _counts(labels.read(folder / "labels.json"))
    except BadInput:
        notes.append("This run built no records of its own: what it was trained on stands in the config.")
    left_out = _rows(folder / "rejects.csv")
    reasons = Counter((row.get("source", ""), row.get("reason", "")) for row in left_out)
    reasons.update((each["domain"], f"{each['reason']} (when scored)") for each in rejects)
    pairs = Counter(
        (
            row.get("kind", ""),
            f"{row.get('source')} {row.get('split')}",
            f"{row.get('other_source')} {row.get('other_split')}",
        )
        for row in _rows(folder / "duplicates.csv")
    )
    if counts:
        near = _manifest(folder).get("near_duplicates")
        looked = "the same bytes, and nearly the same picture" if near else "the same bytes alone"
        notes.append(f"Images in two splits were looked for: {looked} (records.near_duplicates).")
    return Dataset(
        counts,
        (["source", "reason", "images"], [[*key, count(number)] for key, number in reasons.most_common(MOST_REASONS)])
        if reasons
        else None,
        sum(reasons.values()),
        (["kind", "image in", "again in", "images"], [[*key, count(n)] for key, n in pairs.most_common(MOST_REASONS)])
        if pairs
        else None,
        sum(pairs.values()),
        notes,
    )


class Stages(NamedTuple):
    table: Table
    facts: list[tuple[str, str]]  # of the machine, the packages, the commands


def of_stages(folders: list[Path]) -> Stages | None:
    """What the stages of the run, and of its seeds, took when they ran last; None where no stage was logged."""
    every = [(folder, row) for folder in folders for row in stage_log.read(folder)]
    if not every:
        return None
    rows = list({(folder, row["stage"]): (folder, row) for folder, row in every}.values())
    drawn = []
    for folder, row in rows:
        seconds, images = float(row["seconds"]), int(row.get("images") or 0)
        stage = row["stage"] if folder == folders[0] else f"{folder.name} {row['stage']}"
        counted = [count(images) if images else "–", rate(images / seconds) if images and seconds else "–"]
        taken = [duration(seconds), megabytes(row.get("peak_mb") or 0), *counted]
        drawn.append([stage, row.get("date", ""), *taken])
    earlier, last = len(every) - len(rows), rows[-1][1]
    versions = ", ".join(f"{name} {version}" for name, version in (last.get("versions") or {}).items())
    said = [
        ("Made", last.get("date", "")),
        ("Commands", "; ".join(dict.fromkeys(row.get("command", "") for _, row in rows))),
        ("Machine", "; ".join(dict.fromkeys(row.get("machine", "") for _, row in rows))),
        ("Trained on", "; ".join(dict.fromkeys(row["device"] for _, row in rows if row.get("device")))),
        ("Packages", versions),
        ("Earlier runs", f"{earlier} more in {stage_log.NAME}" if earlier else ""),
    ]
    header = ["stage", "date", "time", "peak memory", "images", "images/s"]
    return Stages((header, drawn), [(name, value) for name, value in said if value])


def _counts(space: LabelSpace) -> Table:
    by_source: dict[str, list[int]] = {source: [0] * len(SPLITS) for source in space.sources}
    for (source, _), numbers in space.counts.items():
        by_source[source] = [a + b for a, b in zip(by_source[source], numbers, strict=True)]
    classes = {source: number for source, (_, number) in space.ranges().items()}
    sums = {source: [classes[source], *numbers, sum(numbers)] for source, numbers in by_source.items()}
    if len(sums) > 1:
        sums["all"] = [sum(column) for column in zip(*sums.values(), strict=True)]
    return ["source", "classes", *SPLITS, "images"], [[name, *map(count, row)] for name, row in sums.items()]


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return files.read_json(folder / "manifest.json")
    except BadInput:
        return {}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []
