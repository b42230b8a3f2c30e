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
def test_a_build_interrupted_at_random_moments_ends_in_one_line_and_goes_on_to_the_same_bytes(tmp_path: Path):
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
    rng, tried, slowest = random.Random(11), 0, 0.0
    while tried < MOMENTS:
        run_dir = tmp_path / f"run-{tried}"
        process = started("tfrecords", str(config), f"run_dir={run_dir}")
        number = signal.SIGTERM if tried % 5 == 4 else signal.SIGINT
        moments = [(rng.uniform(0, duration), number)]
        if tried % 2:
            moments.append((rng.uniform(0, 0.3), number))
        code, lines, seconds = interrupted(process, *moments)
        if code == 0 and not lines:
            duration *= 0.95  # it was done: the machine is quicker now
            assert duration > 0.1, "no signal came in time"
            continue
        tried, slowest = tried + 1, max(slowest, seconds)
        word = "interrupted" if number == signal.SIGINT else "terminated"
        where = f"moment {tried}: {moments}"
        assert lines == [f"guie tfrecords: {word}; the same command goes on from here"], where
        assert code == 128 + number and seconds < MOST_SECONDS, where
        assert not list(run_dir.rglob(".partial-*")), where
        assert build(config, f"run_dir={run_dir}") == 0, where
        assert tree(run_dir / "records") == expected, where
    print(f"Ctrl-C at {tried} moments of a build of {duration:.1f} s: the slowest end took {slowest:.2f} s")
