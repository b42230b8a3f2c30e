"""Ctrl-C and SIGTERM at random moments: one line, an end within seconds, no orphans, the same bytes after the rerun.

GUIE_KILLS=100 sets the number of moments. They are drawn from when the command handles signals (some 30 ms after the
process began, within Python's own start) to its end.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.guards import interrupts
from tests.tfrecords.test_records_build import build, class_folders, write_config
from tests.tfrecords.test_records_kill import _session, tree

MOMENTS = int(os.environ.get("GUIE_KILLS", "15"))
MOST_SECONDS = 5.0
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")


def started(*words: str) -> subprocess.Popen:
    """A command that handles signals by now, in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    while process.poll() is None and not caught(process.pid) & 1 << (signal.SIGTERM - 1):
        time.sleep(0.001)
    return process


def caught(pid: int) -> int:
    """The signals that a process has handlers for, as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)


def interrupted(process: subprocess.Popen, *signals: tuple[float, int]) -> tuple[int, list[str], float]:
    """Sends each signal to the whole group, `seconds` after the one before: (exit code, lines of stderr, seconds)."""
    began = 0.0
    for seconds, number in signals:
        time.sleep(seconds)
        began = began or time.monotonic()
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
    _, said = process.communicate(timeout=60)
    took = time.monotonic() - began
    while _session(process.pid) and time.monotonic() - began < 60:
        time.sleep(0.002)
    assert time.monotonic() - began < took + MOST_SECONDS, "processes outlive the command"
    lines = [line for line in said.splitlines() if " images, " not in line]  # progress, on a busy machine
    return process.returncode, lines, took


@pytest.mark.slow
@pytest.mark.faults("Ctrl-C")
def test_a_build_interrupted_at_random_moments_ends_in_one_line_and_goes_on_to_the_same_bytes(tmp_path: Path, tried):
    root = class_folders(tmp_path / "set", {"crow": 30, "owl": 30, "tit": 30}, side=160)
    for number in range(6):
        (root / f"owl/{number:03d}.jpg").write_bytes(b"spoilt")  # so that a second round replaces some
    options = {"cap_per_class": 25, "images_per_shard": 8, "image_size_px": 96, "max_reject_share": 0.5}
    config = write_config(tmp_path, {"birds": root}, split={"train": 0.6, "test": 0.4}, **options)
    whole = started("tfrecords", str(config))
    began = time.monotonic()
    assert whole.wait() == 0
    whole.stderr.close()
    duration, expected = time.monotonic() - began, tree(tmp_path / "run/records")
    rng, pressed, slowest = random.Random(11), 0, 0.0
    while pressed < MOMENTS:
        run_dir = tmp_path / f"run-{pressed}"
        process = started("tfrecords", str(config), f"run_dir={run_dir}")
        number = signal.SIGTERM if pressed % 5 == 4 else signal.SIGINT
        moments = [(rng.uniform(0, duration), number)]
        if pressed % 2:
            moments.append((rng.uniform(0, 0.3), number))
        code, lines, seconds = interrupted(process, *moments)
        if code == 0 and not lines:
            duration *= 0.95  # it was done: the machine is quicker now
            assert duration > 0.1, "no signal came in time"
            continue
        pressed, slowest = pressed + 1, max(slowest, seconds)
        word = "interrupted" if number == signal.SIGINT else "terminated"
        where = f"moment {pressed}: {moments}"
        assert lines == [f"guie tfrecords: {word}; the same command goes on from here"], where
        assert code == 128 + number and seconds < MOST_SECONDS, where
        assert not list(run_dir.rglob(".partial-*")), where
        assert build(config, f"run_dir={run_dir}") == 0, where
        assert tree(run_dir / "records") == expected, where
    tried(pressed)
    print(f"Ctrl-C at {pressed} moments of a build of {duration:.1f} s: the slowest end took {slowest:.2f} s")


CONFIG = """
records:
  sources: [{layout: drawn, name: drawn, options: {classes: 8, images_per_class: 8, image_size_px: 32}}]
  split: {by: class, train: 0.5, validation: 0.25, test: 0.25}
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: class_token
  architecture: {patch_size: 8, hidden_dim: 16, num_layers: 1, num_heads: 2, intermediate_dim: 32}
train:
  log_every_steps: 100000
  phases: [{name: all, trainable: all, epochs: 100000, batch_size: 8, learning_rate: 1.0e-3}]
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Path:
    """A config whose training takes hours, in steps of C++ that take minutes; its records are built."""
    folder = tmp_path_factory.mktemp("endless")
    (folder / "endless.yaml").write_text(CONFIG)
    assert build(folder / "endless.yaml", f"run_dir={folder / 'run'}") == 0
    return folder


@pytest.mark.slow
@pytest.mark.faults("Ctrl-C")
@pytest.mark.parametrize("seconds", [0.4, 3.0, 25.0], ids=["imports", "TensorFlow", "training"])
def test_a_run_with_tensorflow_ends_in_one_line(endless, seconds):
    process = started("run", str(endless / "endless.yaml"), f"run_dir={endless / 'run'}")
    code, lines, took = interrupted(process, (seconds, signal.SIGINT), (0.1, signal.SIGINT))
    assert lines == ["guie run: interrupted; the same command goes on from here"]
    assert code == 130 and took < MOST_SECONDS


@pytest.mark.faults("Ctrl-C")
@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6])
def test_verify_ends_in_one_line(tmp_path, seconds):
    records = tmp_path / "run/records"
    config = write_config(tmp_path, {"birds": class_folders(tmp_path / "set", {"crow": 4, "owl": 4}, side=400)})
    assert build(config, "records.images_per_shard=1") == 0
    for shard in sorted(records.glob("*.tfrec")):  # eight hundred of them: some seconds of work
        for number in range(100):
            os.link(shard, shard.with_name(f"{shard.stem}-{number}.tfrec"))
    (records / "manifest.json").unlink()
    (records / ".build").rename(tmp_path / "build")
    code, lines, took = interrupted(started("verify", str(records)), (seconds, signal.SIGINT), (0.0, signal.SIGINT))
    assert (code, lines) == (130, ["guie verify: interrupted; the same command goes on from here"])
    assert took < MOST_SECONDS


ODD_MAIN = """
import sys, threading, time
from pipeline.guards import interrupts
print("begun", flush=True)
def work():
    while True:
        time.sleep(0.01)
sys.argv[:] = ["guie", "score"]
with interrupts.handled():
    threading.Thread(target=work).start()  # Python would wait for it for ever
    print("unflushed", end="")
    try:
        time.sleep(60)
    finally:
        time.sleep(60)  # an unwinding that hangs
"""


@pytest.mark.faults("Ctrl-C")
@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_threads_and_an_unwinding_that_hang_do_not_hold_the_end_up(number):
    process = subprocess.Popen(
        [sys.executable, "-c", ODD_MAIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not caught(process.pid) & 1 << (signal.SIGTERM - 1):
        time.sleep(0.001)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(number)
    said, line = process.communicate(timeout=30)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert line == f"guie score: {word}; the same command goes on from here\n" and said == "begun\nunflushed"
    assert process.returncode == 128 + number
    assert interrupts.GRACE_SECONDS <= time.monotonic() - began < MOST_SECONDS


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path):
    """`nohup guie … &`"""
    config = write_config(tmp_path, {"birds": class_folders(tmp_path / "set", {"crow": 3, "owl": 3})})
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)], stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert cli.main(["verify", str(tmp_path / "run/records")]) == 0
