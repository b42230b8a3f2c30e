"""Soups of runs that were really trained: the mean against NumPy, what greedy leaves out, the export, refusals."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from pipeline import cli, config
from pipeline.data.batches import eval_batches, open_records
from pipeline.data.preprocessing import normalize, prepare
from pipeline.models import embedder
from pipeline.selection import soup
from pipeline.training import checkpoints, train
from tests.selection.drawn import RECIPE, draw

HEAD = "embedder/embedding/kernel"
SPLITS = {"records": "train", "validation": "validation"}
CONFIG = """
records:
  sources: [{layout: folder, name: colours, root: IMAGES}]
  split: {by: class, train: 0.6666667, validation: 0.3333333}
""" + RECIPE.replace("train:", "train:\n  checkpoint_every_steps: 4\n  checkpoints_kept: 99")


def guie(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Three finished runs: one from its seed, one that goes on from it with another, and that one a little moved."""
    folder = tmp_path_factory.mktemp("soup")
    draw(folder / "images" / f"{number:02d}" for number in range(18))
    (folder / "small.yaml").write_text(CONFIG.replace("IMAGES", str(folder / "images")))
    first, second = folder / "a", folder / "b"
    assert guie("tfrecords", folder / "small.yaml", f"run_dir={first}") == 0
    assert guie("train", folder / "small.yaml", f"run_dir={first}") == 0
    globs = {key: f"{first}/records/*-{split}-*.tfrec" for key, split in SPLITS.items()}
    on = [f"train.init_from={checkpoints.newest(first / 'checkpoints')}", "train.seed=1"]
    on += [f"train.{key}=[{pattern}]" for key, pattern in globs.items()]
    assert guie("train", folder / "small.yaml", f"run_dir={second}", *on) == 0
    noise = np.random.default_rng(1)

    def moved(_: str, value: np.ndarray) -> np.ndarray:
        return value + noise.normal(0, 0.02, value.shape).astype("f4") if value.dtype == "f4" else value

    return [first, second, rewritten(second, folder / "c", moved)]


def tensors(run_dir: Path) -> dict[str, np.ndarray]:
    return load_file(checkpoints.newest(run_dir / "checkpoints"))


def rewritten(run_dir: Path, copy: Path, change: Callable[[str, np.ndarray], np.ndarray], **state) -> Path:
    """A copy of the run whose newest checkpoint holds `change(name, value)` and says `state` of itself."""
    shutil.copytree(run_dir, copy)
    path = checkpoints.newest(copy / "checkpoints")
    metadata = {"guie": json.dumps({**checkpoints.read_state(path), **state})}
    values = {name: np.array(change(name, value), order="C") for name, value in load_file(path).items()}
    save_file(values, path, metadata=metadata)
    return copy


@pytest.fixture(scope="module")
def ruined(runs) -> Path:
    """A run whose embeddings all lie near one line: it has learnt nothing."""

    def ruin(name: str, value: np.ndarray) -> np.ndarray:
        return value * 0 + np.arange(1e9, 5e9, 4e9 / len(value), "f4")[:, None] if name == HEAD else value

    return rewritten(runs[0], runs[0].parent / "ruined", ruin)


def expected_mean(folders: list[Path]) -> dict[str, np.ndarray]:
    """Of the embedder's variables; whole numbers as they are."""
    held = [tensors(folder) for folder in folders]
    return {
        name: sum(each[name].astype("f8") for each in held) / len(held) if value.dtype == "f4" else value
        for name, value in held[0].items()
        if name.startswith("embedder/")
    }


def averaged_embedder(out: Path, folders: list[Path]) -> embedder.Embedder:
    built = embedder.build(config.load(config.Run, out / "config.yaml"))
    for name, value in expected_mean(folders).items():
        built.variables[name].assign(value)
    return built


def shown_scores(said: str) -> dict[str, float]:
    """The last table: the run's folder → mP@5."""
    rows = re.findall(r"^(\S+) +([01]\.\d{4}) ±0\.\d{3}(?: +(?:yes|no))?$", said, re.M)
    return {Path(name).name: float(score) for name, score in rows}


