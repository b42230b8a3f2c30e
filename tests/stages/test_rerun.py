"""`guie run` again: cheap stages are made again by themselves, costly ones are refused or, with --redo, made anew."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.training import checkpoints
from tests.faults.world import draw, save_network
from tests.stages.tiny_world import World

pytestmark = pytest.mark.faults("stale results")
COSTLY = ("records/*.tfrec", "checkpoints/*")


def costly(world: World) -> dict:
    return {name: digest for pattern in COSTLY for name, digest in world.hashes(pattern).items()}


def image_overwritten(world: World) -> None:
    draw(world.folder / "images/c0/0.jpg", np.random.default_rng(9))


def image_added(world: World) -> None:
    draw(world.folder / "images/c0/9.jpg", np.random.default_rng(9))


def network_replaced(world: World) -> None:
    save_network(world.folder / "tiny.keras", 2)


def records_rebuilt(world: World) -> None:
    """The issue's case: the folder is removed and built from another config."""
    shutil.rmtree(world.run / "records")
    assert world.guie("tfrecords", CAP) == 0


def checkpoint_damaged(world: World) -> None:
    path = checkpoints.newest(world.run / "checkpoints")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


CAP, RATE = "records.cap_per_class=3", "train.phases.0.learning_rate=0.5"
REFUSED = {
    "another cap": (lambda _: None, [CAP], "records.cap_per_class was 50, is 3"),
    "an image overwritten": (image_overwritten, [], "1 images changed since the records were built"),
    "an image added": (image_added, [], "the list of images changed"),
    "records rebuilt": (records_rebuilt, [CAP], "was trained on another train.records and another train.validation"),
    "another rate": (lambda _: None, [RATE], "train.phases.0.learning_rate was 0.001, is 0.5"),
    "another precision": (
        lambda _: None, ["devices.precision=float32"], 'devices.precision was "auto", is "float32"'
    ),
    "another network": (network_replaced, [], "was trained on another encoder.name"),
}  # fmt: skip


REDONE = ("another cap", "an image overwritten", "records rebuilt")


@pytest.mark.parametrize("case", REFUSED)
def test_what_changed_is_named_in_one_line_and_nothing_is_lost_until_redo(world, case, capsys):
    edit, overrides, said = REFUSED[case]
    edit(world)
    before = costly(world)
    capsys.readouterr()
    assert world.guie("run", *overrides) == 2
    error = capsys.readouterr().err
    assert said in error and "--redo" in error and error.count("\n") == 1
    assert costly(world) == before
    if case not in REDONE:
        return
    assert world.guie("run", *overrides, "--redo") == 0
    assert costly(world) != before
    capsys.readouterr()
    assert world.guie("run", *overrides) == 0
    assert "report: done already" in capsys.readouterr().out


