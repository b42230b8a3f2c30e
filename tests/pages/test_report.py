"""The report of a whole run folder, and of folders that lack parts of one."""

import csv
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Records, Run, Score
from pipeline.config.schema import Split
from pipeline.evaluation import precisions, scored
from pipeline.evaluation.scored import Scored
from pipeline.guards import stage_log
from pipeline.pages import neighbours, report
from tests.pages.test_pages import HOSTILE, Page

CLASSES, IMAGES = 6, 8
NAMES = [f"{HOSTILE} {number}".replace("/", "|") for number in range(CLASSES)]
LOADS = re.compile(r"""(?:src|href)=["'](?!data:|#)|url\((?!["']?(?:data:|#|\$))|@import|https?://(?!www\.w3\.org)""")


def run_of(folder: Path) -> Run:
    return Run(name="made", run_dir=str(folder), score=Score(index=[str(folder.parent / "photos")]))


def make(folder: Path, seed: int = 0, noise: float = 0.7) -> Scored:
    """A run folder as `guie run` leaves it, of drawn images and made vectors; hostile names of classes."""
    rng = np.random.default_rng(seed)
    photos, keys, labels = folder.parent / "photos", [], []
    for label, name in enumerate(NAMES):
        for number in range(IMAGES):
            path = photos / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                Image.new("RGB", (40, 30), (40 * label, 25 * number, 90)).save(path)
            keys.append(f"{name}/{number}.jpg")
            labels.append(label)
    centres = np.random.default_rng(7).normal(size=(CLASSES, 8))
    vectors = (centres[labels] + noise * rng.normal(size=(len(labels), 8))).astype(np.float32)
    images = Scored(vectors, keys, [NAMES[label] for label in labels], ["photos"] * len(keys), ["both"] * len(keys),
                    np.array(labels, np.int64))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    scored.write(folder / scored.FOLDER, images)
    values = neighbours.inspect(images).precisions
    rows = {"embedder": values, "raw_features": np.clip(values - 0.1, 0, 1)}
    found = {precisions.of_domain("photos"): rows, precisions.WHOLE: rows}
    precisions.save(folder / "precisions.npz", found)
    classes = dict.fromkeys(found, (CLASSES, CLASSES))
    result = precisions.scores(found, {"photos": len(keys)}, [], classes)
    rejects = [{"domain": "photos", "key": "x", "reason": "cut off"}]
    result |= {"classes_trained_on": 0, "embedding_dim": 8, "leave_one_out": True, "rejects": rejects, "examples": []}
    (folder / "metrics.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0, "validation/mP@5": 0.5}) + "\n")
    records = folder / "records"
    records.mkdir(exist_ok=True)
    space = {"sources": [{"name": "own", "first": 0, "count": 1}], "merged": []}
    space["classes"] = [
        {"label": 0, "source": "own", "class": "c", "name": "c", "train": 1234, "validation": 0, "test": 5}
    ]
    (records / "labels.json").write_text(json.dumps(space))
    (records / "manifest.json").write_text(json.dumps({"near_duplicates": True}))
    with (records / "rejects.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["key", "source", "class", "reason"], *[[str(n), "own", "c", "too large"] for n in "abc"]]
        )
    pair = ["exact", "0", "own", "train", "a", "own", "test", "b"]
    with (records / "duplicates.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["kind", "distance", "source", "split", "key", "other_source", "other_split", "other_key"], pair, pair]
        )
    with stage_log.logged(folder, "train") as work:
        work.images, work.device = 4321, "1 CPU"
    (folder / "config.yaml").write_text(
        f"name: {folder.name}\ntrain: {{seed: {seed}}}\nscore: {{index: [{json.dumps(str(photos))}]}}\n"
    )
    return images


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Scored, str]:
    folder = tmp_path_factory.mktemp("report") / "run"
    images = make(folder)
    report.main(run_of(folder))
    return folder, images, (folder / "report.html").read_text()