@pytest.fixture(scope="module")
def uniform(runs) -> tuple[Path, str]:
    """The soup of all runs, and what was printed."""
    out = runs[0].parent / "uniform"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert guie("soup", *runs, "--out", out) == 0
    return out, said.getvalue()


def test_a_uniform_soup_is_the_mean_of_every_variable_of_the_embedder(runs, uniform):
    found, expected = tensors(uniform[0]), expected_mean(runs)
    assert found.keys() == expected.keys() and HEAD in found
    moved = 0
    for name, value in expected.items():
        assert found[name].dtype == tensors(runs[0])[name].dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=0, err_msg=name)
        moved += not np.array_equal(found[name], tensors(runs[0])[name])
    assert moved > len(found) / 2


def test_the_soup_is_a_finished_run_on_the_records_of_the_first(runs, uniform, capsys):
    out = uniform[0]
    made = config.load(config.Run, out / "config.yaml")
    assert (made.name, made.run_dir, made.records.sources) == ("uniform", str(out), [])
    assert made.train.records == [f"{runs[0]}/records/*-train-*.tfrec"]
    assert made.score.index == [f"{runs[0]}/records/*-test-*.tfrec"]
    assert guie("train", out / "config.yaml") == 0
    assert "train: done already" in capsys.readouterr().out


