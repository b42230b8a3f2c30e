"""Tables and charts of `guie staged perf`."""

from collections.abc import Sequence

from pipeline.pages import charts
from pipeline.staged import cascade
from pipeline.staged.config import NEVER, STAGES
from pipeline.staged.retriever import Tested


def report(tested: Sequence[Tested], result: dict, points: Sequence[cascade.Point]) -> str:
    """The page: table, histograms of distances, bars of accuracy and time, scatter of both."""
    rows = result["stages"]
    sections: list[tuple[str, list[str]]] = [
        (
            f"{result['images']:,} test images, {result['neighbours']} neighbours",
            [
                charts.table(
                    ["stage", "images", "accuracy %", "encode ms", "query ms", "alone ms"],
                    [
                        [
                            r["stage"],
                            r["images"],
                            100 * r["accuracy"],
                            r["encode_ms"],
                            r["query_ms"],
                            r["alone_ms"],
                        ]
                        for r in rows
                    ],
                ),
                charts.bars("Accuracy", {r["stage"]: {"accuracy": 100 * r["accuracy"]} for r in rows}, "%"),
                charts.bars(
                    "Time of an image: what the stage adds",
                    {r["stage"]: {"encoder": r["encode_ms"], "query": r["query_ms"]} for r in rows},
                    "ms",
                ),
            ],
        ),
        (
            "Distance to the nearest neighbour",
            [_histogram(tested, r["stage"]) for r in rows if r["stage"] in STAGES],
        ),
        ("Distance and agreement", [_spread(tested, r["stage"]) for r in rows if r["stage"] in STAGES]),
    ]
    if points:
        sections.append(
            (
                "Cascade: thresholds chosen on one half of the images, shown on the other",
                [curve_chart(rows, points), charts.table(*_curve_table(points))],
            )
        )
    return charts.page(f"guie staged perf: {result['stage']}", sections)


def curve_chart(rows: Sequence[dict], points: Sequence[cascade.Point]) -> str:
    """Accuracy against time of the cascade, and of each stage alone."""
    alone = [(row["alone_ms"], 100 * row["accuracy"]) for row in rows]
    return charts.scatter(
        "Accuracy against time",
        {"cascade": [(p.milliseconds, 100 * p.accuracy) for p in points], "one stage alone": alone},
        "ms an image",
        "accuracy %",
        lines=["cascade"],
        names={"one stage alone": [row["stage"] for row in rows]},
    )


def _histogram(tested: Sequence[Tested], stage: str) -> str:
    groups: dict[str, list[float]] = {"correct": [], "incorrect": []}
    for one in tested:
        for answer in one.answers:
            if answer.stage == stage:
                right = answer.class_name == one.class_name
                groups["correct" if right else "incorrect"].append(answer.distance)
    return charts.histogram(stage, groups, [charts.CORRECT, charts.INCORRECT], "distance")


def _spread(tested: Sequence[Tested], stage: str) -> str:
    groups: dict[str, list[tuple[float, float]]] = {"incorrect": [], "correct": []}
    for one in tested:
        for answer in one.answers:
            if answer.stage == stage:
                right = answer.class_name == one.class_name
                groups["correct" if right else "incorrect"].append((answer.distance, answer.agreement))
    colours = {"incorrect": charts.INCORRECT, "correct": charts.CORRECT}
    return charts.scatter(stage, groups, "distance of the nearest", "agreement", colours=colours)


def _curve_table(points: Sequence[cascade.Point]) -> tuple[list[str], list[list[object]]]:
    header = [*(f"{stage} answers from" for stage in STAGES[:-1]), "accuracy %", "ms"]
    return [*header, *(f"by {stage} %" for stage in STAGES)], [
        [
            *("passed by" if value >= NEVER else value for value in point.thresholds),
            100 * point.accuracy,
            point.milliseconds,
            *(100 * share for share in point.answered),
        ]
        for point in points
    ]
