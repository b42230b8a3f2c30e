"""Which classes are taken for which: the matrix, what each class is most taken for, and its picture."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_NAMED = 60  # classes whose names fit beside the picture
PICTURE_PX = 720  # side of the matrix, about
MARGIN_PX = 16
BAR_PX = 18


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
    """The matrix as shares of each true class's images, white 0 to dark blue 1.

    Names stand beside rows and columns when there are few enough; the title, axes and scale always.
    """
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = max(1, PICTURE_PX // classes)
    side = cell * classes
    font = ImageFont.load_default(max(9, min(14, cell - 1)))
    named = classes <= MOST_NAMED
    beside = int(max(font.getlength(name) for name in names)) + 8 if named else 24
    left, top = MARGIN_PX + beside, 2 * MARGIN_PX + 40
    below = beside if named else 24
    canvas = Image.new("RGB", (left + side + 90, top + side + below + MARGIN_PX), "white")
    draw = ImageDraw.Draw(canvas)
    plain = ImageFont.load_default(14)
    draw.text((MARGIN_PX, MARGIN_PX), title, "black", ImageFont.load_default(16))
    draw.text((MARGIN_PX, MARGIN_PX + 24), "rows: true class, columns: predicted class", "#555555", plain)
    colours = Image.fromarray(_colours(shares)).resize((side, side), Image.Resampling.NEAREST)
    canvas.paste(colours, (left, top))
    draw.rectangle([left - 1, top - 1, left + side, top + side], outline="#888888")
    if named:
        for place, name in enumerate(names):
            middle = place * cell + cell // 2
            draw.text((left - 6, top + middle), name, "black", font, anchor="rm")
            canvas.paste(_upright(name, font), (left + middle - cell // 2, top + side + 4))
    scale = np.linspace(1, 0, side)[:, None].repeat(BAR_PX, axis=1)
    canvas.paste(Image.fromarray(_colours(scale)), (left + side + 20, top))
    for share in (0, 0.5, 1):
        at = (left + side + 24 + BAR_PX, top + round((1 - share) * (side - 1)))
        draw.text(at, f"{share:.0%}", "black", plain, anchor="lm")
    return canvas


def _colours(shares: np.ndarray) -> np.ndarray:
    """Shares in 0 … 1 → uint8 [..., 3]. The square root lifts small shares out of the white."""
    dark = np.array([16, 52, 110], np.float64)
    depth = np.sqrt(np.clip(shares, 0, 1))[..., None]
    return np.round(255 + (dark - 255) * depth).astype(np.uint8)


def _upright(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    box = font.getbbox(name)
    label = Image.new("RGB", (int(box[2]) + 1, int(box[3]) + 1), "white")
    ImageDraw.Draw(label).text((0, 0), name, "black", font)
    return label.rotate(90, expand=True)
