"""The page of `guie staged perf`."""

from collections.abc import Sequence

from pipeline.pages import charts
from pipeline.pages.render import count, milliseconds, render, share
from pipeline.staged import cascade
from pipeline.staged.config import NEVER, STAGES
from pipeline.staged.retriever import Answer, Tested

COLOURS = {"correct": charts.RIGHT, "incorrect": charts.WRONG}


def report(tested: Sequence[Tested], result: dict, points: Sequence[cascade.Point]) -> str:
    """The page of `result` (perf-<stage>.json): table, bars, distances, agreement, and the curve of the `points`."""
    rows = result["stages"]
    accuracy = {row["stage"]: {"accuracy": 100 * row["accuracy"]} for row in rows}
    milliseconds = {row["stage"]: {"encoder": row["encode_ms"], "query": row["query_ms"]} for row in rows}
    answers = {row["stage"]: _answers(tested, row["stage"]) for row in rows if row["stage"] in STAGES}
    return render(
        "staged_perf.html",
        title=f"guie staged perf: {result['stage']}",
        images=result["images"],
        neighbours=result["neighbours"],
        stages=_stage_table(rows),
        bars=[
            charts.bars("Accuracy", accuracy, "%", ".1f"),
            charts.bars("Time of an image: what the stage adds", milliseconds, "ms"),
        ],
        distances=[_histogram(stage, groups) for stage, groups in answers.items()],
        agreements=[_spread(stage, groups) for stage, groups in answers.items()],
        curve=curve_chart(rows, points) if points else "",
        cascade=_cascade_table(points) if points else (),
    )


def curve_chart(rows: Sequence[dict], points: Sequence[cascade.Point]) -> str:
    """Accuracy against time of the cascade, and of each stage alone."""
    alone = [(row["alone_ms"], 100 * row["accuracy"]) for row in rows]
    return charts.scatter(
        "Accuracy against time",
        {"cascade": [(p.milliseconds, 100 * p.accuracy) for p in points], "one stage alone": alone},
        "ms an image",
        "accuracy %",
        lines=["cascade"],
        y_within=(0, 100),
        names={"one stage alone": [row["stage"] for row in rows]},
    )


def _answers(tested: Sequence[Tested], stage: str) -> dict[str, list[Answer]]:
    """A stage's answers, correct and incorrect ones apart."""
    groups: dict[str, list[Answer]] = {"correct": [], "incorrect": []}
    for one in tested:
        for answer in one.answers:
            if answer.stage == stage:
                groups["correct" if answer.class_name == one.class_name else "incorrect"].append(answer)
    return groups


def _histogram(stage: str, groups: dict[str, list[Answer]]) -> str:
    distances = {name: [answer.distance for answer in answers] for name, answers in groups.items()}
    return charts.histogram(stage, distances, list(COLOURS.values()), "distance")


def _spread(stage: str, groups: dict[str, list[Answer]]) -> str:
    points = {
        name: [(answer.distance, answer.agreement) for answer in groups[name]] for name in ("incorrect", "correct")
    }
    return charts.scatter(stage, points, "distance of the nearest", "agreement", colours=COLOURS, y_within=(0, 1.02))


def _stage_table(rows: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    header = ["stage", "images", "accuracy", "encode ms", "query ms", "alone ms"]
    times = ("encode_ms", "query_ms", "alone_ms")
    return header, [
        [row["stage"], count(row["images"]), share(row["accuracy"]), *(milliseconds(row[name]) for name in times)]
        for row in rows
    ]


def _cascade_table(points: Sequence[cascade.Point]) -> tuple[list[str], list[list[str]]]:
    header = [*(f"{stage} answers from" for stage in STAGES[:-1]), "accuracy", "ms"]
    return [*header, *(f"by {stage}" for stage in STAGES)], [
        [
            *("skipped" if value >= NEVER else f"{value:g}" for value in point.thresholds),
            share(point.accuracy),
            milliseconds(point.milliseconds),
            *map(share, point.answered),
        ]
        for point in points
    ]
