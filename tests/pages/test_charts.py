"""Charts are well-formed and to scale; pictures show what they say."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from pipeline.pages import charts
from pipeline.pages.charts import Tile

SVG = "{http://www.w3.org/2000/svg}"


def shapes(svg: str, tag: str) -> list[dict[str, str]]:
    return [element.attrib for element in ET.fromstring(svg).iter(SVG + tag)]


def test_histogram_areas_are_the_counts_of_both_groups():
    red, blue = [0.1, 0.1, 0.1, 0.9], [0.9, 0.5]
    svg = charts.histogram("d <&>", {"correct": red, "incorrect": blue}, ["#f00", "#00f"], "distance", bins=8)
    bars = [b for b in shapes(svg, "rect") if b["fill"] in ("#f00", "#00f") and "fill-opacity" in b]
    heights = {
        colour: sorted(float(b["height"]) for b in bars if b["fill"] == colour) for colour in ("#f00", "#00f")
    }
    assert len(heights["#f00"]) == 2 and len(heights["#00f"]) == 2
    np.testing.assert_allclose(heights["#f00"][1] / heights["#f00"][0], 3, atol=0.05)
    assert heights["#00f"][0] == heights["#f00"][0]
    assert "d &lt;&amp;&gt;" in svg


def test_stacked_bars_are_to_scale_and_stand_on_each_other():
    svg = charts.bars(
        "t", {"first": {"encoder": 0.0, "query": 2.0}, "third": {"encoder": 6.0, "query": 2.0}}, "ms"
    )
    drawn = [b for b in shapes(svg, "rect") if b["fill"] in charts.COLOURS and b["width"] != "10"]
    heights = [float(b["height"]) for b in drawn]
    np.testing.assert_allclose(heights[2] / heights[1], 3, atol=0.01)
    np.testing.assert_allclose(float(drawn[3]["y"]) + heights[3], float(drawn[2]["y"]), atol=0.2)


def test_scatter_places_points_in_order_and_names_them():
    svg = charts.scatter("t", {"a": [(0, 0), (1, 10)], "b": [(0.5, 5)]}, "x", "y", ["a"], {"b": ["half"]})
    circles = shapes(svg, "circle")
    x, y = [float(c["cx"]) for c in circles], [float(c["cy"]) for c in circles]
    assert x[0] < x[2] < x[1] and y[0] > y[2] > y[1]
    np.testing.assert_allclose([x[2], y[2]], [(x[0] + x[1]) / 2, (y[0] + y[1]) / 2], atol=0.1)
    assert len(shapes(svg, "polyline")) == 1 and "half" in svg


def test_charts_of_nothing_and_of_one_value_are_still_charts():
    for svg in (
        charts.histogram("t", {"a": [], "b": []}, ["#f00", "#00f"], "x"),
        charts.histogram("t", {"a": [0.5, 0.5], "b": []}, ["#f00", "#00f"], "x"),
        charts.bars("t", {}, "y"),
        charts.bars("t", {"a": {"x": 0.0}}, "y"),
        charts.scatter("t", {}, "x", "y"),
        charts.scatter("t", {"a": [(1.0, 1.0)]}, "x", "y", ["a"]),
    ):
        assert "nan" not in svg and ET.fromstring(svg).tag == SVG + "svg"


def test_neighbour_picture_shows_each_image_in_its_place_with_its_frame():
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    tiles = [
        Tile(np.full((40, 80, 3), c, np.uint8), "name\n0.12", r)
        for c, r in zip(colours, (None, True, False), strict=True)
    ]
    picture = np.asarray(charts.neighbour_picture(tiles[0], tiles[1:]))
    middle = 8 + charts.TILE_PX // 2
    lefts = [8, 24 + charts.TILE_PX, 32 + 2 * charts.TILE_PX]
    for left, colour in zip(lefts, colours, strict=True):
        assert tuple(picture[middle, left + 88]) == colour
    assert tuple(picture[middle, lefts[1] - 1]) == (0x2E, 0x9E, 0x4F)
    assert tuple(picture[middle, lefts[2] - 1]) == (0xD4, 0x3C, 0x2C)


def test_the_box_is_drawn_where_it_lies_in_the_image():
    tile = Tile(np.zeros((100, 200, 3), np.uint8), "", None, box=(100, 0, 200, 100))
    picture = np.asarray(charts.neighbour_picture(tile, []))
    row = picture[8 + charts.TILE_PX // 2]
    yellow = np.flatnonzero((row == (0xF5, 0xC5, 0x18)).all(axis=1))
    assert abs(int(yellow[0]) - (8 + charts.TILE_PX // 2)) <= 1


def test_page_escapes_text_and_carries_its_pictures():
    picture = charts.neighbour_picture(Tile(np.zeros((8, 8, 3), np.uint8), "a" * 500), [])
    text = charts.page(
        "a <b>", [("one & two", [charts.embedded(picture, 'say "hi"'), charts.table(["k"], [["<x>"]])])]
    )
    assert (
        "a &lt;b&gt;" in text
        and "one &amp; two" in text
        and "&lt;x&gt;" in text
        and "say &quot;hi&quot;" in text
    )
    data = re.search(r"base64,([^\"]+)", text)
    assert data and Image.open(io.BytesIO(base64.b64decode(data[1]))).size == picture.size
