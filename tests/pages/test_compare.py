"""`guie compare`: runs on the same queries, on other ones, and what is no run."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline import cli
from pipeline.evaluation import scored
from pipeline.pages import compare, compared
from pipeline.retrieval import intervals
from pipeline.stages import depends
from tests.pages.test_pages import Page
from tests.pages.test_report import LOADS, make


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three runs on the same 48 queries: a, a better one and one that is a with a query or two changed."""
    root = tmp_path_factory.mktemp("compare")
    for name, seed, noise in (("a", 0, 0.9), ("b", 1, 0.4), ("c", 0, 0.92)):
        make(root / name, seed, noise)
    return root


def ran(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["compare", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_same_queries_are_paired_and_a_word_says_what_it_means(folders, capsys):
    code, out, _ = ran(capsys, folders / "a", folders / "b", folders / "c")
    a, b = (compared.open_run(folders / name, name) for name in "ab")
    ahead = b.values["whole"].mean() - a.values["whole"].mean()
    low, high = intervals.paired(b.values["whole"], a.values["whole"])
    assert code == 0 and low > 0
    assert f"{ahead:+.3f} ±{(high - low) / 2:.3f} better" in out
    assert out.splitlines()[-2].startswith("compare: b is better than a by")
    assert out.splitlines()[-1].startswith("compare: whether c is better than a is not settled")
    back = compared.difference(b, a, "domain photos")
    assert back and back.word == "worse" and back.paired and back.mean == pytest.approx(-ahead)
    assert compare.NOT_PAIRED_NOTE not in out and compare.PAIRED_NOTE in out


def test_the_page_shows_what_differs_and_the_queries_that_changed_most(folders, tmp_path, capsys):
    page = tmp_path / "compare.html"
    assert ran(capsys, folders / "a", folders / "b", "--out", page)[0] == 0
    text = page.read_text()
    found = Page(text)
    assert not LOADS.search(text) and "script" not in found.tags
    assert re.search(r"train\.seed01\b", found.text) and "run_dir" not in found.text
    a, b = (compared.open_run(folders / name, name) for name in "ab")
    change = b.values["whole"] - a.values["whole"]
    gained, lost, found_change = compared.changed(a, b, 3)
    np.testing.assert_allclose(found_change, change, atol=1e-9)
    assert [change[at] for at in gained] == sorted(change, reverse=True)[:3] and change[gained[0]] > 0
    assert all(change[at] < 0 for at in lost) and len(lost) == min(3, (change < 0).sum())
    better, worse = (change > 1e-9).sum(), (change < -1e-9).sum()
    assert f"{better} queries gained, {worse} lost, {48 - better - worse} stayed" in found.text
    assert f"P@5 +{change.max():.2f}" in found.text and text.count("data:image/jpeg") >= 11 * 2


def test_other_queries_are_compared_without_pairing_and_it_is_said(folders, tmp_path, capsys):
    other = tmp_path / "d"
    shutil.copytree(folders / "c", other)
    table = other / "scored/items.csv"
    table.write_text(table.read_text().replace("0.jpg", "00.jpg"))
    assert ran(capsys, folders / "a", other, "--out", tmp_path / "page.html")[0] == 0
    _, out, _ = ran(capsys, folders / "a", other)
    assert "not settled *" in out and compare.NOT_PAIRED_NOTE in out and compare.PAIRED_NOTE not in out
    assert "They scored other queries." in Page((tmp_path / "page.html").read_text()).text
    a, d = compared.open_run(folders / "a", "a"), compared.open_run(other, "d")
    paired, apart = (compared.difference(a, each, "whole") for each in (compared.open_run(folders / "c", "c"), d))
    assert apart.mean == pytest.approx(paired.mean) and not apart.paired
    assert np.ptp(apart.bounds) > np.ptp(paired.bounds)


def test_images_of_other_classes_are_other_queries_though_their_keys_are_the_same(folders, tmp_path):
    """Sets of drawn images count their images from 0, each its own."""
    other = tmp_path / "d"
    shutil.copytree(folders / "c", other)
    found = scored.read(other / "scored")
    scored.write(other / "scored", replace(found, classes=[f"other {name}" for name in found.classes]))
    assert scored.read(other / "scored").keys == found.keys
    a, d = compared.open_run(folders / "a", "a"), compared.open_run(other, "d")
    assert compared.changed(a, d, 3)[:2] == ([], []) and not compared.difference(a, d, "whole").paired


def test_a_run_and_its_copy_are_alike(folders, tmp_path, capsys):
    shutil.copytree(folders / "a", tmp_path / "copy")
    code, out, _ = ran(capsys, folders / "a", tmp_path / "copy", "--out", tmp_path / "page.html")
    assert code == 0 and out.splitlines()[-1] == "compare: copy and a scored every query alike"
    text = Page((tmp_path / "page.html").read_text()).text
    assert "0 queries gained, 0 lost, 48 stayed" in text and "No key differs" in text


@pytest.mark.parametrize("part", ["scored", "precisions.npz", "config.yaml"])
def test_a_run_of_an_earlier_version_is_compared_as_far_as_it_goes(part, folders, tmp_path, capsys):
    other = tmp_path / "old"
    shutil.copytree(folders / "b", other)
    shutil.rmtree(other / part) if (other / part).is_dir() else (other / part).unlink()
    code, out, _ = ran(capsys, folders / "a", other, "--out", tmp_path / "page.html")
    assert code == 0 and "old is better than a" in out
    assert ("*" in out) is (part != "config.yaml")


def test_scores_of_another_config_than_the_folder_s_are_said(folders, tmp_path, capsys):
    """As after an edit and a `guie run` that was killed in its training: config.yaml is new, the scores are not."""
    other = tmp_path / "b"
    shutil.copytree(folders / "b", other)
    stage = depends.score(compared.open_run(other, "b").config, {})
    stage.finish(stage.begin([]))
    assert "earlier config" not in ran(capsys, folders / "a", other)[1]
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("seed: 1", "seed: 9"))
    assert "scores of b are of an earlier config (train.seed was 1, is 9)" in ran(capsys, folders / "a", other)[1]
    stage.begin([])
    assert "its scoring was not finished" in ran(capsys, folders / "a", other)[1]


def test_what_is_no_scored_run_is_refused_in_one_line(folders, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metrics.json").write_text(json.dumps({"mAP@5": 1.0}))
    for words, said in (
        ([folders / "a", tmp_path / "empty"], "holds no metrics.json"),
        ([folders / "a", tmp_path / "nowhere"], "holds no metrics.json"),
        ([folders / "a", tmp_path / "other"], "expected the scores of `guie run`"),
        ([folders / "a"], "two runs or more"),
    ):
        code, _, error = ran(capsys, *words)
        assert code == 2 and said in error and error.count("\n") == 1


def test_runs_of_one_name_are_called_by_their_paths(tmp_path):
    assert compared.names([tmp_path / "x/run", tmp_path / "y/run"]) == [f"{tmp_path}/x/run", f"{tmp_path}/y/run"]
    assert compared.names([tmp_path / "x/run", tmp_path / "y/other"]) == ["run", "other"]
