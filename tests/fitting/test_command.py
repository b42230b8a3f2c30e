"""`guie fit` as its user runs it, and how a Keras file's scaling is found."""

import json

import keras
import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline import cli
from pipeline.config import Encoder, Run, Source, load
from pipeline.errors import BadInput
from pipeline.fitting import apart, choosing, measuring, verdict
from tests.faults.world import draw_tree, save_network


@pytest.fixture
def images(tmp_path):
    """Twelve classes of five images."""
    draw_tree(tmp_path, {"photos": 12}, seed=3)
    return tmp_path / "photos"


def guie(capsys, *words) -> tuple[int, str, str]:
    keras.config.set_dtype_policy("float32")  # as a new process
    code = cli.main(["fit", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
def test_a_folder_becomes_a_scored_embedder_and_the_same_command_goes_on(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "tiny.keras", 1)
    (tmp_path / "tiny.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "image_size_px": 32}')
    images = images.rename(tmp_path / "photos [2]*")  # no glob, though it looks like one
    words = (images, "--encoder", "tiny.keras", "--out", "runs/photos [2]*")
    code, out, err = guie(capsys, *words)
    assert code == 0, err
    run = tmp_path / "runs/photos [2]*"
    assert out.splitlines()[-1].startswith("fit: mP@5 0.") and "raw features" in out.splitlines()[-1]
    given = yaml.safe_load((run / "fit.yaml").read_text())
    assert given["encoder"]["std"] == [0.25] * 3 and given["encoder"]["image_size_px"] == 32
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["classes_trained_on"] == 0 and metrics["classes"] == 5 and (run / "report.html").is_file()
    checkpoint = {path: path.stat().st_mtime_ns for path in run.glob("checkpoints/*")}
    config = (run / "fit.yaml").read_text()

    code, out, err = guie(capsys, *words)
    assert code == 0 and "goes on from" in out and "train: done already" in out and "score: done already" in out
    assert {path: path.stat().st_mtime_ns for path in run.glob("checkpoints/*")} == checkpoint

    draw_tree(tmp_path, {images.name: 13}, seed=3)  # a class more: another split
    code, out, err = guie(capsys, *words)
    assert code == 2 and "--redo" in err and err.count("\n") == 1
    monkeypatch.setattr(apart, "in_processes", lambda work, tasks, workers: [(each, work(each)) for each in tasks])
    code, out, err = guie(capsys, *words, "--minutes", "3")
    assert code == 2 and err.count("\n") == 1 and (run / "fit.yaml").read_text() == config


def test_what_cannot_be_fitted_ends_in_one_line(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.keras").write_text("no model")
    draw_tree(tmp_path, {"alone": 1}, seed=0)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/fit.yaml").write_text("name: mine\n")
    (line := tmp_path / "a\nline").mkdir()
    for words, wanted in (
        (["nothing"], "nothing does not exist"),
        (["empty"], "it is empty"),
        (["odd.csv"], "a column of paths"),
        (["alone"], "at least two classes, found one"),
        ([images, "--minutes", "0"], "--minutes: expected more than 0"),
        ([images, "--encoder", "gone.keras"], "gone.keras does not exist"),
        ([images, "--encoder", "text.keras"], "is not a Keras model"),
        ([images, "--encoder", "clip_vit_b_33"], "nearest: clip_vit_b_32"),
        ([images, "--encoder", "clip_vit_b_16"], "no preset to fetch"),
        ([images, "--out", "odd.csv"], "expected a folder, it is a file"),
        ([images, "--out", images / "run"], "where it would be taken for images"),
        ([images, "--out", "own"], "own/fit.yaml was not written by guie fit"),
        ([line], r"the images: expected a path without '\n'"),
    ):
        code, _, err = guie(capsys, *words)
        assert code == 2 and wanted in err and err.count("\n") == 1, (words, err)
    assert not [*tmp_path.glob("runs/*")] and (tmp_path / "own/fit.yaml").read_text() == "name: mine\n"


def test_what_stood_there_is_as_it_was_where_another_command_is_refused(images, tmp_path, monkeypatch, capsys):
    """The table of images, too: the same command as before goes on from both."""
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "tiny.keras", 1)
    answer = apart.Answer(Encoder(name="keras_file:tiny.keras"), choosing.Measured(8, 32, 5000.0, False), [])
    monkeypatch.setattr(apart, "measured", lambda *_: answer)
    monkeypatch.setattr("pipeline.run.main", lambda *_, **__: refuse("records of another config"))
    (images / "c0/notes.txt").write_text("no image")
    (images / "c0/more.txt").write_text("no image")
    words = (images, "--encoder", "tiny.keras")
    code, _, err = guie(capsys, *words)
    run = tmp_path / "runs/photos"
    before = {path.name: path.read_text() for path in run.iterdir()}
    assert code == 2 and "another config" in err and set(before) == {"fit.yaml", "fit_images.csv"}
    assert f"# guie fit {images}" in before["fit.yaml"]
    draw_tree(tmp_path, {"photos": 13}, seed=3)
    code, _, err = guie(capsys, *words, "--minutes", "3")
    assert code == 2 and {path.name: path.read_text() for path in run.iterdir()} == before
    monkeypatch.setattr(apart, "measured", lambda *_: refuse("no weights; `guie run … --redo`"))
    code, _, err = guie(capsys, *words, "--redo")
    assert code == 2 and "`guie fit … --redo`" in err
    assert {path.name: path.read_text() for path in run.iterdir()} == before


def test_the_same_command_goes_on_from_another_folder(images, tmp_path, monkeypatch, capsys):
    save_network(tmp_path / "tiny.keras", 1)
    answer = apart.Answer(Encoder(name="keras_file:tiny.keras"), choosing.Measured(8, 32, 5000.0, False), [])
    monkeypatch.setattr(apart, "measured", lambda *_: answer)
    asked = []
    monkeypatch.setattr("pipeline.run.main", lambda run, redo: asked.append(run) or refuse("enough"))
    for folder, out in ((tmp_path, "run"), (images, tmp_path / "run")):
        monkeypatch.chdir(folder)
        code, out, _ = guie(capsys, images, "--encoder", tmp_path / "tiny.keras", "--out", out)
    assert code == 2 and "goes on from" in out and not choosing.advised((tmp_path / "run/fit.yaml").read_text())
    assert [each.run_dir for each in asked] == ["run", str(tmp_path / "run")]


def refuse(why: str) -> None:
    raise BadInput(why)


def test_weights_that_cannot_be_fetched_name_a_file_instead(monkeypatch):
    def without_network(*_, **__):
        raise BadInput("encoder.weights: the preset could not be fetched")

    monkeypatch.setattr(apart, "in_processes", without_network)
    with pytest.raises(
        BadInput, match=r"clip_vit_b_32: give a Keras file, --encoder FILE\.keras, .* could not be fetched"
    ):
        apart.measured(Encoder(name="clip_vit_b_32", weights="preset"), [], [])


def coloured(folder) -> list[tuple[str, str, str]]:
    """Six classes whose mean level tells them apart, all of them brighter than half."""
    sample = []
    for number in range(6):
        for each in range(4):
            path = folder / f"c{number}" / f"{each}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (140 + 18 * number + each,) * 3).save(path)
            sample.append(("own", f"c{number}/{each}.png", f"c{number}"))
    return sample


def save_levels(path, name: str, offset: float):
    """An encoder that only tells levels apart in pixels of the scaling whose range is -1 … 1."""
    images = keras.Input((32, 32, 3))
    mean = keras.layers.GlobalAveragePooling2D()(images)
    dense = keras.layers.Dense(2, activation="sigmoid", kernel_initializer="zeros")
    model = keras.Model(images, dense(mean), name=name)
    dense.set_weights([np.array([[9.0, 3.0]] * 3) / 3, np.array([offset, 0.0])])
    model.save(path)


def measured(path, sample, folder):
    encoder = Encoder(name=f"keras_file:{path}")
    return measuring.measure(apart.Task(encoder, [Source(layout="folder", name="own", root=str(folder))], sample))


def test_the_scaling_of_an_unknown_file_is_the_one_whose_features_find_most(tmp_path):
    sample = coloured(tmp_path / "images")
    save_levels(tmp_path / "mine.keras", "mine", -4.0)
    found = measured(tmp_path / "mine.keras", sample, tmp_path / "images")
    assert found.encoder.mean == found.encoder.std == [0.5] * 3 and "pixels in -1 … 1 " in found.said[0]
    assert (found.measured.width, found.measured.image_size_px, found.measured.transformer) == (2, 32, False)
    assert found.measured.images_per_second > 1 and found.measured.second_px is None


def test_a_model_of_keras_applications_is_known_by_its_name(tmp_path):
    save_levels(tmp_path / "known.keras", "efficientnetb0", 0.0)
    found = measured(tmp_path / "known.keras", [], tmp_path)
    assert np.allclose(found.encoder.std, 1 / 255) and found.encoder.mean == [0.0] * 3
    assert found.said == ["takes pixels in 0 … 255, as efficientnetb0 of keras.applications does"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.05, "beat the encoder's raw features by 0.030 ±0.020"),
        (-0.01, 0.01, "not told apart from the encoder's raw features (+0.000 ±0.010): add classes"),
        (-0.05, -0.01, "are below the encoder's raw features by 0.030 ±0.020: add classes"),
    ],
)
def test_the_verdict_says_whether_raw_features_are_beaten(low, high, said):
    result = {
        "mP@5": 0.7, "interval": [0.68, 0.72], "classes": 9, "index_classes": 9, "classes_trained_on": 0,
        "domains": {"own": {"queries": 300}}, "references": {"raw_features": 0.6}, "embedding_dim": 64,
        "differences": {"raw_features": {"mean": (low + high) / 2, "interval": [low, high]}},
    }  # fmt: skip
    assert low > 0 or verdict.line(result, "give --minutes 22").endswith(": give --minutes 22")
    line = verdict.line(result)
    assert line.startswith("mP@5 0.7000 ±0.020 on 9 unseen classes; 64 numbers") and said in line


class TestSidecar:
    """A Keras file's mean and std beside it, for every config."""

    def read(self, folder, told, keys=""):
        (folder / "tiny.json").write_text(told)
        (folder / "c.yaml").write_text(f"encoder: {{name: 'keras_file:{folder}/tiny.keras'{keys}}}")
        return load(Run, folder / "c.yaml").encoder

    def test_it_fills_what_the_config_leaves_out(self, tmp_path):
        told = '{"mean": [0, 0, 0], "std": [1, 1, 1], "image_size_px": 96}'
        found = self.read(tmp_path, told, ", std: [2, 2, 2]")
        assert (found.mean, found.std, found.image_size_px) == ([0, 0, 0], [2, 2, 2], 96)

    @pytest.mark.parametrize(
        ("told", "said"),
        [("{", "not readable"), ("[1]", "a mapping"), ('{"means": [1]}', "a mapping of mean"),
         ('{"std": [1, 1, 0]}', "three numbers above 0"),
         ('{"mean": [0, NaN, 0]}', "mean: expected three numbers"),
         ('{"image_size_px": "96"}', "a whole number of px")],
    )  # fmt: skip
    def test_what_is_wrong_in_it_is_refused(self, tmp_path, told, said):
        with pytest.raises(BadInput, match=f"tiny.json.*{said}"):
            self.read(tmp_path, told)
