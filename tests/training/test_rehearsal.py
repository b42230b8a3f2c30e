"""A rehearsal: narrowed as a phase allows, on drawn images where no records are built, within the machine's memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config
from pipeline.models import catalogue
from pipeline.training.rehearsal import narrowed

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/vit_h14_arcface_tpu.yaml"


def load(*overrides: str) -> config.Run:
    return config.load(config.Run, CONFIG, ["devices.rehearse=8", *overrides])


def train(*overrides: str) -> subprocess.CompletedProcess:
    script = [sys.executable, "-m", "pipeline.cli", "train", str(CONFIG), *overrides]
    return subprocess.run(script, capture_output=True, text=True, cwd=ROOT)


def test_a_transformer_keeps_its_heads_width_and_the_batches_their_pieces():
    run = narrowed(load("train.optimizer.accumulate_steps=2"))
    whole, narrow = (catalogue.find(each.encoder.name, each.encoder.architecture) for each in (load(), run))
    assert narrow.architecture["num_layers"] == narrow.architecture["num_heads"] == 2
    widths = [e.architecture["hidden_dim"] / e.architecture["num_heads"] for e in (whole, narrow)]
    assert widths[0] == widths[1] == 80
    assert [phase.batch_size for phase in run.train.phases] == [64, 64]  # 4 images × 8 replicas × 2 pieces
    assert run.encoder.image_size_px == 224 and run.train.loss == load().train.loss


def test_blocks_that_a_phase_counts_stay_and_what_is_small_already_does():
    counted = narrowed(load("train.phases.0.trainable=last 5 blocks", "train.phases.1.batch_size=8"))
    assert counted.encoder.architecture["num_layers"] == 5
    assert [phase.batch_size for phase in counted.train.phases] == [32, 8]
    convolutional = load("encoder.name=mobilenet_v3_small")
    assert narrowed(convolutional).encoder == convolutional.encoder
    tiny = {"hidden_dim": 16, "num_layers": 1, "num_heads": 1, "intermediate_dim": 32}
    found = narrowed(load(f"encoder.architecture={json.dumps(tiny)}"))
    assert found.encoder.architecture == tiny


@pytest.mark.slow
def test_a_whole_network_that_the_machine_cannot_hold_is_refused_in_one_line(tmp_path):
    asked = ["devices.rehearse=64", "devices.rehearse_whole=true", "train.phases.0.batch_size=256"]
    done = train(*asked, f"run_dir={tmp_path}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "64 replicas need about" in done.stderr.splitlines()[-1] and "rehearse_whole=false" in done.stderr


@pytest.mark.slow
def test_without_records_the_steps_are_rehearsed_on_drawn_images(tmp_path):
    """Two sources, so that a fold may hold one out; nothing is left behind."""
    asked = ["devices.rehearse=2", "devices.rehearse_steps=2", "train.fold=domain glr2021", f"run_dir={tmp_path}/run"]
    done = train(*asked)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout
    assert "128 drawn images" in said and "2 replicas need about" in said
    assert "rehearsal all: losses " in said and "rehearsal head: losses " in said and "GiB at most: done" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_before_it_is_narrowed(tmp_path):
    done = train("devices.rehearse=3", f"run_dir={tmp_path}")
    assert done.returncode == 2 and "batch_size 200 does not divide by 3 replicas" in done.stderr.splitlines()[-1]
