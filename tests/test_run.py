"""`guie run` as its user runs it: the whole way, killed and rerun, refused in one line."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline import cli
from pipeline.training import checkpoints

SMALL = """
records:
  sources: [{layout: drawn, name: drawn, options: {classes: 9, images_per_class: 8, image_size_px: 32, seed: 3}}]
  split: {by: class, train: 0.5555556, validation: 0.2222222, test: 0.2222222}
  images_per_shard: 16
  image_size_px: 32
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: class_token
  architecture: {patch_size: 8, hidden_dim: 32, num_layers: 1, num_heads: 2, intermediate_dim: 64}
train:
  optimizer: {name: adamw, clip_norm: 1.0}
  log_every_steps: 3
  checkpoint_every_steps: 4
  phases:
    - {name: head, trainable: head, epochs: 2, batch_size: 8, learning_rate: 1.0e-3}
    - {name: all, trainable: all, epochs: 3, batch_size: 8, learning_rate: 1.0e-3, augment: {crop_scale_min: 0.6}}
score: {references: [raw_pixels, untrained, raw_features, pca]}
embedder: {embedding_dim: 16, dropout: 0.2}
"""
KILLS = int(os.environ.get("GUIE_KILLS", "2"))
LISTED = ("config.yaml", "records", "checkpoints", "metrics.jsonl", "export/saved_model/saved_model.pb")
LISTED += ("submission.zip", "metrics.json", "report.html", "contact_sheet.jpg", "tensorboard")


def start(config: Path, run_dir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config), f"run_dir={run_dir}", *more]
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1"}
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> tuple[Path, float]:
    """A run that was never killed, and the seconds it took."""
    folder, began = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    process = start(config, folder)
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    return folder, time.monotonic() - began


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".build" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_folder_holds_everything_that_is_promised(whole):
    folder, _ = whole
    assert [name for name in LISTED if not (folder / name).exists()] == []
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["embedding_dim"] == 16 and 0 <= metrics["mP@5"] <= 1
    assert set(metrics["domains"]["drawn"]) >= {"mP@5", "queries", "index"}
    assert set(metrics["references"]) == {"raw_pixels", "untrained", "raw_features", "pca16"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows) and any("validation/mP@5" in row for row in rows)
    assert not list(folder.rglob(".partial-*"))


def test_a_killed_run_goes_on_to_the_same_records_losses_and_metrics(whole, config, tmp_path):
    expected, seconds = whole
    moments = random.Random(os.environ.get("GUIE_SEED", "7"))
    for _ in range(KILLS):
        process = start(config, tmp_path / "run")
        try:
            process.communicate(timeout=moments.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    process = start(config, tmp_path / "run")
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    assert hashes(tmp_path / "run/records") == hashes(expected / "records")

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["loss"], row.get("validation/mP@5")) for row in rows]

    assert losses(tmp_path / "run") == losses(expected)
    found, wanted = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "run", expected))
    assert found["mP@5"] == wanted["mP@5"] and found["references"] == wanted["references"]


def test_what_is_done_is_not_done_again(whole, config):
    folder, _ = whole
    made = [*folder.glob("records/*.tfrec"), *folder.glob("checkpoints/*"), folder / "submission.zip"]
    made += [*folder.glob("features/*"), folder / "metrics.json", folder / "export/saved_model/saved_model.pb"]
    before = {path: path.stat().st_mtime_ns for path in made}
    process = start(config, folder)
    output, error = process.communicate()
    assert process.returncode == 0, error
    assert "train: done already" in output and "score: done already" in output
    assert before == {path: path.stat().st_mtime_ns for path in made}


def test_another_recipe_in_the_same_folder_is_refused(whole, config, capsys):
    folder, _ = whole
    before = hashes(folder / "checkpoints")
    code = cli.main(["train", str(config), f"run_dir={folder}", "train.phases.0.learning_rate=0.5"])
    error = capsys.readouterr().err
    assert code == 2 and "another recipe" in error and error.count("\n") == 1
    assert hashes(folder / "checkpoints") == before


def test_the_report_is_one_page_with_the_scores_and_the_pictures(whole):
    page = (whole[0] / "report.html").read_text()
    assert "raw_pixels" in page and page.count("<figure") >= 6 * 10
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)  # "#": a mark that the chart itself defines


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("records.sources.0.layout=nolayout", "nolayout"),
        ("train.phases.0.batch_size=0", "batch_size"),
        ("train.loss.name=softmax", "softmax"),
        ("encoder.name=clip_vit_b_33", "clip_vit_b_33"),
        ("encoder.name=", "encoder.name"),
        ("embedder.embedding_dim=65", "64"),
        ("train.optimizer.name=adamm", "adamm"),
        ("train.phases.0.trainable=heads", "heads"),
        ("devices.kind=tpu", "rehearse"),
        ("devices.precision=float8", "float8"),
        ("train.init_from=/nowhere.safetensors", "nowhere"),
    ],
)
def test_a_wrong_value_ends_in_one_line(whole, config, tmp_path, override, said, capsys):
    records = [f"train.{name}=[{whole[0]}/records/*-{split}-*.tfrec]" for name, split in (("records", "train"),)]
    command = "tfrecords" if override.startswith("records") else "train"
    code = cli.main([command, str(config), f"run_dir={tmp_path}/run", *records, override])
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1
    assert not checkpoints.newest(tmp_path / "run/checkpoints")


def test_validation_on_a_shard_that_is_trained_on_is_refused(whole, config, tmp_path, capsys):
    patterns = [f"train.{name}=[{whole[0]}/records/*.tfrec]" for name in ("records", "validation")]
    assert cli.main(["train", str(config), f"run_dir={tmp_path}/run", *patterns]) == 2
    error = capsys.readouterr().err
    assert "among train.records, too" in error and error.count("\n") == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_steps(whole, config, tmp_path, capsys):
    pattern = f"[{whole[0]}/records/*-train-*.tfrec]"
    code = cli.main(
        ["train", str(config), f"run_dir={tmp_path}/run", f"train.records={pattern}",
         "train.optimizer.name=sgd", "train.optimizer.clip_norm=null", "train.phases.0.learning_rate=1e38"]
    )  # fmt: skip
    error = capsys.readouterr().err
    assert code == 2 and "the loss is" in error and "steps 0…" in error
    assert not checkpoints.newest(tmp_path / "run/checkpoints")


def test_a_folder_of_class_folders_trains_too(config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in range(6):
        for number in range(5):
            path = tmp_path / "data" / f"class{name}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 30 + name, 3), dtype=np.uint8)).save(path)
    (tmp_path / "data/class0/notes.txt").write_text("no image")
    values = yaml.safe_load(SMALL)
    values["records"]["sources"] = [{"layout": "folder", "name": "mine", "root": "data"}]
    values["records"]["max_reject_share"] = 0.5
    values["data_root"] = str(tmp_path)
    values["train"]["phases"] = values["train"]["phases"][:1]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    process = start(tmp_path / "mine.yaml", tmp_path / "run")
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    assert "notes.txt" in (tmp_path / "run/records/rejects.csv").read_text()
