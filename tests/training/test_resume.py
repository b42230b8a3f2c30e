"""Training resumed from each of its checkpoints, phases of other sizes included: the very losses of a whole run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pipeline.training import checkpoints

pytestmark = pytest.mark.slow  # processes of seconds each; test_finetuning resumes within one in `make test`
ROOT = Path(__file__).parents[2]
CONFIG = """
records:
  sources: [{layout: drawn, name: drawn, options: {classes: 6, images_per_class: 8, image_size_px: 32}}]
  split: {by: class, train: 0.6666667, validation: 0.3333333}
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: class_token
  stochastic_depth: 0.2
  architecture: {patch_size: 8, hidden_dim: 16, num_layers: 2, num_heads: 2, intermediate_dim: 32}
embedder: {embedding_dim: 8, dropout: 0.2, init: pca}
train:
  optimizer: {name: adamw, clip_norm: 1.0, ema: 0.9}
  loss: {subcenters: 2}
  log_every_steps: 1
  checkpoint_every_steps: 3
  checkpoints_kept: 99
  phases:
    - {name: head, trainable: head, epochs: 2, batch_size: 8, learning_rate: 1.0e-3}
    - {name: all, trainable: all, epochs: 2, batch_size: 8, learning_rate: 1.0e-3, augment: {crop_scale_min: 0.6}}
    - {name: larger, trainable: last 1 block, epochs: 2, batch_size: 8, learning_rate: 1.0e-3, image_size_px: 40,
       patch_overlap_px: 2}
    - {name: head again, trainable: head, epochs: 2, batch_size: 8, learning_rate: 1.0e-3}
"""
QUICKER = "--xla_backend_optimization_level=0"  # to compile, of the same graph
STEPS = (3, 6, 8, 11, 14, 16, 19, 22, 24, 27, 30, 32)  # every third of a phase's eight, and its last


def train(config: Path, run_dir: Path, *overrides: str) -> str:
    script = [sys.executable, "-m", "pipeline.cli", "train", str(config), f"run_dir={run_dir}", *overrides]
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": QUICKER}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(run_dir: Path) -> list[tuple]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["phase"], row["loss"], row.get("validation/mP@5")) for row in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """The config and the folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    script = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config), f"run_dir={folder}/run"]
    assert subprocess.run(script, cwd=ROOT).returncode == 0
    train(config, folder / "run")
    return config, folder / "run"


def test_checkpoints_are_where_they_are_promised(whole):
    found = sorted(path.name for path in (whole[1] / "checkpoints").iterdir())
    assert found == [f"step-{step:09d}.safetensors" for step in STEPS]


def stopped_at(step: int, whole_run: Path, folder: Path) -> Path:
    shutil.copytree(whole_run, folder / "run", ignore=shutil.ignore_patterns("features"))
    for later in STEPS[STEPS.index(step) + 1 :]:
        (folder / f"run/checkpoints/step-{later:09d}.safetensors").unlink()
    return folder / "run"


@pytest.mark.parametrize("step", [11, 16, 19, 27])
def test_resumed_there_it_has_the_losses_of_a_whole_run(whole, tmp_path, step):
    config, expected = whole
    run = stopped_at(step, expected, tmp_path)
    printed = train(config, run)
    assert ("goes on in phase" in printed) == (step != 16)
    assert rows(run) == rows(expected)
    last = f"checkpoints/step-{STEPS[-1]:09d}.safetensors"
    found, wanted = (load_file(folder / last) for folder in (run, expected))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()] == []
    states = [checkpoints.read_state(folder / last) for folder in (run, expected)]
    for state in states:
        assert state.pop("metrics") and all(each.pop("quick") for each in state["inputs"].values())  # times differ
    assert states[0] == states[1]


def test_resumed_with_its_classes_sharded_over_four_replicas_and_back(whole, tmp_path):
    config, expected = whole
    run = stopped_at(19, expected, tmp_path)  # within a phase of the encoder's blocks
    printed = train(config, run, "devices.replicas=4", "train.loss.sharded=true", "train.compile=false")
    assert "4 logical CPU replica(s)" in printed
    for found, wanted in zip(rows(run), rows(expected), strict=True):
        assert found[2] == pytest.approx(wanted[2], rel=1e-5), wanted
    again = stopped_at(22, run, tmp_path / "again")
    train(config, again)
    assert rows(again)[-1][2] == pytest.approx(rows(expected)[-1][2], rel=1e-5)
