"""Charts are well-formed, to scale and the same each time."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from pipeline.pages import charts

SVG = "{http://www.w3.org/2000/svg}"
FIRST, SECOND = "#ff0000", "#0000ff"


def drawn(svg: str, tag: str, colour: str) -> list[ET.Element]:
    """The shapes that are filled with a colour, hatched on it or drawn as its outline; the legend's come last."""
    root = ET.fromstring(svg)
    painted = [f"fill: {colour}", f"fill: none; stroke: {colour}"]
    for pattern in root.iter(SVG + "pattern"):
        if any(each.get("fill") == colour for each in pattern):
            painted.append(f"fill: url(#{pattern.get('id')})")
    hidden = {id(each) for pattern in root.iter(SVG + "pattern") for each in pattern}
    shapes = [each for each in root.iter(SVG + tag) if id(each) not in hidden]
    return [each for each in shapes if any(each.get("style", "").startswith(start) for start in painted)]


def corners(path: ET.Element) -> np.ndarray:
    """float [N, 2]: x and y of a path's corners."""
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")), float)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter(SVG + "text")]


def test_histogram_heights_are_the_counts_of_both_groups():
    groups = {"correct": [0.1, 0.1, 0.1, 0.9], "incorrect": [0.9, 0.5]}
    svg = charts.histogram("t", groups, [FIRST, SECOND], "distance", bins=8)
    first, second = (corners(drawn(svg, "path", colour)[0]) for colour in (FIRST, SECOND))
    foot = first[:, 1].max()
    heights = sorted(set(foot - first[:, 1]))
    assert heights[0] == 0 and len(heights) == 3
    np.testing.assert_allclose(heights[2] / heights[1], 3, atol=0.01)
    assert set(np.round(foot - second[:, 1], 3)) == set(np.round(heights[:2], 3))
    assert "correct (4)" in texts(svg) and "incorrect (2)" in texts(svg)


def test_stacked_bars_are_to_scale_and_stand_on_each_other():
    rows = {"first": {"encoder": 0.0, "query": 2.0}, "third": {"encoder": 6.0, "query": 2.0}}
    svg = charts.bars("t", rows, "ms")
    encoder, query = ([corners(path)[:, 1] for path in drawn(svg, "path", colour)[:2]] for colour in charts.COLOURS[:2])
    height = [[float(np.ptp(y)) for y in part] for part in (encoder, query)]
    np.testing.assert_allclose(height[0][1] / height[1][1], 3, atol=0.01)
    np.testing.assert_allclose(height[1][0], height[1][1], atol=0.01)
    assert height[0][0] == 0
    np.testing.assert_allclose(query[1].max(), encoder[1].min(), atol=0.01)
    assert {"first", "third", "2", "8", "encoder", "query", "ms"} <= set(texts(svg))


def test_scatter_places_points_in_order_and_names_them():
    series = {"a": [(0, 0), (1, 10)], "b": [(0.5, 5)]}
    svg = charts.scatter("t", series, "x", "y", ["a"], {"b": ["half"]}, {"a": FIRST, "b": SECOND})
    first, second = drawn(svg, "use", FIRST)[:2], drawn(svg, "use", SECOND)[:1]
    (ax, ay), (bx, by), (cx, cy) = ((float(each.get("x", "")), float(each.get("y", ""))) for each in [*first, *second])
    assert ax < bx and ay > by
    np.testing.assert_allclose([cx, cy], [(ax + bx) / 2, (ay + by) / 2], atol=0.01)
    lines = [each for each in ET.fromstring(svg).iter(SVG + "path") if f"stroke: {FIRST}" in each.get("style", "")]
    assert any(np.allclose(corners(line), [[ax, ay], [bx, by]], atol=0.01) for line in lines)
    assert "half" in texts(svg)


def test_points_that_are_joined_go_in_order_of_x():
    svg = charts.scatter("t", {"a": [(3, 1), (1, 2), (2, 0)]}, "x", "y", ["a"], colours={"a": FIRST})
    x = [float(each.get("x", "")) for each in drawn(svg, "use", FIRST)]
    assert x == sorted(x)


@pytest.mark.parametrize(
    ("draw", "arguments"),
    [
        (charts.histogram, ({}, [], "x")),
        (charts.histogram, ({"a": [], "b": []}, [FIRST, SECOND], "x")),
        (charts.histogram, ({"a": [0.5, 0.5], "b": []}, [FIRST, SECOND], "x")),
        (charts.histogram, ({"a": [0.5, float("inf")]}, [FIRST], "x")),
        (charts.bars, ({}, "y")),
        (charts.bars, ({"a": {"x": 0.0}}, "y")),
        (charts.scatter, ({}, "x", "y")),
        (charts.scatter, ({"a": []}, "x", "y", ["a"])),
        (charts.scatter, ({"a": [(1.0, 1.0)]}, "x", "y", ["a"])),
    ],
)
def test_charts_of_nothing_and_of_one_value_are_still_charts(draw, arguments):
    svg = draw("the title", *arguments)
    assert "nan" not in svg and "inf" not in svg
    assert ET.fromstring(svg).tag == SVG + "svg" and "the title" in texts(svg)


def test_a_chart_keeps_text_as_text_whatever_stands_in_it():
    title = "<script> & $\\frac{$ 猫"
    svg = charts.histogram(title, {"a": [1.0], "b": [2.0]}, [FIRST, SECOND], "$x")
    assert title in texts(svg) and "$x" in texts(svg) and "<script>" not in svg


def test_a_chart_is_the_same_each_time_and_no_id_stands_twice_for_different_things():
    one, again = (charts.bars("t", {"a": {"x": 1.0}}, "y") for _ in range(2))
    other = charts.scatter("u", {"a": [(0, 1)], "b": [(2, 3)]}, "x", "y")
    assert one == again and one.startswith("<svg")

    def marks(svg):
        return {each.get("id"): ET.tostring(each) for each in ET.fromstring(svg).iter() if each.get("id")}

    here, there = marks(one), marks(other)
    assert there and all(here[name] == there[name] for name in here.keys() & there.keys())


def test_a_page_s_chart_has_the_page_s_palette_and_no_other_colour():
    svg = charts.bars("t", {"a": {"x": 1.0, "y": 2.0}}, "y")
    themed = charts.themed(svg + charts.histogram("u", {"a": [1.0], "b": [2.0]}, [charts.RIGHT, charts.WRONG], "x"))
    assert not re.findall("#[0-9a-f]{6}\\b", themed) and {"var(--right)", "var(--paper)"} <= set(
        re.findall(r"var\(--\w+\)", themed)
    )
    style = (Path(charts.__file__).parent / "templates/style.css").read_text()
    for name, colour in charts.NAMES.items():  # the page in the light is the chart alone
        assert f"--{name}: {colour};" in style


def test_an_axis_of_shares_ends_where_shares_do():
    def highest(**options):
        found = texts(charts.scatter("t", {"a": [(0.1, 1.0), (0.2, 0.2)]}, "x", "y", ["a"], **options))
        return max(float(text) for text in found if re.fullmatch(r"[0-9.]+", text))

    bounds = {"a": [(0.1, 0.5, 1.4)]}
    assert highest(bounds=bounds) > 1 >= highest(bounds=bounds, y_within=(0, 1))


def test_the_users_own_matplotlib_settings_change_nothing():
    import matplotlib

    expected = charts.bars("t", {"a": {"x": 1.0}}, "y")
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "axes.facecolor": "red"}):
        assert charts.bars("t", {"a": {"x": 1.0}}, "y") == expected
        assert matplotlib.rcParams["font.size"] == 30
