"""Pictures of results: charts as SVG text, a query beside its neighbours as an image, one HTML page.

Charts are written by hand: the pages need no script, no font and no plotting package, and open anywhere.
"""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CORRECT, INCORRECT = "#c0392b", "#2f6db5"  # red and blue, as the staged retrieval's histograms have it
COLOURS = ("#2f6db5", "#e08a1e", "#3a9a5b", "#8e5bb5", "#c0392b", "#6b7280")
WIDTH, HEIGHT = 560, 320  # of a chart, px
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 54, 48
TILE_PX, CAPTION_PX = 176, 44  # of a picture beside its neighbours


@dataclass(frozen=True)
class Tile:
    """One image of a row. `right`: True green frame, False red, None grey."""

    image: np.ndarray  # uint8 [H, W, 3]
    caption: str
    right: bool | None = None
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom in px of `image`, drawn upon it


def histogram(
    title: str, groups: Mapping[str, Sequence[float]], colours: Sequence[str], x_label: str, bins: int = 30
) -> str:
    """Overlaid histograms as SVG; every group has the same bins. Empty groups are left out of the drawing."""
    everything = np.concatenate([np.asarray(values, float) for values in groups.values()] or [np.zeros(0)])
    if not len(everything):
        return _chart(title, (0, 1), (0, 1), x_label, "images", [], dict(zip(groups, colours, strict=False)))
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1e-3, bins + 1)
    counts = {name: np.histogram(np.asarray(values, float), edges)[0] for name, values in groups.items()}
    top = max(int(count.max()) for count in counts.values())
    x, y = _scale((edges[0], edges[-1]), LEFT, WIDTH - RIGHT), _scale((0, top), HEIGHT - BOTTOM, TOP)
    marks = [
        f'<rect x="{x(edges[i]):.1f}" y="{y(count):.1f}" width="{x(edges[i + 1]) - x(edges[i]):.1f}" '
        f'height="{y(0) - y(count):.1f}" fill="{colour}" fill-opacity="0.55"/>'
        for (name, row), colour in zip(counts.items(), colours, strict=False)
        for i, count in enumerate(row)
        if count
    ]
    legend = {f"{name} ({len(groups[name])})": c for name, c in zip(groups, colours, strict=False)}
    return _chart(title, (edges[0], edges[-1]), (0, top), x_label, "images", marks, legend)


def bars(title: str, rows: Mapping[str, Mapping[str, float]], y_label: str) -> str:
    """Stacked bars as SVG: {bar: {part: value}}, the same parts in every bar; values are 0 or more."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    top = max((sum(row.values()) for row in rows.values()), default=1.0) or 1.0
    y = _scale((0, top), HEIGHT - BOTTOM, TOP)
    each = (WIDTH - LEFT - RIGHT) / max(len(rows), 1)
    marks = []
    for place, (name, row) in enumerate(rows.items()):
        left, below = LEFT + each * (place + 0.2), 0.0
        for part, value in row.items():
            colour = COLOURS[parts.index(part) % len(COLOURS)]
            marks.append(
                f'<rect x="{left:.1f}" y="{y(below + value):.1f}" width="{each * 0.6:.1f}" '
                f'height="{y(below) - y(below + value):.1f}" fill="{colour}"/>'
            )
            below += value
        middle = left + each * 0.3
        marks.append(_text(middle, y(below) - 4, f"{below:.3g}", anchor="middle"))
        marks.append(_text(middle, HEIGHT - BOTTOM + 16, name, anchor="middle"))
    legend = {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)} if len(parts) > 1 else {}
    return _chart(title, None, (0, top), "", y_label, marks, legend)


def scatter(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    lines: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Points as SVG, one colour a series.

    Args:
        series: name → (x, y) points.
        lines: series whose points are joined, in order of x.
        names: series → a text beside each of its points.
        colours: series → its colour, where it is not the next of COLOURS.
    """
    points = [point for values in series.values() for point in values] or [(0.0, 0.0)]
    x_range = _padded([point[0] for point in points])
    y_range = _padded([point[1] for point in points])
    x, y = _scale(x_range, LEFT, WIDTH - RIGHT), _scale(y_range, HEIGHT - BOTTOM, TOP)
    marks, legend = [], {}
    for place, (name, values) in enumerate(series.items()):
        legend[name] = colour = (colours or {}).get(name, COLOURS[place % len(COLOURS)])
        if name in lines and len(values) > 1:
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in sorted(values))
            marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for row, (a, b) in enumerate(values):
            marks.append(
                f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{colour}" fill-opacity="0.7"/>'
            )
            if names and name in names:
                near_right = x(a) > WIDTH - RIGHT - 60
                shift, anchor = (-7, "end") if near_right else (7, "start")
                marks.append(_text(x(a) + shift, y(b) + 4, names[name][row], anchor=anchor))
    return _chart(title, x_range, y_range, x_label, y_label, marks, legend)


