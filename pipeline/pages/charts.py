"""Charts as SVG text, drawn by matplotlib: for a page to hold, or a file by themselves."""

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2f6db5", "#e08a1e", "#3a9a5b", "#8e5bb5", "#c0392b", "#6b7280"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
SIZE_INCHES = (4.5, 3.0)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "guie",  # the same chart, the same ids
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "text.parse_math": False,  # a $ in a name is a $
    "axes.formatter.useoffset": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e6ea",
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.labelcolor": "#444444",
    "ytick.labelcolor": "#444444",
    "legend.frameon": False,
}


def histogram(
    title: str, groups: Mapping[str, Sequence[float]], colours: Sequence[str], x_label: str, bins: int = 30
) -> str:
    """Overlaid histograms of several groups, all in the same bins. Infinite values are counted, not drawn."""

    def draw(axes: "Axes") -> None:
        finite = [np.array([value for value in values if np.isfinite(value)]) for values in groups.values()]
        everything = np.concatenate([*finite, np.zeros(0)])
        low, high = (everything.min(), everything.max()) if len(everything) else (0.0, 1.0)
        edges = np.linspace(low, max(high, low + 1e-3), bins + 1)
        for (name, values), drawn, colour in zip(groups.items(), finite, colours, strict=True):
            counts, _ = np.histogram(drawn, edges)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.55, label=f"{name} ({len(values):,})")
        axes.set_ylim(0, None if len(everything) else 1)
        axes.locator_params(axis="x", nbins=6)
        axes.locator_params(axis="y", integer=True)

    return _chart(title, x_label, "images", draw)


def bars(title: str, rows: Mapping[str, Mapping[str, float]], y_label: str) -> str:
    """Stacked bars: {bar: {part: value}}, values 0 or more; the sum stands above each bar."""

    def draw(axes: "Axes") -> None:
        heights = np.zeros(len(rows))
        for number, part in enumerate(dict.fromkeys(part for row in rows.values() for part in row)):
            values = np.array([row.get(part, 0.0) for row in rows.values()])
            colour = COLOURS[number % len(COLOURS)]
            axes.bar(range(len(rows)), values, 0.6, heights, color=colour, label=part)
            heights += values
        for position, height in enumerate(heights):
            axes.annotate(f"{height:.3g}", (position, height), (0, 3), textcoords="offset points", ha="center")
        axes.set_xticks(range(len(rows)), [textwrap.fill(name, 16) for name in rows])
        axes.margins(y=0.12)
        axes.set_ylim(0, None if heights.any() else 1)

    return _chart(title, "", y_label, draw)


def scatter(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    lines: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    colours: Mapping[str, str] | None = None,
    bounds: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> str:
    """Points, one colour a series.

    Args:
        series: name → (x, y) points.
        lines: series whose points are joined, in order of x.
        names: series → a text beside each of its points.
        colours: series → its colour, where it is not the next of COLOURS.
        bounds: series → (x, low, high), upright lines such as intervals.
    """

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(series.items()):
            joined = name in lines
            x, y = np.array(sorted(points) if joined else points, float).reshape(-1, 2).T
            colour = (colours or {}).get(name, COLOURS[number % len(COLOURS)])
            style = "o-" if joined else "o"
            axes.plot(x, y, style, color=colour, markersize=4.5, alpha=0.75, markeredgewidth=0, label=name)
            for at, low, high in (bounds or {}).get(name, []):
                axes.plot([at, at], [low, high], color=colour, linewidth=0.8, alpha=0.6)
        axes.margins(0.08)
        middle = sum(axes.get_xlim()) / 2
        for name, texts in (names or {}).items():
            for point, text in zip(series[name], texts, strict=True):
                shift, side = ((6, -3), "left") if point[0] < middle else ((-6, -3), "right")
                axes.annotate(text, point, shift, textcoords="offset points", ha=side).set_in_layout(False)
        whole = all(float(x).is_integer() for points in series.values() for x, _ in points)  # such as steps
        axes.locator_params(axis="x", nbins=6, integer=whole)

    return _chart(title, x_label, y_label, draw)


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with the project's style, whatever the user's own settings."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The viewer of an SVG has the letter, or a box stands for it.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _chart(title: str, x_label: str, y_label: str, draw: "Callable[[Axes], None]") -> Markup:
    with drawing():
        from matplotlib.figure import Figure  # without pyplot: no backend, no window, nothing to close

        figure = Figure(SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set(title=textwrap.fill(title, 46), xlabel=x_label, ylabel=y_label)
        handles, labels = axes.get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        text = io.StringIO()
        # No date and no version: the same chart, the same bytes.
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=no_metadata)
    svg = text.getvalue()
    # Without the prolog, which no page may hold, and the ids of groups, which every chart has.
    return Markup(re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :]))
