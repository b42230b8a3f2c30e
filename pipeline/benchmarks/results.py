"""What a protocol gives: tables of measures, each row with its intervals; how they are written as text. NumPy alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline import console
from pipeline.retrieval import intervals

Measures = Mapping[str, np.ndarray]  # measure → float64 [Q], a value a query


@dataclass(frozen=True)
class Row:
    """Measures over the queries of a domain, a split, or the whole."""

    queries: int
    index: int
    values: dict[str, float]  # measure → its mean, rounded where the protocol rounds
    intervals: dict[str, tuple[float, float]]  # measure → 95 % interval over queries, not rounded
    without_match: int = 0  # queries that are left out: nothing in the index is right


@dataclass(frozen=True)
class Mode:
    """One table: a way of searching and counting."""

    title: str
    rows: dict[str, Row]
    mean: Row | None = None  # over the rows, where the protocol has one
    note: str = ""  # what the numbers do not say of themselves
    decimals: int = 4


@dataclass(frozen=True)
class Result:
    """Everything of bench.json."""

    benchmark: str
    title: str
    rule: str
    embedder: str
    fingerprint: str
    embedding_dim: int
    pixels: str
    headline: str  # the measure of the last line
    modes: list[Mode]
    notes: list[str] = field(default_factory=list)
    complete: bool = True  # False: not the published images, so no figure to compare with others'

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def row(measures: Measures, index: int, without_match: int = 0, decimals: Mapping[str, int] | None = None) -> Row:
    """A row of per-query values. `decimals`: of the measures that the protocol rounds."""
    values = {name: mean(each, (decimals or {}).get(name)) for name, each in measures.items()}
    bounds = {name: intervals.interval(each) for name, each in measures.items()}
    return Row(len(next(iter(measures.values()))), index, values, bounds, without_match)


def mean(values: np.ndarray, decimals: int | None = None) -> float:
    """Their mean by adding one after another, as the benchmarks' own loops do; 0.0 of none.

    >>> mean(np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), 3)
    0.667
    """
    found = float(np.cumsum(values, dtype=np.float64)[-1]) / len(values) if len(values) else 0.0
    return found if decimals is None else float(np.round(found, decimals))


def unweighted(
    rows: Mapping[str, Row],
    measures: Mapping[str, Measures],
    decimals: Mapping[str, int] | None = None,
    shared_index: bool = False,
) -> Row:
    """The mean of the rows' means, each counted once however many queries it has.

    Args:
        rows: name → row, with the values that are averaged. measures: name → per-query values, for the intervals.
        decimals: as in `row`. shared_index: the rows' queries search in one index.
    """
    names = list(next(iter(rows.values())).values)
    columns = {name: np.array([each.values[name] for each in rows.values()]) for name in names}
    values = {name: float(np.mean(each)) for name, each in columns.items()}
    values |= {name: float(np.round(values[name], digits)) for name, digits in (decimals or {}).items()}
    bounds = {name: intervals.of_groups([each[name] for each in measures.values()]) for name in names}
    queries, left_out = (sum(getattr(each, size) for each in rows.values()) for size in ("queries", "without_match"))
    indexes = [each.index for each in rows.values()]
    return Row(queries, indexes[0] if shared_index else sum(indexes), values, bounds, left_out)


def header_and_rows(mode: Mode) -> tuple[list[str], list[list[str]]]:
    """A table: a row a domain, a column a measure, each with half the width of its interval."""
    named = {**mode.rows, **({"mean of the domains": mode.mean} if mode.mean else {})}
    measures = list(next(iter(named.values())).values)

    def cells(each: Row) -> list[str]:
        form = f".{mode.decimals}f"
        texts = [intervals.text(each.values[name], each.intervals.get(name), form) for name in measures]
        return [f"{each.queries:,}", f"{each.index:,}", *texts]

    return [mode.title, "queries", "index", *measures], [[name, *cells(each)] for name, each in named.items()]


def text(result: Result) -> str:
    """Every table and note, for the screen."""
    parts = []
    for mode in result.modes:
        left_out = sum(each.without_match for each in mode.rows.values())
        parts += [console.table(*header_and_rows(mode)), *([mode.note] if mode.note else [])]
        parts += [f"{left_out:,} queries left out: nothing in the index is right", ""] if left_out else [""]
    return "\n".join([*parts, *result.notes]).rstrip()


def headline(result: Result) -> str:
    """The first table's measure, of the mean or of its only row."""
    mode = result.modes[0]
    of = mode.mean or next(iter(mode.rows.values()))
    said = intervals.text(of.values[result.headline], of.intervals.get(result.headline), f".{mode.decimals}f")
    return f"{result.headline} {said} ({mode.title})"
