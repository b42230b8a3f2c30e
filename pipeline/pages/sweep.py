"""The picture of a sweep: every recipe by its mP@5 on unseen classes and on absent domains, and the baselines.

<run_dir>/sweep/table.csv → <run_dir>/sweep/sweep.png
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import files
from pipeline.config import Run
from pipeline.pages import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"class": "mP@5, unseen classes", "domain": "mP@5, domains left out whole"}
# kind → colour, form, name in the legend
SERIES = {
    "trial": (charts.TEAL, "o", "trials"),
    "own": (charts.VIOLET, "D", "the config as it is"),
    "baseline": (charts.GREY, "s", "without training"),
}
SIZE_INCHES, DPI = (7.0, 5.0), 150


def main(run: Run) -> None:
    folder = Path(run.run_dir) / "sweep"
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["both"]]
    with charts.drawing(), files.atomic_path(folder / "sweep.png") as temporary:
        picture(rows).savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def picture(rows: list[dict[str, str]]) -> "Figure":
    """The chart of the rows of table.csv, the best one first.

    Bars are 95 % intervals, of the best and of the config as it is. Where only one of the numbers was measured, it
    stands above the row's rank.
    """
    from matplotlib.figure import Figure

    figure = Figure(SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    across, *up = [kind for kind in LABELS if kind in rows[0]]
    best = next(row for row in rows if row["kind"] != "baseline")
    for rank, row in enumerate(rows, 1):
        colour, form, name = SERIES[row["kind"]]
        x, x_error = _place(row, across) if up else (rank, None)
        y, y_error = _place(row, (up or [across])[0])
        axes.plot(x, y, form, color=colour, markersize=5, label=name)
        if row is best:
            axes.plot(x, y, "o", markersize=11, markerfacecolor="none", color=charts.INK, label="the best")
        if row is best or row["kind"] == "own":
            axes.errorbar(x, y, y_error, x_error, color=colour, elinewidth=0.7, alpha=0.6, zorder=1)
        if row["kind"] == "baseline":
            axes.annotate(row["recipe"], (x, y), (7, 4), textcoords="offset points", fontsize=8)
    axes.margins(0.08)
    axes.grid(True, axis="both")
    axes.set(title="Recipes of the sweep", xlabel=LABELS[across] if up else "rank", ylabel=LABELS[(up or [across])[0]])
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=len(once))
    return figure


def _place(row: dict[str, str], kind: str) -> tuple[float, list[list[float]]]:
    """The number, and how far its interval reaches down and up, as matplotlib takes it."""
    value, low, high = (float(row[name]) for name in (kind, f"{kind}_low", f"{kind}_high"))
    return value, [[max(0.0, value - low)], [max(0.0, high - value)]]
