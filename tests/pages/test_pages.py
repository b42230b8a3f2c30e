"""Each page shows names as they are, whatever they are, and needs nothing beside it."""

import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jinja2
import numpy as np
import pytest
from PIL import Image

from pipeline.browsing import site
from pipeline.browsing.gallery import Gallery
from pipeline.browsing.pages import Shown
from pipeline.config import Run, Score
from pipeline.pages import render, report
from pipeline.similar import page as similar_page
from pipeline.staged import cascade, perf_page
from pipeline.zero_shot import confusion
from tfrecords.sources import Item

HOSTILE = """<script>alert(1)</script> "'> {{ 7 * 7 }} {% x %} &amp; <img src=x onerror=alert(1)>"""


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.attributes if each == name]


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 20, 20)).save(file, "PNG")
    return file.getvalue()


def reported(folder: Path) -> str:
    image = folder / "data" / HOSTILE.replace("/", "|") / "0.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(png())
    near = {"domain": "data", "key": f"{image.parent.name}/0.png", "distance": 0.5, "match": True}
    gone = {"domain": HOSTILE, "key": HOSTILE, "distance": 0.7, "match": False}
    domain = {"mP@5": 0.5, "queries": 1, "index": 1, "references": {HOSTILE: 0.25}}
    result = {"mP@5": 0.5, "domains": {HOSTILE: domain}, "references": {HOSTILE: 0.25}}
    result["examples"] = [{"domain": "data", "key": HOSTILE, "neighbours": [near, gone]}]
    (folder / "metrics.json").write_text(json.dumps(result))
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "validation/mP@5": 0.5}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report.main(Run(name=HOSTILE, run_dir=str(folder), score=Score(index=[str(folder / "data")])))
    return (folder / "report.html").read_text()


def listed(folder: Path) -> str:
    text = browsed().get("/", query_string={"find": HOSTILE}).text
    assert "2 of 2 images" in text
    return own_scripts_taken_out(text)


def item(folder: Path) -> str:
    return own_scripts_taken_out(browsed().get("/item/0").text)


def browsed():
    labels = np.zeros(2, np.int64)
    gallery = Gallery(HOSTILE, np.eye(2, dtype=np.float32), [HOSTILE] * 2, [HOSTILE] * 2, labels, [HOSTILE], {})
    return site.make_site(Shown(gallery)).test_client()


def own_scripts_taken_out(text: str) -> str:
    """Scripts of the server's own files: nothing else may run."""
    return text.replace('<script src="/static/browse.js" defer></script>', "")


def neighbours(folder: Path) -> str:
    stored = SimpleNamespace(images=[Item(HOSTILE, HOSTILE, png)], boxes=[None])
    found = [similar_page.Found([0], [0.5], [HOSTILE])]
    return similar_page.write_pictures(folder, stored, stored, found, {}, [0], True).read_text()


def staged(folder: Path) -> str:
    answer = SimpleNamespace(stage="first", class_name=HOSTILE, distance=0.5, agreement=1.0)
    tested = [SimpleNamespace(key=HOSTILE, class_name=HOSTILE, answers=[answer])]
    row = {"images": 1, "accuracy": 1.0, "encode_ms": 1.0, "query_ms": 2.0, "alone_ms": 3.0}
    stages = [{"stage": "first", **row}, {"stage": HOSTILE, **row}]
    result = {"stage": HOSTILE, "images": 1, "neighbours": 1, "stages": stages}
    points = [cascade.Point((1.0, 2.0, 0.5), 1.0, 2.0, (1.0, 0.0, 0.0, 0.0))]
    return perf_page.report(tested, result, points)


@pytest.mark.parametrize("make", [reported, listed, item, neighbours, staged])
@pytest.mark.faults("hostile name")
def test_a_hostile_name_is_shown_as_it_is_and_runs_nothing(make, tmp_path):
    text = make(tmp_path)
    found = Page(text)
    assert "script" not in found.tags and not found.values("onerror")
    assert HOSTILE in found.text + "".join(value for _, value in found.attributes)
    assert " 49 " not in found.text and "&amp;amp;" in text


@pytest.mark.parametrize("make", [reported, neighbours, staged])
def test_a_page_that_is_written_holds_all_that_it_shows(make, tmp_path):
    found = Page(make(tmp_path))
    assert all(value.startswith("data:image/jpeg;base64,") for value in found.values("src"))
    assert "link" not in found.tags and all(value.startswith("#") for value in found.values("xlink:href"))
    assert {"viewport", "utf-8"} <= {*found.values("name"), *found.values("charset")}


def test_the_config_stands_in_the_report_as_it_is(tmp_path):
    text = Page(reported(tmp_path)).text
    assert f"run_dir: {tmp_path}\n" in text.split("Config as run")[1]


def test_scored_images_that_are_gone_leave_the_numbers(tmp_path):
    reported(tmp_path)
    report.main(Run(name="n", run_dir=str(tmp_path), score=Score(index=[str(tmp_path / "gone")])))
    found = Page((tmp_path / "report.html").read_text())
    assert "0.5000" in found.text and str(tmp_path / "gone") in found.text and "figure" not in found.tags


@pytest.mark.parametrize(("trained_on", "unseen"), [(0, True), (3, False), (None, False)])
def test_the_report_says_never_trained_on_only_where_it_is_true(tmp_path, trained_on, unseen):
    reported(tmp_path)
    result = json.loads((tmp_path / "metrics.json").read_text())
    result |= {"classes": 4, "classes_trained_on": trained_on, "interval": [0.25, 0.75]}
    (tmp_path / "metrics.json").write_text(json.dumps(result))
    row = {"step": 2, "loss": 1.0, "validation/mP@5": 0.5, "validation/mP@5_low": 0.4, "validation/mP@5_high": 0.6}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row | {"validation/classes_trained_on": trained_on}))
    report.main(Run(name="n", run_dir=str(tmp_path), score=Score(index=[str(tmp_path / "data")])))
    text = Page((tmp_path / "report.html").read_text()).text
    assert ("never trained on" in text) is unseen is ("Validation, unseen classes" in text)
    assert ("3 of 4 scored classes were trained on" in text) is (trained_on == 3)
    assert "mP@5 0.5000 ±0.250 (4 classes, 1 query: too few for an estimate)" in text


@pytest.mark.filterwarnings("error")
def test_the_confusion_picture_takes_any_name_and_title():
    names = [HOSTILE, "$\\frac{$", "_猫"]
    assert confusion.picture(np.eye(3, dtype=np.int64), names, HOSTILE).width > confusion.PICTURE_PX


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render.render("report.html", title="t")


def test_an_installed_package_holds_the_templates(tmp_path):
    root = Path(__file__).parents[2]
    build = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    here, there = (folder / "pipeline/pages/templates" for folder in (root, tmp_path))
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())
