"""Confusion of classes: the matrix, each class's most frequent mistake, and the matrix as a picture."""

import io
import textwrap

import numpy as np
from PIL import Image

from pipeline.pages import charts

MOST_NAMED = 60  # classes whose names fit beside the picture
PICTURE_PX = 720  # side of the matrix, about
MARGIN_PX, DPI = 16, 100
COLOURS = (charts.PAPER, charts.RIGHT, "#10346e")  # of the shares 0, a half and 1


def matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [N], int64 [N] → int64 [C, C]: rows are the true classes, columns the predicted ones.

    >>> matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def most_confused(counts: np.ndarray) -> list[int | None]:
    """For each class the other class that it is most often taken for; None where there is none."""
    others = counts.copy()
    np.fill_diagonal(others, 0)
    return [int(row.argmax()) if row.any() else None for row in others]


def picture(counts: np.ndarray, names: list[str], title: str) -> Image.Image:
    """The matrix as shares of each true class's images, white 0 over blue to dark 1.

    Class names stand beside rows and columns where there are at most MOST_NAMED. `counts`: int [C, C], see `matrix`.
    """
    with charts.drawing():
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm
        from matplotlib.figure import Figure
        from matplotlib.transforms import Bbox

        classes = len(counts)
        cell_px = max(1, PICTURE_PX // classes)
        side_px = cell_px * classes  # whole pixels a cell: no class is drawn wider than another
        figure = Figure((side_px / DPI, side_px / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        scale = figure.add_axes((1 + 20 / side_px, 0, 18 / side_px, 1))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        norm = PowerNorm(0.5, 0, 1)  # the square root lifts small shares out of the white
        colours = LinearSegmentedColormap.from_list("shares", COLOURS)
        # Above the frame, whose inner half would cover the cells' edges.
        image = axes.imshow(shares, colours, norm, interpolation="nearest", zorder=3)
        axes.grid(False)
        axes.spines[:].set(visible=True, color=charts.GREY)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_title(textwrap.fill(title, 80), pad=14)
        shown = names if classes <= MOST_NAMED else []
        font_points = min(10.0, 0.65 * cell_px)  # a name fits its row
        axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=font_points)
        axes.set_yticks(range(len(shown)), shown, fontsize=font_points)
        figure.colorbar(image, scale, ticks=[0, 0.1, 0.5, 1], format=lambda share, _: f"{share:.0%}")
        box = figure.get_tightbbox().padded(MARGIN_PX / DPI)
        edges_px = [np.floor(DPI * box.x0), np.floor(DPI * box.y0), side_px + 90, np.ceil(DPI * box.y1)]
        png = io.BytesIO()
        figure.savefig(png, format="png", bbox_inches=Bbox.from_extents(*(edge / DPI for edge in edges_px)))
    return Image.open(png).convert("RGB")