def test_scores_are_those_of_the_trainings_and_of_the_averaged_embedder(runs, uniform):
    found = shown_scores(uniform[1])
    assert list(found) == ["a", "b", "c", "soup"]
    for folder in runs[:2]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert found[folder.name] == pytest.approx(rows[-1]["validation/mP@5"], abs=6e-5)
    built = averaged_embedder(uniform[0], runs)
    embeddings, labels = [], []
    for batch in eval_batches(open_records([f"{runs[0]}/records/*-validation-*.tfrec"]), built.preprocess, 5):
        embeddings.append(built.model(normalize(batch["images"], built.preprocess)))
        labels += batch["labels"].numpy().tolist()
    distances = np.linalg.norm(np.concatenate(embeddings)[:, None] - np.concatenate(embeddings)[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.array(labels)
    hits = [np.mean(labels[np.argsort(row)[:5]] == label) for row, label in zip(distances, labels, strict=True)]
    assert found["soup"] == pytest.approx(np.mean(hits), abs=6e-5) and found["soup"] > 0.2


@pytest.mark.parametrize("fold", ["", "classes 2/3"])
def test_a_soup_is_scored_on_what_its_first_run_validates_on(runs, fold):
    first = config.load(config.Run, runs[0] / "config.yaml", [f"train.fold={fold}"] if fold else [])
    found, expected = (
        soup.validation_records(first),
        train.open_data(first, open_records(first.in_run_dir(first.train.records))).validation,
    )
    assert found.digest == expected.digest and 0 < len(found) < 72


def test_the_export_of_a_soup_is_the_averaged_embedder(runs, uniform):
    out = uniform[0]
    assert guie("export", out / "config.yaml", f"run_dir={out}") == 0
    images = np.random.default_rng(3).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    served = tf.saved_model.load(str(out / "export/saved_model")).signatures["serving_default"]
    built = averaged_embedder(out, runs)
    expected = built.model(prepare(images, built.preprocess)).numpy()
    np.testing.assert_allclose(served(images=tf.constant(images))["embedding_norm"], expected, atol=1e-5)


def test_greedy_starts_from_the_best_takes_what_does_not_lower_it_and_leaves_the_rest_out(
    runs, ruined, tmp_path, capsys
):
    out, twin = tmp_path / "greedy", rewritten(runs[0], tmp_path / "twin", lambda _, value: value)
    assert guie("soup", ruined, runs[0], twin, "--out", out, "--greedy") == 0
    said = capsys.readouterr().out
    found = shown_scores(said)
    assert found["ruined"] < found["a"] == found["twin"] == found["soup"]
    members = checkpoints.read_state(checkpoints.newest(out / "checkpoints"))["soup"]["runs"]
    assert members == [str(runs[0]), str(twin)]
    assert re.search(rf"with {twin}, mP@5 {found['a']:.4f} ±0\.\d{{3}}: joins", said)
    assert re.search(rf"with {ruined}, .*is left out", said)
    for name, value in expected_mean([runs[0]]).items():
        np.testing.assert_array_equal(tensors(out)[name], value.astype(tensors(out)[name].dtype), err_msg=name)


def test_a_soup_that_is_done_is_not_made_again_and_not_replaced_by_another(runs, uniform, capsys):
    path = checkpoints.newest(uniform[0] / "checkpoints")
    before = path.stat().st_mtime_ns
    assert guie("soup", *runs, "--out", uniform[0]) == 0
    assert capsys.readouterr().out == f"soup: done already, {path}\n"
    for words in (runs[:2], [*runs, "--greedy"]):
        assert guie("soup", *words, "--out", uniform[0]) == 2
        assert "holds other checkpoints" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before


@pytest.mark.faults("kill")
def test_a_soup_that_was_stopped_is_made_by_the_same_command(runs, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", stop)
        assert guie("soup", *runs[:2], "--out", tmp_path / "out") == 130
    assert checkpoints.newest(tmp_path / "out/checkpoints") is None
    assert guie("soup", *runs[:2], "--out", tmp_path / "out") == 0
    assert checkpoints.newest(tmp_path / "out/checkpoints")


def test_a_soup_without_validation_records_is_not_scored_and_cannot_be_greedy(runs, tmp_path, capsys):
    first = rewritten(runs[0], tmp_path / "first", lambda _, value: value)
    for path in first.glob("records/*-validation-*"):
        path.unlink()
    assert refused(capsys, first, runs[1], "--out", tmp_path / "out", "--greedy").startswith(
        "guie soup: --greedy needs validation records, none match"
    )
    assert not (tmp_path / "out").exists()
    assert guie("soup", first, runs[1], "--out", tmp_path / "out") == 0
    assert "not scored" in capsys.readouterr().out
    np.testing.assert_allclose(tensors(tmp_path / "out")[HEAD], expected_mean(runs[:2])[HEAD], rtol=1e-7)


def refused(capsys, *words) -> str:
    """The one line on stderr."""
    capsys.readouterr()
    assert guie("soup", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_runs_that_make_no_soup_are_refused_in_one_line(runs, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    first, second = runs[:2]
    assert "expected two or more different RUN_DIR" in refused(capsys, first, *out)
    assert "expected two or more different RUN_DIR" in refused(capsys, first, f"{first}/../a", *out)
    assert f"--out: {second} is one of the runs" in refused(capsys, first, second, "--out", second)
    assert f"{tmp_path} holds no checkpoint" in refused(capsys, first, tmp_path, *out)
    begun = rewritten(first, tmp_path / "begun", lambda _, value: value, finished=False)
    assert f"expected a finished run, {begun} stands at step" in refused(capsys, first, begun, *out)
    assert f"{runs[2]}/checkpoints holds other checkpoints" in refused(capsys, first, second, "--out", runs[2])
    assert not (tmp_path / "out").exists()


def test_another_architecture_is_refused_by_the_first_variable_or_key_that_differs(runs, tmp_path, capsys):
    out, first = ["--out", tmp_path / "out"], runs[0]
    narrow = rewritten(first, tmp_path / "narrow", lambda name, value: value[:, :4] if name == HEAD else value)
    said = refused(capsys, first, narrow, *out)
    assert f"{HEAD} is F32 [16, 4] in {narrow}, F32 [16, 8] in {first}" in said
    larger = rewritten(first, tmp_path / "larger", lambda _, value: value, image_size_px=40)
    assert f"image_size_px: it is 40 in {larger}, 32 in {first}" in refused(capsys, first, larger, *out)
    pooled = rewritten(first, tmp_path / "pooled", lambda _, value: value)
    as_run = (pooled / "config.yaml").read_text()
    (pooled / "config.yaml").write_text(as_run.replace("pooling: mean", "pooling: class_token"))
    assert f"encoder.pooling: it is 'class_token' in {pooled}" in refused(capsys, first, pooled, *out)
    shifted = rewritten(
        first, tmp_path / "shifted", lambda _, value: np.flip(value) if value.dtype.kind == "i" else value
    )
    assert f"holds whole numbers, others in {shifted}" in refused(capsys, first, shifted, *out)
