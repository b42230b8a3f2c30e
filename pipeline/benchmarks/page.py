"""bench.html: an embedder's tables of one benchmark, a chart of its domains, and what others have published."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.benchmarks import reported, results
from pipeline.benchmarks.reported import Reported
from pipeline.benchmarks.results import Mode, Result
from pipeline.guards.masked import shown
from pipeline.pages import charts
from pipeline.pages.render import render

FEWEST = 2  # rows of a table that a chart is drawn of


def html(result: Result, figures: Sequence[Reported]) -> str:
    """The page; it needs no other file."""
    return render(
        "bench.html",
        title=f"{result.title}: {shown(result.embedder)}",
        headline=f"{results.headline(result)}.",
        facts=[
            ["protocol", result.rule],
            ["embedder", f"{shown(result.embedder)}, {result.embedding_dim} numbers an image"],
            ["pixels", result.pixels],
        ],
        notes=[note[:1].upper() + note[1:] + "." for note in result.notes],
        modes=[{"table": results.header_and_rows(mode), "notes": _notes(mode)} for mode in result.modes],
        charts=[_chart(mode, result.headline) for mode in result.modes if len(mode.rows) >= FEWEST],
        beside=reported.beside(result, figures) if figures else None,
    )


def _notes(mode: Mode) -> list[str]:
    """What stands below a table."""
    left_out = {name: row.without_match for name, row in mode.rows.items() if row.without_match}
    found = [f"{mode.note}."] * bool(mode.note)
    if left_out:
        counts = ", ".join(f"{name} {count:,}" for name, count in left_out.items())
        found.append(f"Queries left out, nothing in the index is right: {counts}.")
    return found


def _chart(mode: Mode, headline: str) -> Markup:
    """The headline's measure by row, else the table's first. UnED's mMP@5 may be below 0: it is drawn as 0."""
    measures = list(next(iter(mode.rows.values())).values)
    measure = headline if headline in measures else measures[0]
    rows = {name: {measure: max(row.values[measure], 0.0)} for name, row in mode.rows.items()}
    return Markup(charts.bars(f"{measure}, {mode.title}", rows, measure, f".{min(mode.decimals, 3)}f"))
