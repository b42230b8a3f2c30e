"""Pictures show what they say; thumbnails keep the proportions."""

import base64
import io

import numpy as np
from PIL import Image, ImageColor

from pipeline.pages import charts, pictures
from pipeline.pages.pictures import Tile
from tfrecords.sources import Item

STEP = pictures.TILE_PX + pictures.GAP_PX


def test_neighbour_picture_shows_each_image_in_its_order_with_its_frame():
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    tiles = [
        Tile(np.full((40, 80, 3), colour, np.uint8), "name\n0.12", right)
        for colour, right in zip(colours, (None, True, False), strict=True)
    ]
    picture = np.asarray(pictures.neighbour_picture(tiles[0], tiles[1:]))
    middle = pictures.GAP_PX + pictures.TILE_PX // 2
    lefts = [8, 16 + STEP, 16 + 2 * STEP]
    for left, colour in zip(lefts, colours, strict=True):
        assert tuple(picture[middle, left + 88]) == colour
    right, wrong = (ImageColor.getrgb(colour) for colour in (charts.RIGHT, charts.WRONG))
    assert tuple(picture[middle, lefts[1] - 1]) == right
    assert tuple(picture[middle, lefts[2] - 1]) == wrong


def test_right_and_wrong_differ_without_their_colours():
    """The signs in the corner, as a printer without colours would have them."""
    tiles = [Tile(np.full((40, 40, 3), 90, np.uint8), "", right) for right in (None, True, False)]
    picture = np.asarray(pictures.neighbour_picture(tiles[0], tiles[1:]))
    lefts = [8, 16 + STEP, 16 + 2 * STEP]
    corners = [
        picture[pictures.GAP_PX : pictures.GAP_PX + 26, left + pictures.TILE_PX - 26 : left + pictures.TILE_PX]
        for left in lefts
    ]
    white = [(corner == 255).all(axis=2) for corner in corners]
    assert not white[0].any() and white[1].sum() > 40 and white[2].sum() > 40
    assert (white[1] != white[2]).sum() > 40


def test_a_long_caption_stays_below_its_tile():
    long = np.asarray(pictures.neighbour_picture(Tile(np.zeros((8, 8, 3), np.uint8), "a" * 500), []))
    assert (long[:, 8 + pictures.TILE_PX + 2 :] == 255).all() and (long[pictures.TILE_PX + 14 :] < 128).any()


def test_the_box_is_drawn_where_it_lies_in_the_image():
    tile = Tile(np.zeros((100, 200, 3), np.uint8), "", None, box=(100, 0, 200, 100))
    picture = np.asarray(pictures.neighbour_picture(tile, []))
    row = picture[8 + pictures.TILE_PX // 2]
    yellow = np.flatnonzero((row == (0xF5, 0xC5, 0x18)).all(axis=1))
    assert abs(int(yellow[0]) - (8 + pictures.TILE_PX // 2)) <= 1


def test_a_thumbnail_keeps_the_proportions_and_a_broken_image_has_none():
    file = io.BytesIO()
    Image.new("RGB", (300, 150), (200, 10, 10)).save(file, "PNG")
    small = pictures.thumbnail(Item("a", "c", file.getvalue), 64)
    with Image.open(io.BytesIO(small)) as image:
        assert image.format == "JPEG" and image.size == (64, 32)
        assert np.abs(np.asarray(image)[16, 32].astype(int) - (200, 10, 10)).max() < 8
    head, data = pictures.data_url(small).split(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(data) == small
    assert pictures.thumbnail(Item("a", "c", lambda: b"no image"), 64) is None and pictures.data_url(None) == ""
