"""The table of a sweep: a row for each recipe and each baseline, as text and as CSV."""

from dataclasses import dataclass
from typing import Any

from pipeline.console import table
from pipeline.retrieval import intervals
from pipeline.selection.fold_scores import COMPARED

AHEAD = {"class": "− raw", "domain": "− half-whitened"}  # the titles of the differences


@dataclass(frozen=True)
class Row:
    """A recipe or a baseline."""

    kind: str  # own | trial | pruned | baseline
    title: str
    overrides: tuple[str, ...] = ()
    scores: dict[str, Any] | None = None  # of `fold_scores.scores`; None: pruned
    seconds: float | None = None  # of training
    pruned: str = ""  # why

    @property
    def both(self) -> float:
        """The mean of both numbers; below every other where the row was pruned."""
        return self.scores["both"] if self.scores else -1.0


def drawn(rows: list[Row]) -> str:
    """The table as text; the first row has scores."""
    kinds = [kind for kind in COMPARED if kind in (rows[0].scores or {})]
    header = ["recipe", "both", *(name for kind in kinds for name in (kind, AHEAD[kind])), "seconds"]
    lines = []
    for row in rows:
        if row.scores is None:
            lines.append([f"{row.title} (pruned: {row.pruned})", *["–"] * (len(header) - 1)])
            continue
        cells = [cell for kind in kinds for cell in _cells(row.scores[kind])]
        seconds = "" if row.seconds is None else f"{row.seconds:,.0f}"
        lines.append([row.title, f"{row.both:.4f}", *cells, seconds])
    return f"{table(header, lines)}\n±: half the width of the 95 % interval over queries and seeds"


def as_csv(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of table.csv; what a row has not is empty. The first row has scores."""
    columns = _numbers(rows[0].scores)
    lines = []
    for row in rows:
        numbers = _numbers(row.scores)
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        texts = [f"{numbers[name]:.5f}" if name in numbers else "" for name in columns]
        lines.append([row.kind, row.title, *texts, seconds, row.pruned])
    return ["kind", "recipe", *columns, "seconds", "pruned"], lines


def said(scores: dict[str, Any]) -> str:
    """Both numbers with their intervals, for a line."""
    return ", ".join(f"{kind} {_cells(scores[kind])[0]}" for kind in COMPARED if kind in scores)


def _numbers(scores: dict[str, Any] | None) -> dict[str, float]:
    """Column of table.csv → number."""
    if scores is None:
        return {}
    found = {"both": scores["both"]}
    for kind in COMPARED:
        if kind in scores:
            for name, each in ((kind, scores[kind]), (f"{kind}_ahead", scores[kind]["ahead"])):
                low, high = each["interval"]
                found |= {name: each["mean"], f"{name}_low": low, f"{name}_high": high}
    return found | scores["folds"]


def _cells(number: dict[str, Any]) -> list[str]:
    """The mean and how far it is ahead of its baseline, each ± half the width of its interval."""
    return [
        intervals.text(each["mean"], each["interval"], form, ".4f")
        for each, form in ((number, ".4f"), (number["ahead"], "+.4f"))
    ]