def neighbour_picture(query: Tile, neighbours: Sequence[Tile]) -> Image.Image:
    """The query at the left, its neighbours beside it in order, a caption under each."""
    tiles = [query, *neighbours]
    gap = 8
    step = TILE_PX + gap
    canvas = Image.new("RGB", (gap + step * len(tiles) + gap, TILE_PX + CAPTION_PX + 2 * gap), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for place, tile in enumerate(tiles):
        left = gap + step * place + (gap if place else 0)  # the query stands a little apart
        picture, scale = _fitted(tile.image)
        corner = (left + (TILE_PX - picture.width) // 2, gap + (TILE_PX - picture.height) // 2)
        canvas.paste(picture, corner)
        if tile.box is not None:
            at = [round(edge * scale) + corner[i % 2] for i, edge in enumerate(tile.box)]
            draw.rectangle(at, outline="#f5c518", width=2)
        colour = {True: "#2e9e4f", False: "#d43c2c", None: "#8a8f98"}[tile.right]
        draw.rectangle([left - 2, gap - 2, left + TILE_PX + 1, gap + TILE_PX + 1], outline=colour, width=3)
        for row, line in enumerate(tile.caption.split("\n")[:2]):
            draw.text((left, gap + TILE_PX + 6 + 18 * row), _shortened(line, font), "black", font)
    return canvas


def embedded(picture: Image.Image, alternative: str) -> str:
    """A picture as an `img` element that carries its own JPEG bytes."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(alternative, quote=True)}" src="data:image/jpeg;base64,{data}">'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; floats to four digits."""
    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def page(title: str, sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """One HTML page from (heading, pieces of HTML or SVG) sections. Headings are escaped, pieces are not."""
    body = "\n".join(
        f"<section><h2>{html.escape(heading)}</h2>\n" + "\n".join(pieces) + "</section>"
        for heading, pieces in sections
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1240px;padding:0 1em}"
        "h1{font-size:1.5em}h2{font-size:1.1em;margin-top:1.6em}svg,img{max-width:100%;margin:4px}"
        "table{border-collapse:collapse}td,th{padding:3px 12px;border-bottom:1px solid #ddd;text-align:right}"
        "td:first-child,th:first-child{text-align:left}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _chart(
    title: str,
    x_range: tuple[float, float] | None,
    y_range: tuple[float, float],
    x_label: str,
    y_label: str,
    marks: Sequence[str],
    legend: Mapping[str, str],
) -> str:
    y, right, foot = _scale(y_range, HEIGHT - BOTTOM, TOP), WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui,sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 18, title, weight="600"),
    ]
    for value in _ticks(*y_range):
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e3e6ea"/>'
        )
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", anchor="end"))
    if x_range is not None:
        x = _scale(x_range, LEFT, WIDTH - RIGHT)
        parts.extend(
            _text(x(value), HEIGHT - BOTTOM + 16, f"{value:g}", anchor="middle") for value in _ticks(*x_range)
        )
    parts.extend(marks)
    parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{foot}" y2="{foot}" stroke="#555"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label, anchor="middle"))
    parts.append(
        f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">'
        + _text(0, 0, y_label, anchor="middle")
        + "</g>"
    )
    left = float(LEFT)
    for name, colour in legend.items():
        parts.append(f'<rect x="{left:.0f}" y="29" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(left + 14, 38, name))
        left += 26 + 6.6 * len(name)
    return "".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "400") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="#1c2733">'
        f"{html.escape(text)}</text>"
    )


def _scale(values: tuple[float, float], first: float, last: float):
    low, high = values
    span = (high - low) or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high].

    >>> _ticks(0, 100)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def _fitted(image: np.ndarray) -> tuple[Image.Image, float]:
    picture = Image.fromarray(image)
    scale = TILE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS  # 32 px stay honest squares
    return picture.resize(size, method), scale


def _shortened(text: str, font) -> str:
    if font.getlength(text) <= TILE_PX:
        return text
    while text and font.getlength(text + "…") > TILE_PX:
        text = text[:-1]
    return text + "…"