def test_the_page_holds_every_part(made):
    text = Page(made[2]).text
    for said in ("better than its encoder's raw features", "The worst", "The best", "Classes taken for each other",
                 "Distances of the five nearest", "48 scored images in a plane by", "Training loss", "1,234",
                 "too large", "cut off (when scored)", "Left out: 4 images", "In two splits: 2 images",
                 "Time and machine", "4,321", "1 CPU", "nearly the same picture", "seed: 0"):  # fmt: skip
        assert said in text, said


def test_the_worst_query_stands_first_with_its_neighbours_marked_by_sign(made):
    _, images, page = made
    found = neighbours.inspect(images)
    at = found.worst(1)[0]
    first = page.split("The worst", 1)[1].split('<div class="row">')[1].split("</div>")[0]
    signs = re.findall(r'<figure class="(right|wrong)">', first)
    assert signs == ["right" if hit else "wrong" for hit in found.hits[at]] and "wrong" in signs
    assert [{"✓": "right", "✗": "wrong"}[sign] for sign in re.findall("[✓✗]", first)] == signs
    assert f"P@5 {found.precisions[at]:.2f}" in first and first.count("data:image/jpeg") == 6
    assert re.findall(r"\d\.\d{3}", Page(first).text) == [f"{distance:.3f}" for distance in found.distances[at]]


def test_it_loads_nothing_and_runs_only_its_own_script(made):
    page = made[2]
    assert not LOADS.search(page) and len(page.encode()) < 1_000_000
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == ['<script type="application/json" id="map-data">', "<script>"]
    assert HOSTILE.split("/")[0] not in page  # only escaped
    held = json.loads(page.split('id="map-data">')[1].split("</script>")[0])
    assert held["names"] and set(held["names"]) <= set(NAMES) and len(held["x"]) == len(held["captions"]) == 48
    alts = re.findall(r'<img[^>]* alt="([^"]*)"', page)
    assert len(alts) == page.count("<img ") > 60 and all(alts)


def test_headings_go_down_one_by_one_and_the_contents_lead_to_them(made):
    page = made[2]
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    links = re.findall(r'href="#([a-z]+)"', page.split("</nav>")[0])
    assert len(links) > 7 and all(f'id="{link}"' in page for link in links)


PARTS = {
    "scored": ("The scored vectors are not kept here", 'id="map"'),
    "metrics.jsonl": ("mP@5", "Training loss"),
    "records": ("built no records of its own", "1,234"),
    "stages.jsonl": ("mP@5", "Time and machine"),
    "../photos": ("The images cannot be shown", "The worst"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_without_a_part_has_a_page_without_it(part, tmp_path):
    make(tmp_path / "run")
    path = tmp_path / "run" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report.main(run_of(tmp_path / "run"))
    text = (tmp_path / "run/report.html").read_text()
    said, absent = PARTS[part]
    assert said in text and absent not in text and "better than" in text


def test_many_images_are_sampled_and_the_page_says_so(made, tmp_path, monkeypatch):
    monkeypatch.setattr(report.atlas, "MOST_POINTS", 10)
    monkeypatch.setattr(report.atlas.map_of, "__defaults__", (10,))
    monkeypatch.setattr(report.neighbours.inspect, "__defaults__", (12, None))
    make(tmp_path / "run")
    report.main(run_of(tmp_path / "run"))
    text = Page((tmp_path / "run/report.html").read_text()).text
    assert "10 of 48 scored images" in text and "12 of 48 queries are looked at" in text


def test_a_run_over_seeds_names_the_seeds_reports(tmp_path):
    make(tmp_path / "run")
    result = json.loads((tmp_path / "run/metrics.json").read_text())
    (tmp_path / "run/metrics.json").write_text(json.dumps(result | {"seeds": {"0": 0.5, "3": 0.6}}))
    with stage_log.logged(tmp_path / "run/seed-3", "export"):
        pass
    report.main(Run(name="n", run_dir=str(tmp_path / "run"), seeds=[0, 3], records=Records(split=Split())))
    text = Page((tmp_path / "run/report.html").read_text()).text
    assert (
        "seed-0/report.html, seed-3/report.html" in text and "queries and 2 seeds" in text and "seed-3 export" in text
    )
