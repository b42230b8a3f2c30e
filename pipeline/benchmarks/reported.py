"""Figures that others have published, each with its source and what is to be known of it: `reported.csv`."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline import console
from pipeline.benchmarks.results import Result

TABLE = Path(__file__).with_name("reported.csv")
ABSENT = "–"
OTHER_IMAGES = " [*]"


class Reported(NamedTuple):
    """One figure. `value` has the digits that were published, as a share of 1."""

    benchmark: str
    model: str
    dim: str  # of the vectors, "" where it is not known
    of: str  # the domain, split or index that it is of; "" for the whole
    measure: str
    value: str
    source: str
    caveat: str


def of(benchmark: str) -> list[Reported]:
    """The figures of a benchmark, in the table's order."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Reported(**row) for row in csv.DictReader(file) if row["benchmark"] == benchmark]


class Beside(NamedTuple):
    """Published figures as a table, the embedder's own in its first row."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str]  # source and caveat of the figures, by the numbers in the last column


def beside(result: Result, figures: Sequence[Reported]) -> Beside:
    """A row a model, a column a measure of a domain or index; – for what is not known."""
    columns = list(dict.fromkeys((each.of, each.measure) for each in figures))
    notes = list(dict.fromkeys((each.source, each.caveat) for each in figures))
    models: dict[tuple[str, str], dict[tuple[str, str], Reported]] = {}
    for each in figures:
        models.setdefault((each.model, each.dim), {})[each.of, each.measure] = each
    here = f"measured here{OTHER_IMAGES * (not result.complete)}"
    rows = [[result.embedder, f"{result.embedding_dim}", *(_own(result, *column) for column in columns), here]]
    for (model, dim), found in models.items():
        numbers = sorted({1 + notes.index((each.source, each.caveat)) for each in found.values()})
        values = [found[each].value if each in found else ABSENT for each in columns]
        rows.append([model, dim or ABSENT, *values, f"reported [{', '.join(map(str, numbers))}]"])
    header = ["model", "numbers", *(f"{measure} {of}".strip() for of, measure in columns), "source"]
    said = [f"[{number}] {source}" + f": {caveat}" * bool(caveat) for number, (source, caveat) in enumerate(notes, 1)]
    if not result.complete:
        said.append("[*] not the published images: not to be compared")
    return Beside(header, rows, said)


def text(result: Result, figures: Sequence[Reported]) -> str:
    """The table and its notes, for the screen."""
    found = beside(result, figures)
    return "\n".join(["", console.table(found.header, found.rows), *found.notes])


def _own(result: Result, of: str, measure: str) -> str:
    """The embedder's own value of a row, of an index or of the whole."""
    for mode in result.modes:
        mean = mode.mean or (next(iter(mode.rows.values())) if len(mode.rows) == 1 else None)
        row = mode.rows.get(of) or (mean if of in ("", mode.title) else None)
        if row and measure in row.values:
            return f"{row.values[measure]:.{mode.decimals}f}"
    return ABSENT
