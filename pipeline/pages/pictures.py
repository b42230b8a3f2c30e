"""Pictures for pages: thumbnails, data URLs, a query beside its neighbours."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.pages import charts
from tfrecords import pixels
from tfrecords.sources import Item

TILE_PX, CAPTION_PX, GAP_PX = 176, 44, 8  # of `neighbour_picture`
FRAMES = {True: charts.RIGHT, False: charts.WRONG, None: charts.GREY}
BOX = "#f5c518"  # upon a photograph, which has no palette
SIGN_PX = 26


@dataclass(frozen=True)
class Figure:
    """An image of a page, as the templates show it."""

    source: str  # address or data URL; empty where there is no picture: the name stands there
    name: str  # the image's source and key
    caption: str
    kind: str = ""  # "right" (✓, blue frame), "wrong" (✗, orange), ""
    link: str = ""  # where a click leads
    note: str = ""  # a second line of the caption


@dataclass(frozen=True)
class Tile:
    """An image of `neighbour_picture`."""

    image: np.ndarray  # uint8 [H, W, 3]
    caption: str  # two lines at most
    right: bool | None = None  # True blue frame and ✓, False orange and ✗, None grey
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom in px of `image`; drawn upon it


def neighbour_picture(query: Tile, neighbours: Sequence[Tile]) -> Image.Image:
    """The query at the left, its neighbours beside it in order, a caption under each."""
    tiles = [query, *neighbours]
    step = TILE_PX + GAP_PX
    canvas = Image.new("RGB", (step * len(tiles) + 2 * GAP_PX, TILE_PX + CAPTION_PX + 2 * GAP_PX), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for number, tile in enumerate(tiles):
        left = GAP_PX + step * number + (GAP_PX if number else 0)  # the query stands a little apart
        picture, scale = _fitted(tile.image)
        corner = (left + (TILE_PX - picture.width) // 2, GAP_PX + (TILE_PX - picture.height) // 2)
        canvas.paste(picture, corner)
        if tile.box is not None:
            at = [round(edge * scale) + corner[i % 2] for i, edge in enumerate(tile.box)]
            draw.rectangle(at, outline=BOX, width=2)
        frame = [left - 2, GAP_PX - 2, left + TILE_PX + 1, GAP_PX + TILE_PX + 1]
        draw.rectangle(frame, outline=FRAMES[tile.right], width=3)
        if tile.right is not None:
            _draw_sign(draw, left + TILE_PX - SIGN_PX, GAP_PX, tile.right)
        for line, text in enumerate(tile.caption.split("\n")[:2]):
            draw.text((left, GAP_PX + TILE_PX + 6 + 18 * line), _shortened(text, font), "black", font)
    return canvas


def _draw_sign(draw: ImageDraw.ImageDraw, left: int, top: int, right: bool) -> None:
    """✓ or ✗ in a corner: drawn, as not every font has them."""
    draw.rectangle((left, top, left + SIGN_PX, top + SIGN_PX), fill=FRAMES[right])
    strokes = (
        [[(0.2, 0.55), (0.42, 0.78), (0.8, 0.25)]]
        if right
        else [[(0.25, 0.25), (0.75, 0.75)], [(0.75, 0.25), (0.25, 0.75)]]
    )
    for stroke in strokes:
        draw.line([(left + SIGN_PX * x, top + SIGN_PX * y) for x, y in stroke], fill="white", width=4, joint="curve")


def thumbnail(item: Item, side_px: int) -> bytes | None:
    """JPEG of at most `side_px` a side; None where the image cannot be read any more."""
    try:
        picture = Image.fromarray(pixels.read(item.read()))
    except (OSError, ValueError):
        return None
    picture.thumbnail((side_px, side_px))
    return as_jpeg(picture)


def as_jpeg(picture: Image.Image, quality: int = 88) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def data_url(jpeg: bytes | None) -> str:
    """The bytes as an address that a page can hold; "" of None."""
    return "" if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _fitted(image: np.ndarray) -> tuple[Image.Image, float]:
    picture = Image.fromarray(image)
    scale = TILE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS  # 32 px stay honest squares
    return picture.resize(size, method), scale


def _shortened(text: str, font) -> str:
    if font.getlength(text) <= TILE_PX:
        return text
    text = text[:TILE_PX]  # a letter is at least a pixel wide
    while text and font.getlength(text + "…") > TILE_PX:
        text = text[:-1]
    return text + "…"
