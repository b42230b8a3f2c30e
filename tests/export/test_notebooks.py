"""Both Kaggle notebooks run in full, in folders as Kaggle mounts them, without the checkout on the path."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from export import package
from pipeline import config as configs
from pipeline.files import file_sha256

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("ipykernel")

ARCHITECTURE = {"num_layers": 1, "hidden_dim": 64, "num_heads": 2, "intermediate_dim": 128}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `input/` as Kaggle would mount it: shards, the encoder as a KerasHub preset, wheel and config."""
    root = tmp_path_factory.mktemp("site")
    drawn = {"classes": 8, "images_per_class": 10, "image_size_px": 32, "seed": 1}
    written = {
        "name": "small",
        "run_dir": str(root / "working" / "run"),
        "records": {
            "sources": [{"layout": "drawn", "name": "drawn", "options": drawn}],
            "split": {"by": "class", "train": 0.5, "validation": 0.0, "test": 0.5},
            "image_size_px": 32,
        },
        "encoder": {"name": "clip_tiny", "image_size_px": 32, "architecture": ARCHITECTURE},
        "train": {"log_every_steps": 2, "phases": [{"name": "head", "epochs": 6, "batch_size": 8}]},
        "submit": {
            "dataset": "tester/guie-submission",
            "kernel": "tester/guie-submit",
            "encoder_model": "tester/clip/keras/tiny/1",
        },
    }
    config = root / "small.yaml"
    config.write_text(yaml.safe_dump(written))
    # A separate process: the package tfrecord cannot be imported after TensorFlow.
    shards = root / "input" / "drawn-shards"
    command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config), f"run_dir={root / 'made'}"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(root / "made" / "records", shards)
    write_preset(root / "input" / "clip" / "keras" / "tiny" / "1")
    dataset, _ = package.build_training(configs.load(configs.Run, config))
    shutil.copytree(dataset, root / "input" / "guie-submission-training")
    return root


def write_preset(folder: Path, seed: int = 5) -> None:
    """A small CLIP with random weights, in the files of a KerasHub preset."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(seed)
    vision = keras_hub.models.CLIPVisionEncoder(
        patch_size=8,
        hidden_dim=64,
        num_layers=1,
        num_heads=2,
        intermediate_dim=128,
        intermediate_activation="gelu",
        image_shape=(32, 32, 3),
    )
    text = keras_hub.models.CLIPTextEncoder(
        vocabulary_size=32, embedding_dim=16, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32
    )
    backbone = keras_hub.models.CLIPBackbone(vision_encoder=vision, text_encoder=text, projection_dim=16)
    backbone.save_to_preset(str(folder))


def executed(kernel: Path, root: Path, into: Path) -> list[str]:
    """Runs a kernel folder's notebook; returns what its cells put out. A cell that raises fails the test."""
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    notebook = nbformat.read(kernel / metadata["code_file"], as_version=4)
    (root / "working").mkdir(exist_ok=True)
    environment = {**os.environ, "KAGGLE_INPUT": str(root / "input"), "KAGGLE_WORKING": str(root / "working")}
    environment.pop("PYTHONPATH", None)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(root / "working")}})
    client.execute(env=environment)
    into.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, into)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    put_out = []
    for cell in code:
        for output in cell.outputs:
            data = output.get("data", {})
            put_out.append(output.get("text") or data.get("text/markdown") or data.get("image/svg+xml") or "")
    return put_out


@pytest.fixture(scope="module")
def trained(site: Path) -> list[str]:
    return executed(site / "working" / "run" / "submit" / "training", site, site / "executed" / "training.ipynb")


def test_the_training_notebook_trains_exports_and_scores(site, trained):
    working = site / "working"
    assert zipfile.ZipFile(working / "submission.zip").namelist()[0] == "saved_model.pb"
    metrics = json.loads((working / "metrics.json").read_text())
    table = next(text for text in trained if "| domain |" in text)
    assert f"{metrics['mP@5']:.4f}" in table
    assert metrics["domains"]["drawn"]["queries"] == 40  # every image of the four classes that were held out
    log = (working / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, log) if "loss" in row]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5
    assert any("<polyline" in text for text in trained)
    assert "encoder from" in "".join(trained)


def test_the_submission_notebook_puts_the_head_on_the_attached_encoder(site, trained):
    import tensorflow as tf

    run = configs.load(configs.Run, site / "small.yaml")
    packed = package.build(run)
    assert (packed.dataset / "head.safetensors").stat().st_size < 100_000
    other = site / "head"
    shutil.copytree(site / "input" / "clip", other / "input" / "clip")
    shutil.copytree(packed.dataset, other / "input" / "guie-submission")
    put_out = executed(packed.kernel, other, site / "executed" / "submission.ipynb")
    assert "the head on the encoder of" in "".join(put_out)
    table = next(text for text in put_out if "| check |" in text)
    assert "same in a batch" in table and "✗" not in table
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (1, 40, 31, 3)), tf.uint8)
    found = []
    for name, path in (("a", site / "working"), ("b", other / "working")):
        zipfile.ZipFile(path / "submission.zip").extractall(site / name)
        model = tf.saved_model.load(str(site / name))
        found.append(model.signatures["serving_default"](images=image)["embedding_norm"].numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.slow
def test_the_submission_notebook_stops_at_another_encoder_than_the_heads(site, trained):
    packed = package.build(configs.load(configs.Run, site / "small.yaml"))
    other = site / "another"
    write_preset(other / "input" / "clip" / "keras" / "tiny" / "1", seed=6)
    shutil.copytree(packed.dataset, other / "input" / "guie-submission")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="is not the one that the head was trained on"):
        executed(packed.kernel, other, site / "executed" / "another.ipynb")


@pytest.mark.slow
def test_the_submission_notebook_hands_over_the_packed_zip_even_where_kaggle_unpacked_it(site, trained):
    run = configs.load(configs.Run, site / "small.yaml", ["submit.encoder_model=''"])
    packed = package.build(run)
    other = site / "whole"
    mounted = other / "input" / "guie-submission"
    shutil.copytree(packed.dataset, mounted)
    zipfile.ZipFile(mounted / "submission.zip").extractall(mounted / "submission")
    (mounted / "submission.zip").unlink()
    put_out = executed(packed.kernel, other, site / "executed" / "handed_over.ipynb")
    assert "the packed submission, sha256" in "".join(put_out)
    assert file_sha256(other / "working" / "submission.zip") == file_sha256(Path(run.run_dir) / "submission.zip")


def test_the_same_project_gives_the_same_package(site, trained, monkeypatch):
    still = site / "checkout"  # a copy: nobody edits it between the two
    still.mkdir()
    for name in package.WHEEL_SOURCES:
        if (package.ROOT / name).is_dir():
            shutil.copytree(package.ROOT / name, still / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (package.ROOT / name).is_file():
            shutil.copy(package.ROOT / name, still / name)
    monkeypatch.setattr(package, "ROOT", still)
    run = configs.load(configs.Run, site / "small.yaml")
    first, second = package.build(run), package.build(run)
    assert first == second
    wheel = next(first.dataset.glob("guie-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {"export/contract_probe.py", "pipeline/cli.py", "tfrecords/sources/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "kaggle/"))]
