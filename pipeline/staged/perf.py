"""`guie staged perf`: accuracy and time of the stages over a test set, the cascade's curve, and a page of charts."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.data.sources import read_decoded
from pipeline.errors import BadInput
from pipeline.staged import cascade
from pipeline.staged.config import STAGES
from pipeline.staged.perf_page import report, table
from pipeline.staged.retriever import Answer, Asked, Retriever, Tested, looked_up
from tfrecords.sources import Item


@dataclass(frozen=True)
class Options:
    stage: str = "all"  # a stage, all or cascade
    num: int = 0  # batches; 0: the whole set
    batch_size: int = 32
    display_freq: int = 10  # batches between lines
    time: bool = False  # show encoder and query time apart


def perf(
    retriever: Retriever,
    images: list[Item],
    options: Options,
    thresholds: Mapping[str, float],
    run_dir: Path,
) -> None:
    """Tests a stage, all of them in sequence, or the cascade; writes perf-<stage>.json, .csv and .html."""
    if not images:
        raise BadInput("queries: expected at least one source of labelled images to test on")
    if options.num:
        images = images[: options.num * options.batch_size]
    stages = looked_up(options.stage, thresholds)
    retriever.warm_up(stages, min(options.batch_size, len(images)))
    tested: list[Tested] = []
    rejects: list[tuple[str, str]] = []
    started = time.perf_counter()
    batches = -(-len(images) // options.batch_size)
    for number in range(batches):
        batch = images[number * options.batch_size : (number + 1) * options.batch_size]
        read = list(read_decoded(batch))
        rejects.extend((batch[row].key, reason) for row, pixels, reason in read if pixels is None)
        kept = [(batch[row], pixels) for row, pixels, _ in read if pixels is not None]
        if kept:
            asked = Asked([pixels for _, pixels in kept], [image.key for image, _ in kept])
            answers = _answers(retriever, asked, options.stage, stages, thresholds)
            tested.extend(
                Tested(image.key, image.class_name, given)
                for (image, _), given in zip(kept, answers, strict=True)
            )
        if (number + 1) % options.display_freq == 0 or number + 1 == batches:
            print(_running(tested, stages, options, number + 1, batches), flush=True)
    if not tested:
        raise BadInput(f"none of the {len(images):,} test images could be read, such as {rejects[0]}")
    seconds = time.perf_counter() - started
    result: dict = {
        "stage": options.stage,
        "images": len(tested),
        "rejected": len(rejects),
        "seconds": round(seconds, 3),
        "neighbours": retriever.neighbours,
        "stages": summaries(tested, options.stage),
    }
    points: list[cascade.Point] = []
    if options.stage == "all" and len(tested) >= 20:
        points = cascade_curve(tested, retriever.neighbours)
        result["cascade"] = [_point_row(point) for point in points]
    stem = run_dir / f"perf-{options.stage}"
    files.write_json(stem.with_suffix(".json"), result)
    files.write_text(stem.with_suffix(".csv"), _csv(tested))
    files.write_text(stem.with_suffix(".html"), report(tested, result, points))
    print(table(result, options.time))
    print(
        f"staged perf: {options.stage} {result['stages'][-1]['accuracy']:.2%} of {len(tested):,} images, "
        f"{len(rejects)} rejected → {stem.with_suffix('.html')}"
    )


def summaries(tested: Sequence[Tested], stage: str) -> list[dict]:
    """One row a stage: accuracy, distances, and milliseconds of an image.

    `encode_ms` is what the stage adds in the sequence, `alone_ms` the whole way to its answer without the queries of
    the stages before it. Of a cascade there is one more row for all images.
    """
    rows = []
    for name in STAGES:
        given = [
            (answer, one.class_name == answer.class_name)
            for one in tested
            for answer in one.answers
            if answer.stage == name
        ]
        if not given:
            continue
        answers = [answer for answer, _ in given]
        alone = [
            sum(before.encode_ms for before in one.answers[:place] if before.stage != "first")
            + answer.encode_ms
            + answer.query_ms
            for one in tested
            for place, answer in enumerate(one.answers)
            if answer.stage == name
        ]
        rows.append(
            {
                "stage": name,
                "images": len(given),
                "accuracy": float(np.mean([right for _, right in given])),
                "distance_correct": _mean([answer.distance for answer, right in given if right]),
                "distance_incorrect": _mean([answer.distance for answer, right in given if not right]),
                "encode_ms": _mean([answer.encode_ms for answer in answers]),
                "query_ms": _mean([answer.query_ms for answer in answers]),
                "alone_ms": _mean(alone),
            }
        )
    if stage == "cascade":
        totals = [sum(answer.encode_ms + answer.query_ms for answer in one.answers) for one in tested]
        every = [answer for one in tested for answer in one.answers]
        rows.append(
            {
                "stage": "cascade",
                "images": len(tested),
                "accuracy": float(np.mean([one.correct for one in tested])),
                "distance_correct": _mean([one.answers[-1].distance for one in tested if one.correct]),
                "distance_incorrect": _mean([one.answers[-1].distance for one in tested if not one.correct]),
                "encode_ms": sum(answer.encode_ms for answer in every) / len(tested),
                "query_ms": sum(answer.query_ms for answer in every) / len(tested),
                "alone_ms": _mean(totals),
                "answered": {
                    name: sum(one.answers[-1].stage == name for one in tested) / len(tested)
                    for name in STAGES
                },
            }
        )
    return rows


def cascade_curve(tested: Sequence[Tested], neighbours: int) -> list[cascade.Point]:
    """The accuracy–time curve out of a run of all stages, see `cascade.curve`."""
    correct = np.array([[a.class_name == one.class_name for a in one.answers] for one in tested]).T  # [S, N]
    agreement = np.array([[a.agreement for a in one.answers] for one in tested]).T
    encode = np.array([[a.encode_ms for a in one.answers] for one in tested]).T
    query = np.array([[a.query_ms for a in one.answers] for one in tested]).T
    passed_by = encode.copy()
    passed_by[0] = 0.0  # the pixels' stage is no part of the encoder
    smallest = min(
        3, neighbours
    )  # fewer agreeing neighbours say nothing, and every level makes the search longer
    levels = sorted(
        {round(count / neighbours, 6) for count in np.linspace(smallest, neighbours, 8).astype(int)}
    )
    return cascade.curve(correct, agreement, encode + query, passed_by, levels)


def _answers(
    retriever: Retriever, asked: Asked, stage: str, stages: Sequence[str], thresholds: Mapping[str, float]
) -> list[list[Answer]]:
    if stage == "cascade":
        return retriever.cascade(asked, thresholds)
    return [list(row) for row in zip(*(retriever.ask(each, asked) for each in stages), strict=True)]


def _running(tested: Sequence[Tested], stages: Sequence[str], options: Options, number: int, of: int) -> str:
    parts = []
    shown = ["cascade"] if options.stage == "cascade" else stages
    for row in summaries(tested, options.stage):
        if row["stage"] in shown:
            text = f"{row['stage']} {row['accuracy']:.1%}"
            if options.time:
                text += f" (encode {row['encode_ms']:.1f} + query {row['query_ms']:.1f} ms)"
            parts.append(text)
    return f"batch {number} of {of}, {len(tested):,} images: {', '.join(parts)}"


def _point_row(point: cascade.Point) -> dict:
    return {
        "thresholds": dict(zip(STAGES[:-1], point.thresholds, strict=True)),
        "accuracy": point.accuracy,
        "ms": point.milliseconds,
        "answered": dict(zip(STAGES, point.answered, strict=True)),
    }


def _csv(tested: Sequence[Tested]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["key", "class", "stage", "answer", "correct", "agreement", "distance", "encode_ms", "query_ms"]
    )
    for one in tested:
        for a in one.answers:
            right = int(a.class_name == one.class_name)
            numbers = [f"{value:.4f}" for value in (a.agreement, a.distance, a.encode_ms, a.query_ms)]
            rows.writerow([one.key, one.class_name, a.stage, a.class_name, right, *numbers])
    return text.getvalue()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
