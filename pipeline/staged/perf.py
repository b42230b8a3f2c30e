"""`guie staged perf`: accuracy and time of the stages over a test set, the cascade's curve, and a page of charts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.console import table
from pipeline.data.sources import read_decoded
from pipeline.errors import BadInput
from pipeline.staged import cascade
from pipeline.staged.config import NEVER, STAGES
from pipeline.staged.perf_page import report
from pipeline.staged.retriever import Answer, Retriever, Tested, queried_stages
from pipeline.staged.stages import Batch
from tfrecords.sources import Item

CSV_HEADER = ("key", "class", "stage", "answer", "correct", "agreement", "distance", "encode_ms", "query_ms")
# Fewer agreeing neighbours say nothing. The search over all settings of thresholds grows with every level.
FEWEST_AGREEING, MOST_LEVELS = 3, 8


@dataclass(frozen=True)
class Options:
    stage: str = "all"  # a stage, all or cascade
    num: int = 0  # batches; 0: the whole set
    batch_size: int = 32
    display_freq: int = 10  # batches between lines
    time: bool = False  # show encoder and query time apart


def measure(
    retriever: Retriever, items: list[Item], options: Options, thresholds: Mapping[str, float], run_dir: Path
) -> None:
    """Tests a stage, all of them in sequence, or the cascade; writes perf-<stage>.json, .csv and .html."""
    if not items:
        raise BadInput("queries: expected at least one source of labelled images to test on")
    if options.num:
        items = items[: options.num * options.batch_size]
    retriever.warm_up(queried_stages(options.stage, thresholds), min(options.batch_size, len(items)))
    tested: list[Tested] = []
    rejects: list[tuple[str, str]] = []
    started = time.perf_counter()
    batches = -(-len(items) // options.batch_size)
    for number in range(1, batches + 1):
        batch = items[(number - 1) * options.batch_size : number * options.batch_size]
        tested.extend(_test(retriever, batch, options.stage, thresholds, rejects))
        if number % options.display_freq == 0 or number == batches:
            print(f"batch {number} of {batches}, {len(tested):,} images: {_accuracies(tested, options)}", flush=True)
    if not tested:
        raise BadInput(f"none of the {len(items):,} test images could be read, such as {rejects[0]}")
    result: dict[str, Any] = {
        "stage": options.stage,
        "images": len(tested),
        "rejected": len(rejects),
        "seconds": round(time.perf_counter() - started, 3),
        "neighbours": retriever.neighbours,
        "stages": stage_rows(tested, options.stage),
    }
    points: list[cascade.Point] = []
    if options.stage == "all" and len(tested) >= 20:
        points = cascade_curve(tested, retriever.neighbours)
        result["cascade"] = [_point_row(point) for point in points]
    stem = run_dir / f"perf-{options.stage}"
    files.write_json(stem.with_suffix(".json"), result)
    files.write_csv(stem.with_suffix(".csv"), CSV_HEADER, _csv_rows(tested))
    files.write_text(stem.with_suffix(".html"), report(tested, result, points))
    print(result_tables(result, options.time))
    print(
        f"staged perf: {options.stage} {result['stages'][-1]['accuracy']:.2%} of {len(tested):,} images, "
        f"{len(rejects)} rejected → {stem.with_suffix('.html')}"
    )


def _test(
    retriever: Retriever, items: list[Item], stage: str, thresholds: Mapping[str, float], rejects: list[tuple[str, str]]
) -> list[Tested]:
    kept, pictures = [], []
    for row, picture, why in read_decoded(items):
        if picture is None:
            rejects.append((items[row].key, why))
        else:
            kept.append(items[row])
            pictures.append(picture)
    if not kept:
        return []
    answers = retriever.answer_all(stage, Batch(pictures, [item.key for item in kept]), thresholds)
    return [Tested(item.key, item.class_name, given) for item, given in zip(kept, answers, strict=True)]


def stage_rows(tested: Sequence[Tested], choice: str) -> list[dict[str, Any]]:
    """One row a stage: accuracy, distances, and milliseconds of an image; of a cascade one more for all images.

    `encode_ms` is what the stage adds in the sequence. `alone_ms` is the whole way to its answer, without the queries
    of the stages before it.
    """
    rows = []
    for stage in STAGES:
        judged: list[tuple[Answer, bool]] = []
        times: list[tuple[float, float, float]] = []
        for image in tested:
            encoder_ms = 0.0  # of the stages before this one; the pixels of `first` are no part of the encoder
            for answer in image.answers:
                if answer.stage == stage:
                    judged.append((answer, answer.class_name == image.class_name))
                    alone_ms = encoder_ms + answer.encode_ms + answer.query_ms
                    times.append((answer.encode_ms, answer.query_ms, alone_ms))
                encoder_ms += answer.encode_ms if answer.stage != "first" else 0.0
        if judged:
            rows.append(_row(stage, judged, times))
    if choice == "cascade" and tested:
        judged, times = [], []
        for image in tested:
            encode_ms = sum(answer.encode_ms for answer in image.answers)
            query_ms = sum(answer.query_ms for answer in image.answers)
            judged.append((image.answers[-1], image.correct))
            times.append((encode_ms, query_ms, encode_ms + query_ms))
        last = [image.answers[-1].stage for image in tested]
        answered = {stage: last.count(stage) / len(tested) for stage in STAGES}
        rows.append({**_row("cascade", judged, times), "answered": answered})
    return rows


def _row(
    stage: str, judged: Sequence[tuple[Answer, bool]], times: Sequence[tuple[float, float, float]]
) -> dict[str, Any]:
    encode_ms, query_ms, alone_ms = np.mean(times, axis=0).tolist()
    return {
        "stage": stage,
        "images": len(judged),
        "accuracy": float(np.mean([right for _, right in judged])),
        "distance_correct": _mean([answer.distance for answer, right in judged if right]),
        "distance_incorrect": _mean([answer.distance for answer, right in judged if not right]),
        "encode_ms": encode_ms,
        "query_ms": query_ms,
        "alone_ms": alone_ms,
    }


def cascade_curve(tested: Sequence[Tested], neighbours: int) -> list[cascade.Point]:
    """Accuracy against time of the cascade, from the answers of all stages; see `cascade.curve`."""
    correct = np.array([[a.class_name == one.class_name for a in one.answers] for one in tested]).T  # [S, N]
    agreement = np.array([[a.agreement for a in one.answers] for one in tested]).T
    encode_ms = np.array([[a.encode_ms for a in one.answers] for one in tested]).T
    query_ms = np.array([[a.query_ms for a in one.answers] for one in tested]).T
    skipped_ms = encode_ms.copy()
    skipped_ms[0] = 0.0  # the pixels' stage is no part of the encoder
    fewest = min(FEWEST_AGREEING, neighbours)
    counts = np.linspace(fewest, neighbours, MOST_LEVELS).astype(int)
    levels = sorted({round(count / neighbours, 6) for count in counts})
    return cascade.curve(correct, agreement, encode_ms + query_ms, skipped_ms, levels)


def result_tables(result: dict[str, Any], with_time: bool) -> str:
    """The stages as a table; below it the cascade's curve, where there is one."""
    header = ["stage", "images", "accuracy", "d right", "d wrong"]
    rows = []
    for row in result["stages"]:
        distances = [f"{row['distance_correct']:.3f}", f"{row['distance_incorrect']:.3f}"]
        rows.append([row["stage"], f"{row['images']:,}", f"{row['accuracy']:.2%}", *distances])
        if with_time:
            rows[-1] += [f"{row[name]:.2f}" for name in ("encode_ms", "query_ms", "alone_ms")]
    text = table([*header, *["encode ms", "query ms", "alone ms"] * with_time], rows)
    if answered := result["stages"][-1].get("answered"):
        text += "\nanswered by: " + ", ".join(f"{stage} {share:.0%}" for stage, share in answered.items())
    if points := result.get("cascade"):
        settings = [
            [f"{point['accuracy']:.2%}", f"{point['ms']:.2f}", *map("{:g}".format, point["thresholds"].values())]
            for point in points
        ]
        text += f"\n\ncascade, by the thresholds of its stages ({NEVER:g} skips a stage)\n"
        text += table(["accuracy", "ms", *STAGES[:-1]], settings, left=0)
    return text


def _accuracies(tested: Sequence[Tested], options: Options) -> str:
    shown = []
    for row in stage_rows(tested, options.stage):
        if row["stage"] == "cascade" or options.stage != "cascade":
            text = f"{row['stage']} {row['accuracy']:.1%}"
            if options.time:
                text += f" (encode {row['encode_ms']:.1f} + query {row['query_ms']:.1f} ms)"
            shown.append(text)
    return ", ".join(shown)


def _point_row(point: cascade.Point) -> dict[str, Any]:
    return {
        "thresholds": dict(zip(STAGES[:-1], point.thresholds, strict=True)),
        "accuracy": point.accuracy,
        "ms": point.milliseconds,
        "answered": dict(zip(STAGES, point.answered, strict=True)),
    }


def _csv_rows(tested: Sequence[Tested]) -> list[list[Any]]:
    rows = []
    for image in tested:
        for a in image.answers:
            right = int(a.class_name == image.class_name)
            numbers = [f"{value:.4f}" for value in (a.agreement, a.distance, a.encode_ms, a.query_ms)]
            rows.append([image.key, image.class_name, a.stage, a.class_name, right, *numbers])
    return rows


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
