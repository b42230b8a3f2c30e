"""What a score means, in plain sentences: better, worse or not settled, against which reference, and what to try."""

from typing import Any, NamedTuple

from pipeline.evaluation import score_table
from pipeline.pages.render import count, score
from pipeline.retrieval import intervals
from pipeline.retrieval.intervals import Interval

BETTER, WORSE, OPEN = "better", "worse", "not settled"
SIGNS = {BETTER: "✓", WORSE: "✗", OPEN: "?"}
KINDS = {BETTER: "right", WORSE: "wrong", OPEN: ""}  # of style.css
# The first of them that was scored is what the embedder is held against; else the best of the others.
FIRST = ("raw_features", "untrained")
NAMES = {**score_table.OWN, "raw_pixels": "raw pixels", "pml_arcface": "a head trained by pytorch-metric-learning"}


class Verdict(NamedTuple):
    word: str  # BETTER, WORSE, OPEN; "" where there is nothing to hold it against
    title: str
    sentences: list[str]


def word(bounds: Interval) -> str:
    """What the 95 % interval of a difference settles.

    >>> word((0.01, 0.03)), word((-0.03, -0.01)), word((-0.01, 0.03)), word((0.0, 0.0))
    ('better', 'worse', 'not settled', 'not settled')
    """
    low, high = bounds
    return BETTER if low > 0 else WORSE if high < 0 else OPEN


def of(result: dict[str, Any]) -> Verdict:
    """The verdict of metrics.json."""
    whole = score_table.headline(result)
    queries = sum(each["queries"] for each in result["domains"].values())
    over = f"{count(queries)} queries" + (f" and {len(result['seeds'])} seeds" if "seeds" in result else "")
    meaning = f"Of the nearest images that count, {result['mP@5']:.0%} are of the query's class"
    first = f"{meaning}: {whole}, {'the 95% interval ' * bool(result.get('interval'))}over {over}."
    ahead = result.get("differences") or {}
    if result.get("index_classes") == 1:
        return Verdict("", whole, [first, "It says nothing of the embedder: score images of two classes or more."])
    if not ahead:
        none = "No reference was scored beside it, so the number stands alone: score.references adds some."
        return Verdict("", whole, [first, none])
    against = next((name for name in FIRST if name in ahead), max(ahead, key=lambda name: result["references"][name]))
    settled = word(ahead[against]["interval"])
    others = [name for name in ahead if name != against and name in FIRST]
    sentences = [first, *(_against(result, name) for name in [against, *others])]
    sentences += _tries(settled, queries, ahead[against]["interval"], "seeds" in result)
    titles = {
        BETTER: f"better than {named(against)}",
        WORSE: f"worse than {named(against)}",
        OPEN: f"neither better nor worse than {named(against)}, as far as {count(queries)} queries tell",
    }
    return Verdict(settled, f"{whole}: {titles[settled]}", sentences)


def named(reference: str) -> str:
    """
    >>> named("raw_features"), named("pca64"), named("half_whitened64")
    ("its encoder's raw features", "its encoder's features by pca64", "its encoder's features by half_whitened64")
    """
    return NAMES.get(reference) or f"its encoder's features by {reference}"


def _against(result: dict[str, Any], reference: str) -> str:
    ahead, value = result["differences"][reference], result["references"][reference]
    by, settled = intervals.text(abs(ahead["mean"]), ahead["interval"], ".3f"), word(ahead["interval"])
    name = f"{named(reference)} ({score(value, None)})"
    if settled == OPEN:
        signed = intervals.text(ahead["mean"], ahead["interval"], "+.3f")
        return f"Whether it is better than {name} is not settled: the difference is {signed}, and 0 lies within."
    queries = sum(each["queries"] for each in result["domains"].values())
    if intervals.caveat(result.get("classes", intervals.FEWEST_CLASSES), queries):
        return f"It is {settled} than {name} by {by}, query by query; of so few that is a hint, no estimate."
    return f"It is {settled} than {name} by {by}, query by query, which is significant: the interval leaves out 0."


def _tries(settled: str, queries: int, bounds: Interval, seeds: bool) -> list[str]:
    """What to do about it."""
    half = (bounds[1] - bounds[0]) / 2
    if settled == WORSE:
        return [f"To gain: {score_table.HELPS}."]
    if settled == OPEN and seeds:  # how much of the interval is the seeds', more queries do not mend
        return [f"To settle it, score more images or train more seeds. To gain: {score_table.HELPS}."]
    if settled == OPEN and half > 0:
        more = f"four times as many queries as these {count(queries)} would halve its ±{half:.3f}"
        return [f"To settle it, score more images: {more}. To gain: {score_table.HELPS}."]
    return []
