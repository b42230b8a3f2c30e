"""Anybody's embedder: folders, zips, odd outputs, single images; anything else is refused in one line."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.evaluation import embedders
from tests.evaluation.tiny import MeanColour, run, save, write, zipped

LOADED = """
import json, sys
from pipeline import cli
code = max(cli.main(words) for words in json.loads(sys.argv[1]))
print(json.dumps([code, sorted({"keras_hub", "keras_cv", "tensorflow_hub"} & set(sys.modules))]))
"""


def test_a_zip_scores_as_its_folder_and_from_any_directory(embedder, folder, tmp_path, capsys, monkeypatch):
    archive = tmp_path / "submission.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in embedder.rglob("*"):
            file.write(path, path.relative_to(embedder))
    monkeypatch.chdir(tmp_path)
    code, _, _ = run(capsys, "score", "submission.zip", "--index", folder, "--out", "m.json")
    assert code == 0 and json.loads((tmp_path / "m.json").read_text())["mP@5"] == 1.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nothing", "nothing is there"),
        (lambda path: path, "no saved_model.pb"),
        (lambda path: write(path / "saved_model.pb", b"junk").parent, "not a SavedModel"),
        (lambda path: write(path / "x.zip", b"junk"), "expected a submission.zip"),
        (lambda path: zipped(path / "x.zip", {"../evil": b""}), "leads outside"),
        (lambda path: zipped(path / "x.zip", {"folder/saved_model.pb": b""}), "at the root of the zip"),
        (lambda path: _damaged(path), "saved_model.pb' is damaged"),
        (lambda path: save(MeanColour(width=65), path / "wide"), "got [1, 65]"),
        (lambda path: _unsigned(path / "none"), "serving_default"),
    ],
)
@pytest.mark.faults("broken submission")
def test_what_is_no_embedder_is_refused_in_one_line(make, said, folder, tmp_path, capsys):
    code, _, error = run(capsys, "score", make(tmp_path), "--index", folder)
    assert code == 2 and said in error and error.count("\n") == 1


def test_an_odd_embedders_only_output_is_taken_whatever_its_name(folder, tmp_path):
    submission = embedders.load(str(save(MeanColour(output="other"), tmp_path / "odd")))
    assert submission.embed(np.zeros((2, 5, 7, 3), np.uint8)).shape == (2, 12)


def test_what_the_competition_would_take_otherwise_is_said(folder, embedder, tmp_path, capsys):
    class Long(tf.Module):
        def __init__(self):
            self.whole = MeanColour()

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
        def embed(self, images):
            return {"output_0": 2.0 * self.whole.embed(images)["embedding_norm"]}

    model = save(Long(), tmp_path / "long")
    for command in (["score", model, "--index", folder], ["embed", model, folder, "--out", tmp_path / "out"]):
        code, text, _ = run(capsys, *command)
        said = [line for line in text.splitlines() if ": warning: " in line]
        assert code == 0 and len(said) == 2
        assert "gives output_0 where the competition's scorer expects embedding_norm" in said[0]
        assert "vectors of length 2, not of unit length" in said[1]
    assert "warning" not in run(capsys, "score", embedder, "--index", folder)[1]


def test_an_embedder_of_single_images_scores_as_one_of_batches(embedder, folder, tmp_path, capsys):
    class Single(tf.Module):
        def __init__(self):
            self.any_number = MeanColour()

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def embed(self, image):
            return self.any_number.embed(image)

    found = []
    for each in (embedder, save(Single(), tmp_path / "single")):
        assert run(capsys, "score", each, "--index", folder, "--out", tmp_path / "m.json")[0] == 0
        found.append(json.loads((tmp_path / "m.json").read_text())["mP@5"])
    assert found[0] == found[1]
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3), np.uint8)
    several, singly = (embedders.load(str(each)).embed(images) for each in (embedder, tmp_path / "single"))
    np.testing.assert_allclose(several, singly, atol=1e-6)


def _damaged(folder):
    """A zip whose directory is whole and whose first entry does not decompress."""
    noise = np.random.default_rng(0).integers(0, 16, 5000, np.uint8).tobytes()
    path, weights = folder / "x.zip", "variables/variables"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("saved_model.pb", f"{weights}.index", f"{weights}.data-00000-of-00001"):
            file.writestr(name, noise)
    content = bytearray(path.read_bytes())
    content[50:90] = b"\xff" * 40
    return write(path, content)


def _unsigned(folder):
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(folder))
    return folder


@pytest.mark.slow
def test_somebody_elses_saved_model_is_scored_and_embedded_without_the_encoders_libraries(embedder, folder, tmp_path):
    """They take seconds and a tenth of a GB to import."""
    model, images, out = map(str, (embedder, folder, tmp_path / "out"))
    words = ["score", model, "--index", images], ["embed", model, images, "--out", out]
    script = [sys.executable, "-c", LOADED, json.dumps(words)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr
