"""Eight replicas under XLA, or two hosts, train as one replica does: real records, the real commands."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import cli

ROOT = Path(__file__).parents[2]
TPU_CONFIG = "configs/vit_h14_arcface_tpu.yaml"
NARROW = {"hidden_dim": 32, "num_layers": 1, "num_heads": 2, "intermediate_dim": 64, "projection_dim": 16}
ENVIRONMENT = {
    **os.environ,
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",  # quicker to compile, the same graph
}

HOSTS_CONFIG = """
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: class_token
  architecture: {patch_size: 8, hidden_dim: 32, num_layers: 2, num_heads: 2, intermediate_dim: 64}
embedder: {embedding_dim: 8, dropout: 0.1}
train:
  loss: {name: arcface, scale: 16.0, margin_radians: 0.2}
  optimizer: {name: adamw, clip_norm: 1.0}
  log_every_steps: 1
  checkpoint_every_steps: 2
  phases:
    - {name: head, trainable: head, epochs: 1, batch_size: 16, learning_rate: 2.0e-3}
    - {name: all, trainable: all, epochs: 5, batch_size: 16, learning_rate: 1.0e-3, augment: {crop_scale_min: 0.6}}
"""

pytestmark = pytest.mark.slow  # five minutes on two cores; test_step has four replicas and XLA in `make test`


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """48 drawn images of 6 classes and 16 for validation, as the real command writes them."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "drawn.yaml").write_text(
        "records:\n"
        "  sources: [{layout: drawn, name: drawn, options: {classes: 8, images_per_class: 8, image_size_px: 48}}]\n"
        "  split: {by: class, train: 0.75, validation: 0.25}\n"
    )
    assert cli.main(["tfrecords", str(folder / "drawn.yaml"), f"run_dir={folder}"]) == 0
    return folder / "records"


def steps_of_the_tpu_config(records: Path, overrides: list[str]) -> dict:
    narrowed = [
        "encoder.weights=none", f"encoder.architecture={json.dumps(NARROW)}", "encoder.image_size_px=56",
        "devices.kind=cpu", "train.phases.0.batch_size=16", "train.phases.0.epochs=8",
        f"train.records=[{records}/*-train-*.tfrec]",
    ]  # fmt: skip
    script = [sys.executable, "-m", "tests.training.config_steps", TPU_CONFIG, "0", "12", *narrowed, *overrides]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_replicas_under_xla_train_the_tpu_config_as_one_plain_replica(records):
    one = steps_of_the_tpu_config(records, ["train.compile=false"])
    eight = steps_of_the_tpu_config(records, ["devices.rehearse=8"])
    assert (one["replicas"], eight["replicas"]) == (1, 8)
    losses, others = np.array(one["losses"]), np.array(eight["losses"])
    assert len(losses) == 12 and losses[-4:].mean() < losses[:4].mean()  # it does train
    assert np.abs(others / losses - 1.0).max() < 1e-5
    assert one["weights"].keys() == eight["weights"].keys()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_hosts(config: Path, run_dirs: list[Path]) -> list[subprocess.Popen]:
    """`guie train` once a host, on loopback."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(len(run_dirs)))
    return [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "train", str(config), f"run_dir={run_dir}",
             f"devices.hosts=[{hosts}]", f"devices.host_index={index}"],
            cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index, run_dir in enumerate(run_dirs)
    ]  # fmt: skip


def ended(hosts: list[subprocess.Popen]) -> list[str]:
    try:
        return [host.communicate(timeout=300)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()


def rows(run_dir: Path) -> dict[int, dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def runs(records, tmp_path_factory) -> dict:
    """One host's run, and two hosts' that is killed in its second phase, refused, and resumed."""
    folder = tmp_path_factory.mktemp("hosts")
    config = folder / "hosts.yaml"
    globs = [f"[{records}/*-{split}-*.tfrec]" for split in ("train", "validation")]
    config.write_text(HOSTS_CONFIG + f"  records: {globs[0]}\n  validation: {globs[1]}\n")
    single, chief, other = folder / "single", folder / "chief", folder / "other"
    script = [sys.executable, "-m", "pipeline.cli", "train", str(config), f"run_dir={single}"]
    alone = subprocess.run(script, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr[-3000:]

    hosts = start_hosts(config, [chief, other])  # a folder of its own for each, so that it shows who writes
    deadline = time.monotonic() + 300
    while not (chief / "checkpoints/step-000000005.safetensors").exists():
        assert time.monotonic() < deadline and all(host.poll() is None for host in hosts), ended(hosts)
        time.sleep(0.05)
    for host in hosts:
        host.send_signal(signal.SIGKILL)
    ended(hosts)
    killed = sorted(path.name for path in (chief / "checkpoints").glob("step-*"))
    written = sorted(str(path.relative_to(other)) for path in other.rglob("*") if path.is_file())

    hosts = start_hosts(config, [chief, other])
    refusals = list(zip(ended(hosts), [host.returncode for host in hosts], strict=True))
    (other / "checkpoints").symlink_to(chief / "checkpoints")  # now it is one folder
    hosts = start_hosts(config, [chief, other])
    printed = ended(hosts)
    assert [host.returncode for host in hosts] == [0, 0], printed
    return {
        "single": single, "chief": chief, "killed": killed, "written by the other": written, "refusals": refusals,
        "printed": printed,
    }  # fmt: skip


@pytest.mark.faults("kill")
def test_two_hosts_killed_and_resumed_have_one_hosts_losses(runs):
    single, chief = rows(runs["single"]), rows(runs["chief"])
    assert single.keys() == chief.keys() and len(single) == 18
    for step, row in single.items():
        assert chief[step]["loss"] == pytest.approx(row["loss"], rel=1e-5), step
        assert chief[step].get("validation/mP@5") == pytest.approx(row.get("validation/mP@5"), abs=1e-6)


def test_two_hosts_weights_are_one_hosts(runs):
    files = [sorted((runs[name] / "checkpoints").glob("step-*.safetensors"))[-1] for name in ("single", "chief")]
    single, chief = (load_file(file) for file in files)
    assert files[0].name == files[1].name and single.keys() == chief.keys()
    for name, value in single.items():
        assert np.allclose(value, chief[name], atol=1e-5), name


def test_it_was_killed_in_the_second_phase_and_both_hosts_resumed_there(runs):
    assert runs["killed"] and "step-000000018.safetensors" not in runs["killed"]
    for printed in runs["printed"]:
        assert "train: goes on in phase all at step" in printed


def test_only_the_chief_writes_the_run_folder(runs):
    assert {Path(name).parts[0] for name in runs["written by the other"]} <= {"features"}


def test_hosts_that_see_different_checkpoints_are_refused_in_one_line(runs):
    for printed, code in runs["refusals"]:
        assert code == 2 and "one folder that all hosts see" in printed
