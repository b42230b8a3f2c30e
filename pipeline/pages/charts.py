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

# The palette of style.css in the light. A page has it in the dark, too: see `themed`.
RIGHT, WRONG = "#1766b5", "#b95400"
TEAL, VIOLET, OCHRE, GREY = "#0b7d72", "#6a51b0", "#8a6a12", "#6b7280"
INK, FAINT, LINE, PAPER = "#1b2430", "#566170", "#d5dae0", "#ffffff"
COLOURS = (RIGHT, WRONG, TEAL, VIOLET, OCHRE, GREY)
NAMES = {"right": RIGHT, "wrong": WRONG, "teal": TEAL, "violet": VIOLET, "ochre": OCHRE, "grey": GREY}
NAMES |= {"ink": INK, "faint": FAINT, "line": LINE, "paper": PAPER}
# Beside its colour a series has a form of its own.
MARKERS, HATCHES = "o^sDvP", ("", "///", "...", "xxx", "---", "+++")
SIZE_INCHES = (4.5, 3.0)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "guie",  # the same chart, the same ids
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "text.parse_math": False,  # a $ in a name is a $
    "axes.formatter.useoffset": False,
    "hatch.linewidth": 0.6,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "legend.frameon": False,
}


def histogram(
    title: str,
    groups: Mapping[str, Sequence[float]],
    colours: Sequence[str],
    x_label: str,
    y_label: str = "images",
    bins: int = 30,
) -> str:
    """Overlaid histograms of several groups, all in the same bins, the first filled, the others as outlines.

    Infinite values are counted, not drawn.
    """

    def draw(axes: "Axes") -> None:
        finite = [np.array([value for value in values if np.isfinite(value)]) for values in groups.values()]
        everything = np.concatenate([*finite, np.zeros(0)])
        low, high = (everything.min(), everything.max()) if len(everything) else (0.0, 1.0)
        edges = np.linspace(low, max(high, low + 1e-3), bins + 1)
        for number, ((name, values), drawn, colour) in enumerate(zip(groups.items(), finite, colours, strict=True)):
            counts, _ = np.histogram(drawn, edges)
            form = {"linewidth": 2} if number else {"fill": True, "alpha": 0.55}
            axes.stairs(counts, edges, color=colour, label=f"{name} ({len(values):,})", **form)
        axes.set_ylim(0, None if len(everything) else 1)
        axes.locator_params(axis="x", nbins=6)
        axes.locator_params(axis="y", integer=True)

    return _chart(title, x_label, y_label, draw)


def bars(title: str, rows: Mapping[str, Mapping[str, float]], y_label: str, form: str = ",.1f") -> str:
    """Stacked bars: {bar: {part: value}}, values 0 or more; the sum stands above each bar, written by `form`."""

    def draw(axes: "Axes") -> None:
        heights = np.zeros(len(rows))
        for number, part in enumerate(dict.fromkeys(part for row in rows.values() for part in row)):
            values = np.array([row.get(part, 0.0) for row in rows.values()])
            colour, hatch = COLOURS[number % len(COLOURS)], HATCHES[number % len(HATCHES)]
            axes.bar(range(len(rows)), values, 0.6, heights, color=colour, hatch=hatch, edgecolor=PAPER, label=part)
            heights += values
        for position, height in enumerate(heights):
            axes.annotate(f"{height:{form}}", (position, height), (0, 3), textcoords="offset points", ha="center")
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
    y_within: tuple[float, float] | None = None,
) -> str:
    """Points, one colour and one form a series.

    Args:
        series: name → (x, y) points.
        lines: series whose points are joined, in order of x.
        names: series → a text beside each of its points.
        colours: series → its colour, where it is not the next of COLOURS.
        bounds: series → (x, low, high), upright lines such as intervals.
        y_within: the axis ends there at the latest: a share's beyond 0 and 1 would show what cannot be.
    """

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(series.items()):
            joined = name in lines
            x, y = np.array(sorted(points) if joined else points, float).reshape(-1, 2).T
            colour = (colours or {}).get(name, COLOURS[number % len(COLOURS)])
            style = MARKERS[number % len(MARKERS)] + ("-" if joined else "")
            axes.plot(x, y, style, color=colour, markersize=4.5, alpha=0.75, markeredgewidth=0, label=name)
            for at, low, high in (bounds or {}).get(name, []):
                axes.plot([at, at], [low, high], color=colour, linewidth=0.8, alpha=0.6)
        axes.margins(0.08)
        if y_within:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, y_within[0]), min(high, y_within[1]))
        middle = sum(axes.get_xlim()) / 2
        for name, texts in (names or {}).items():
            for point, text in zip(series[name], texts, strict=True):
                shift, side = ((6, -3), "left") if point[0] < middle else ((-6, -3), "right")
                axes.annotate(text, point, shift, textcoords="offset points", ha=side).set_in_layout(False)
        whole = all(float(x).is_integer() for points in series.values() for x, _ in points)  # such as steps
        axes.locator_params(axis="x", nbins=6, integer=whole)

    return _chart(title, x_label, y_label, draw)


def themed(svg: str) -> Markup:
    """A chart for a page, whose own palette is then that of the page: light, dark or on paper.

    >>> themed('<svg><path style="fill: #ffffff"/></svg>')
    Markup('<svg><path style="fill: var(--paper)"/></svg>')
    """
    names = {colour: name for name, colour in NAMES.items()}

    def named(found: re.Match) -> str:
        return f"{found[1]}var(--{names[found[2]]})" if found[2] in names else found[0]

    return Markup(re.sub(r"""(: |=")(#[0-9a-f]{6})\b""", named, svg))


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
