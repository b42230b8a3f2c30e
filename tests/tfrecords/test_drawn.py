"""The drawn images: the same from a seed, different in what they should be, hard for raw pixels; the sheet of them."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.errors import BadInput
from tfrecords import contact_sheet
from tfrecords.schema import Record, serialize
from tfrecords.shards import ShardWriter
from tfrecords.sources import list_source
from tfrecords.sources.drawn import PATTERNS, Part, _pattern, draw, parts_of
from tfrecords.sources.raycast import SOLIDS, cast


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_an_image_depends_on_seed_class_index_and_size_alone(tmp_path):
    small = {i.key: i for i in list_source("drawn", tmp_path, {"classes": 3, "images_per_class": 2, "seed": 5}).items}
    large = {i.key: i for i in list_source("drawn", tmp_path, {"classes": 9, "images_per_class": 4, "seed": 5}).items}
    assert len(small) == 6 and len(large) == 36
    assert all(item.read() == large[key].read() for key, item in small.items())
    different = {draw(s, c, i, 64) for s in (5, 6) for c in (0, 1) for i in (0, 1)}
    assert len(different) == 8


@pytest.mark.parametrize("side", [16, 64, 97])
def test_images_are_square_rgb_jpegs_of_the_size_asked_for(side):
    encoded = draw(1, 2, 3, side)
    assert encoded[:3] == b"\xff\xd8\xff" and pixels(encoded).shape == (side, side, 3)


@pytest.mark.parametrize("option", [{"classes": 0}, {"images_per_class": 0}, {"image_size_px": 2}, {"seed": -1}])
def test_options_out_of_range_are_bad_input(tmp_path, option):
    with pytest.raises(BadInput, match=next(iter(option))):
        list_source("drawn", tmp_path, option)


def test_classes_differ_in_solids_patterns_and_colours():
    objects = [parts_of(0, number) for number in range(96)]
    assert {part.solid for parts in objects for part in parts} == set(SOLIDS)
    assert {part.pattern for parts in objects for part in parts} == set(PATTERNS)
    looks = {tuple((p.solid, p.pattern, p.colours.tobytes()) for p in parts) for parts in objects}
    assert len(looks) == len(objects)
    palettes = {parts[0].colours.tobytes() for parts in objects}
    assert len(palettes) < len(objects)  # some share their colours, so colour alone does not tell the class


def march(solid: str, matrix: np.ndarray, centre: np.ndarray, x: float, y: float) -> float:
    """The slow way: walk along the ray from the eye until a point is inside the solid; infinity where none is."""
    planes, depths = SOLIDS[solid], np.arange(-2, 2, 0.002)
    points = np.stack([np.full_like(depths, x), np.full_like(depths, y), -depths])
    u = np.linalg.inv(matrix) @ (points - centre[:, None])  # [3, steps]
    if planes is not None:
        inside = (planes[:, :3] @ u <= planes[:, 3, None]).all(0)
    elif solid == "ball":
        inside = (u * u).sum(0) <= 1
    else:
        inside = (u[0] ** 2 + u[1] ** 2 <= 1) & (abs(u[2]) <= 1)
    return float(depths[inside.argmax()]) if inside.any() else np.inf


@pytest.mark.parametrize("solid", SOLIDS)
def test_rays_meet_the_solid_where_a_walk_along_them_does(solid):
    rng = np.random.default_rng(len(solid))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    matrix = (turn @ np.diag([0.5, 0.35, 0.6])).astype(np.float32)
    centre = np.array([0.1, -0.15, 0.05], np.float32)
    side = 12
    nearest = np.full((side, side), np.inf, np.float32)
    seen = cast(solid, matrix, centre, nearest)
    grid = (np.arange(side) + 0.5) * 2 / side - 1
    walked = np.array([[march(solid, matrix, centre, x, -y) for x in grid] for y in grid])
    both = np.isfinite(walked) & np.isfinite(nearest)
    np.testing.assert_allclose(nearest[both], walked[both], atol=0.01)
    # A ray may graze an edge between two steps of the walk, no more.
    assert (np.isfinite(walked) != np.isfinite(nearest)).sum() <= 1
    assert np.isfinite(nearest).sum() == len(seen.pixels) > 10
    np.testing.assert_allclose((seen.normal**2).sum(0), 1, rtol=1e-4)
    assert (seen.normal[2] > -1e-3).all()  # what is seen faces the eye


def test_a_farther_part_does_not_cover_a_nearer_one():
    nearest = np.full((16, 16), np.inf, np.float32)
    front = cast("ball", np.eye(3, dtype=np.float32) * 0.3, np.array([0, 0, 0.5], np.float32), nearest)
    behind = cast("box", np.eye(3, dtype=np.float32) * 0.6, np.array([0, 0, -0.5], np.float32), nearest)
    assert not set(front.pixels) & set(behind.pixels) and len(behind.pixels) > len(front.pixels)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_show_both_colours_but_for_the_plain_one(pattern):
    points = np.random.default_rng(0).uniform(-1, 1, (3, 4000)).astype(np.float32)
    part = Part("ball", pattern, np.eye(3), np.zeros(3), np.zeros((2, 3)), 2.5, 0.0)
    share = _pattern(part, points).mean()
    assert share == 0 if pattern == "plain" else 0.1 < share < 0.9


def precision_at_5(features: np.ndarray, labels: np.ndarray) -> float:
    distances = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argsort(1)[:, :5]] == labels[:, None]).mean())


def test_raw_pixels_tell_little_of_the_class_and_colours_of_the_middle_more():
    labels = np.repeat(np.arange(12), 10)
    images = np.stack([pixels(draw(0, c, i, 32)) for c in range(12) for i in range(10)]).astype(np.float32)
    raw = precision_at_5(images[:, ::2, ::2].reshape(len(images), -1), labels)
    middle = images[:, 8:24, 8:24].astype(int) // 64
    codes = middle[..., 0] * 16 + middle[..., 1] * 4 + middle[..., 2]
    colours = np.sqrt([np.bincount(code.ravel(), minlength=64) for code in codes])
    assert raw < 0.35
    assert precision_at_5(colours, labels) > raw + 0.15  # there is something to learn


def test_drawing_is_fast_enough_for_the_demo():
    for index in range(5):
        draw(0, 0, index)
    started = time.process_time()
    for index in range(40):
        draw(0, index % 8, index)
    assert 40 / (time.process_time() - started) > 60  # 96 × 60 images; some 250 a second on a quiet core


def test_contact_sheet_shows_a_row_a_class(tmp_path, capsys):
    records = tmp_path / "records"
    records.mkdir()
    rows = []
    for label in range(3):
        writer = ShardWriter(records / f"s-train-{label:02d}-2.tfrec")
        tile = np.full((32, 32, 3), 60 + 80 * label, np.uint8)
        out = io.BytesIO()
        Image.fromarray(tile).save(out, "JPEG")
        for _ in range(2):
            writer.write(serialize(Record(out.getvalue(), label, "k", "s")))
        writer.close()
        rows.append(
            {"label": label, "source": "s", "class": str(label), "name": "x", "train": 2, "validation": 0, "test": 0}
        )
    space = {"sources": [{"name": "s", "first": 0, "count": 3}], "classes": rows}
    (records / "labels.json").write_text(json.dumps(space))
    assert cli.main(["contact-sheet", str(records), str(tmp_path / "sheet.jpg")]) == 0
    assert "sheet.jpg" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg")).astype(int)
    step, left = 66, contact_sheet.NAME_PX
    for label in range(3):
        assert abs(sheet[label * step + 16, left + 16] - (60 + 80 * label)).max() < 4
        assert (sheet[label * step + 16, left + 2 * step + 16] > 250).all()  # it has two images, not three
    for path in records.glob("*.tfrec"):
        path.unlink()
    with pytest.raises(BadInput, match="found none"):
        contact_sheet.write(records, tmp_path / "none.jpg")
    assert not (tmp_path / "none.jpg").exists()