MENDED = {
    "contact_sheet.jpg gone": (
        lambda run: (run / "contact_sheet.jpg").unlink(), [], "contact sheet: contact_sheet.jpg is missing"
    ),
    "submission.zip cut": (
        lambda run: (run / "submission.zip").write_bytes(b"PK"), [], "export: submission.zip changed"
    ),
    "a file of the SavedModel gone": (
        lambda run: (run / "export/saved_model/saved_model.pb").unlink(), [], "export: export/saved_model changed"
    ),
    "flip_average": (lambda _: None, ["export.flip_average=true"], "export: export.flip_average was false, is true"),
    "references": (
        lambda _: None, ["score.references=[raw_pixels,pca]"],
        'score: score.references was ["raw_pixels"], is ["raw_pixels", "pca"]',
    ),
    "metrics.json edited": (lambda run: (run / "metrics.json").write_text("{}"), [], "score: metrics.json changed"),
    "a scored vector edited": (
        lambda run: np.save(run / "scored/embeddings.npy", np.zeros((2, 8), "f")), [], "score: scored changed"
    ),
    "report.html gone": (lambda run: (run / "report.html").unlink(), [], "report: report.html is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", MENDED)
def test_what_is_cheap_is_made_again_and_one_line_says_why(world, case, capsys):
    edit, overrides, said = MENDED[case]
    edit(world.run)
    before = costly(world)
    capsys.readouterr()
    assert world.guie("run", *overrides) == 0
    assert f"{said}: done again\n" in capsys.readouterr().out
    assert costly(world) == before and (world.run / "report.html").stat().st_size > 1000


def test_a_damaged_shard_and_lost_rows_of_metrics_come_back_as_they_were(world, capsys):
    before, rows = world.hashes("records/*"), world.hashes("metrics.jsonl")
    shard, other = sorted(world.run.glob("records/*-train-*.tfrec"))[:2]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    other.with_suffix(".index").unlink()
    (world.run / "records/labels.json").write_text("{}")
    (world.run / "metrics.jsonl").unlink()
    assert world.guie("run") == 0
    assert world.hashes("records/*") == before and world.hashes("metrics.jsonl") == rows
    assert "train: done already" in capsys.readouterr().out


def test_a_bit_of_the_only_checkpoint_is_refused_and_redo_trains_it_again(world, capsys):
    path = checkpoints.newest(world.run / "checkpoints")
    before = load_file(path)
    checkpoint_damaged(world)
    assert world.guie("run") == 2 and path.exists()
    error = capsys.readouterr().err
    assert "its checksum is another" in error and "no whole checkpoint is left" in error and error.count("\n") == 1
    assert world.guie("run", "--redo") == 0
    again = load_file(path)
    assert again.keys() == before.keys() and all((again[name] == before[name]).all() for name in before)


def test_without_anything_to_score_the_old_scores_go(world):
    assert world.guie("run", "score.index=[]") == 0
    left = [path.name for path in world.run.iterdir()]
    assert not {"metrics.json", "precisions.npz", "scored", "report.html"} & {*left} and "submission.zip" in left
    assert "Not scored yet" in (world.run / "export/model_card.md").read_text()


def test_an_export_alone_shows_no_score_of_the_model_before_it(world):
    card, page = world.run / "export/model_card.md", world.run / "report.html"
    note = "These scores are of an earlier model or of other data"
    assert "Not scored yet" not in card.read_text() and note not in page.read_text()
    assert world.guie("export", "export.flip_average=true") == 0
    assert world.guie("report", "export.flip_average=true") == 0
    assert "Not scored yet" in card.read_text() and "mP@5, all domains" not in card.read_text()
    assert f"{note} (submission.zip changed)" in page.read_text()
    assert world.guie("run", "export.flip_average=true") == 0
    assert "mP@5, all domains" in card.read_text() and note not in page.read_text()


def test_scored_images_may_lie_elsewhere_and_may_go(world, capsys, tmp_path):
    there, elsewhere = tmp_path / "one/photos", tmp_path / "two/photos"
    shutil.copytree(world.folder / "images", there)
    assert world.guie("run", f"score.index=[{there}]") == 0
    score, page = (world.run / "metrics.json").read_bytes(), world.run / "report.html"
    there.parent.rename(elsewhere.parent)
    capsys.readouterr()
    assert world.guie("run", f"score.index=[{elsewhere}]") == 0
    assert "score: done already" in capsys.readouterr().out
    before = page.read_bytes()
    shutil.rmtree(elsewhere)
    for command in ("run", "report"):
        assert world.guie(command, f"score.index=[{elsewhere}]") == 0
    said = capsys.readouterr().out
    assert "score: done already" in said and said.count("report: done already") == 2 and page.read_bytes() == before
    assert world.guie("run", f"score.index=[{elsewhere}]", "score.references=[]") == 2  # it cannot be scored again
    assert (world.run / "metrics.json").read_bytes() == score and page.read_bytes() == before
    assert world.guie("run", f"score.index=[{elsewhere}]") == 0


def test_a_shard_that_guie_did_not_make_is_refused_not_removed(world, capsys):
    strange = world.run / "records/mine-train-00-5.tfrec"
    strange.write_bytes(next(world.run.glob("records/*.tfrec")).read_bytes())
    assert world.guie("run") == 2
    assert "is no shard of this build and would be trained on" in capsys.readouterr().err and strange.exists()


class Killed(KeyboardInterrupt):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 4, 12, 24])
def test_redo_killed_while_it_removes_ends_as_a_fresh_run(whole, world, after, monkeypatch, tmp_path_factory):
    """The n-th file is not removed any more; what then is left must not be taken for what was asked."""
    fresh = fresh_with_cap(whole, tmp_path_factory)
    removed, unlink = [], Path.unlink

    def until(path, *arguments, **options):
        if path.is_relative_to(world.run) and not path.name.startswith(".partial"):
            removed.append(path)
            if len(removed) > after:
                raise Killed
        unlink(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", until)
        assert world.guie("run", CAP, "--redo") == 130
    first = world.guie("run", CAP)
    assert first in (0, 2)  # what is stale is refused still, never taken
    if first == 2:
        assert world.guie("run", CAP, "--redo") == 0
    assert world.hashes("records/*") == fresh.hashes("records/*")
    assert world.hashes("metrics.jsonl").keys() == fresh.hashes("metrics.jsonl").keys()
    state = checkpoints.read_state(checkpoints.newest(world.run / "checkpoints"))
    wanted = checkpoints.read_state(checkpoints.newest(fresh.run / "checkpoints"))
    assert state["inputs"]["train.records"]["content"] == wanted["inputs"]["train.records"]["content"]


FRESH: list[World] = []


def fresh_with_cap(whole: World, tmp_path_factory) -> World:
    if not FRESH:
        found = whole.copied(tmp_path_factory.mktemp("fresh") / "world")
        shutil.rmtree(found.run)
        assert found.guie("run", CAP) == 0
        FRESH.append(found)
    return FRESH[0]
