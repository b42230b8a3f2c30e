"""Names that are no words: loops, no UTF-8, formulas, ends of lines. Each is data, or a row of rejects.csv."""

import csv
import json
import os
from pathlib import Path

import markupsafe
import numpy as np
import pytest
from PIL import Image

from pipeline import cli, files
from pipeline.browsing import site
from pipeline.browsing.gallery import open_gallery
from pipeline.browsing.pages import Shown
from pipeline.config import Run, load
from pipeline.data import sources
from pipeline.pages import report
from tests.evaluation.tiny import MeanColour, save
from tests.tfrecords.test_records_build import all_records, build, write_config
from tfrecords import contact_sheet

ODD = [
    "a:b", "drawn:x", "=cmd()", "=cmd|' C calc'!A0", "+1", "-1", "@SUM(A1)", "tab\there", "line\nend", "return\rhere",
    "both\r\nends", 'quo"te', "com,ma", " before", "after ", "semi;colon", "<b>&amp;", "{{ 7 * 7 }}", "\x01\x7f",
    "\u202egpj", "100%", "a=b", "[1]", "*", "\\n", "\ttab", "\nline", "é", "e\u0301",
]  # fmt: skip


def picture(path: Path | bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    colours = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1)))
    with open(path, "wb") as file:
        Image.fromarray(colours.astype(np.uint8)).save(file, "PNG")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(folder of class folders, run folder): in each class an image, a copy of one in all classes, a damaged file."""
    folder = tmp_path_factory.mktemp("names")
    for number, name in enumerate(ODD):
        (folder / "set" / name).mkdir(parents=True)
        picture(folder / "set" / name / f"{name}.png", number)
        picture(folder / "set" / name / f"copy{name}.png", 10**6)
        (folder / "set" / name / f"bad{name}").write_bytes(b"no image")
    split = {"by": "class", "train": 0.5, "test": 0.5}
    config = write_config(folder, {"odd": folder / "set"}, split=split, max_reject_share=1.0)
    assert build(config) == 0
    return folder / "set", folder / "run", config


def escaped(text: str) -> str:
    """As Jinja2 writes it."""
    return str(markupsafe.escape(text))


def keys(prefix: str) -> list[str]:
    return sorted(f"{name}/{prefix}{name}" for name in ODD)


@pytest.mark.faults("odd name")
def test_every_table_and_record_of_a_build_gives_each_name_back(built):
    records = built[1] / "records"
    rejected = table(records / "rejects.csv")
    assert sorted(row["key"] for row in rejected) == keys("bad")
    assert sorted(row["class"] for row in rejected) == sorted(ODD)
    stored = [record.key for split in all_records(records).values() for record in split]
    assert sorted(stored) == sorted(f"{key}.png" for key in keys("") + keys("copy"))
    labels = json.loads((records / "labels.json").read_text())
    assert sorted(row["class"] for row in labels["classes"]) == sorted(ODD)
    pairs = table(records / "duplicates.csv")
    assert pairs and {row["other_key"] for row in pairs} <= {f"{key}.png" for key in keys("copy")}
    assert len({row["other_key"] for row in pairs}) == len(pairs) > len(ODD) // 4
    assert cli.main(["verify", str(records)]) == 0
    assert contact_sheet.contact_sheet(records, rows=len(ODD)).size[1] > 10 * len(ODD)


@pytest.mark.faults("odd name")
def test_scores_and_pages_show_each_name(built, tmp_path):
    root, run_dir, config = built
    embedder = save(MeanColour(), tmp_path / "embedder")
    assert cli.main(["embed", str(embedder), str(root), "--out", str(tmp_path / "vectors")]) == 0
    rows = table(tmp_path / "vectors/items.csv")
    assert sorted(row["key"] for row in rows) == sorted(f"{key}.png" for key in keys("") + keys("copy"))
    assert sorted(row["key"] for row in table(tmp_path / "vectors/rejects.csv")) == keys("bad")
    gallery = open_gallery(tmp_path / "vectors", str(root))
    assert sorted(gallery.images) == list(range(len(gallery.keys)))
    client = site.make_site(Shown(gallery)).test_client()
    for row, key in enumerate(gallery.keys):
        assert escaped(key) in client.get(f"/item/{row}").text
    assert client.get("/").text.count("/image/") == len(rows) <= 60
    assert client.get("/map/names").json["classes"] == gallery.classes
    out = run_dir / "metrics.json"
    assert cli.main(["score", str(embedder), "--index", str(root), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    known = {item.key for each in sources.open_data(str(root)) for item in each.items}
    examples = [key["key"] for example in result["examples"] for key in [example, *example["neighbours"]]]
    assert examples and set(examples) <= known
    run = load(Run, config, [f"score.index=[{root}]"])
    files.write_json(out, result)
    report.main(run)
    text = (run_dir / "report.html").read_bytes().decode()  # as it is: its ends of lines too
    assert "<b>&amp;" not in text
    assert [key for key in examples if escaped(key) not in text] == []
    assert text.count("data:image/jpeg") >= len(examples)


def rejected_names(folder: Path) -> dict[str, str]:
    return {row["key"]: row["reason"] for row in table(folder / "rejects.csv")}


@pytest.mark.faults("looping link")
def test_links_that_loop_are_rows_of_rejects_csv(tmp_path):
    root = tmp_path / "set"
    for name in ("crow", "owl"):
        (root / name / "below").mkdir(parents=True)
        for number in range(3):
            picture(root / name / f"{number}.png", hash(name) % 1000 + number)
    (root / "crow/self").symlink_to("self")
    (root / "crow/one").symlink_to("two")
    (root / "crow/two").symlink_to("one")
    (root / "crow/below/up").symlink_to("..")
    (root / "crow/gone").symlink_to("nowhere")
    (root / "owl/elsewhere").symlink_to(root / "crow/below")
    (root / "loop").symlink_to("loop")  # beside the class folders: no class
    (root / ".hidden").symlink_to(".hidden")
    config = write_config(tmp_path, {"birds": root}, max_reject_share=1.0)
    assert build(config) == 0
    found = rejected_names(tmp_path / "run/records")
    bad = {"self", "one", "two", "gone"}
    through = {f"owl/elsewhere/up/{name}" for name in (*bad, "below")}  # a link out of the class is followed once
    assert found.keys() == {"crow/below/up", *(f"crow/{name}" for name in bad), *through}
    assert all(reason for reason in found.values())
    stored = [record.key for split in all_records(tmp_path / "run/records").values() for record in split]
    assert {f"{name}/{number}.png" for name in ("crow", "owl") for number in range(3)} <= set(stored)
    assert cli.main(["verify", str(tmp_path / "run/records")]) == 0


@pytest.mark.faults("name that is not UTF-8")
def test_a_name_that_reads_as_another_is_a_row_of_rejects_csv(tmp_path):
    root = tmp_path / "set"
    (root / "owl").mkdir(parents=True)
    raw = os.fsencode(root)
    try:
        os.mkdir(raw + b"/owl\xff")
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    (root / "owl\\xff").mkdir()
    for number, name in enumerate((b"owl/\xff.png", b"owl/\\xff.png", b"owl/\\xff.png (2)", b"owl/alone\xfe.png")):
        picture(raw + b"/" + name, number)
    picture(raw + b"/owl\xff/a.png", 8)
    picture(raw + b"/owl\\xff/b.png", 9)
    config = write_config(tmp_path, {"birds": root}, max_reject_share=1.0)
    assert build(config) == 0
    found = rejected_names(tmp_path / "run/records")
    assert found.keys() == {"owl/\\xff.png (2) (2)", "owl\\xff/a.png"}, "the second ones"
    assert all("not UTF-8" in reason for reason in found.values())
    stored = [record.key for split in all_records(tmp_path / "run/records").values() for record in split]
    assert sorted(stored) == ["owl/\\xff.png", "owl/\\xff.png (2)", "owl/alone\\xfe.png", "owl\\xff/b.png"]
    before = (tmp_path / "run/records/manifest.json").read_bytes()
    assert build(config) == 0 and (tmp_path / "run/records/manifest.json").read_bytes() == before
