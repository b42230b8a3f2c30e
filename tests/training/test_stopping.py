"""Training that is told to end leaves a checkpoint, says so in one line, and goes on to the losses of a whole run."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from pipeline import cli
from pipeline.training import phases, stopping
from tests.training.tiny_runs import EPOCH, TUNE

PHASES = f"train.phases={json.dumps([{**TUNE, 'epochs': 3}])}"
RARELY = ["train.checkpoint_every_steps=999", PHASES]


@pytest.fixture(scope="module")
def whole(tiny) -> list[float]:
    return tiny.train("never stopped", *RARELY).losses()


def test_it_ends_before_its_hours_are_over_and_goes_on(tiny, whole, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 60))  # a minute passes between any two looks at it
    monkeypatch.setattr(stopping.time, "monotonic", lambda: float(next(clock)))
    folder = tiny.folder / "hours"
    command = ["train", str(tiny.config), f"run_dir={folder}", *RARELY]
    assert cli.main([*command, "train.hours=0.2"]) == 75
    (line,) = capsys.readouterr().err.strip().splitlines()
    stopped = re.search(r"train.hours=0.2: .* stopped in phase tune at step (\d+) of 12, saved in ", line)
    assert stopped and line.endswith("the same command goes on from here")
    assert 0 < int(stopped[1]) < 3 * EPOCH and len(list(folder.glob("checkpoints/step-*"))) == 1
    monkeypatch.undo()
    assert cli.main(command) == 0
    assert tiny.trained("hours", *RARELY).losses() == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_it_ends_between_two_phases(tiny, monkeypatch, capsys):
    """SIGTERM within the last piece of a phase: what the next one needs before its first step is not begun."""
    two = f"train.phases={json.dumps([TUNE, {**TUNE, 'name': 'again'}])}"
    finish = phases.State.finish

    def terminated(state, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(state, *args)

    monkeypatch.setattr(phases.State, "finish", terminated)
    assert cli.main(["train", str(tiny.config), f"run_dir={tiny.folder / 'between'}", two]) == 75
    assert "SIGTERM: stopped at the end of phase tune, saved in" in capsys.readouterr().err
    monkeypatch.undo()
    assert tiny.train("between", two).losses() == pytest.approx(tiny.train("both", two).losses(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.faults("kill")
def test_sigterm_leaves_a_checkpoint(tiny, whole):
    folder = tiny.folder / "terminated"
    many = f"train.phases={json.dumps([{**TUNE, 'epochs': 3000}])}"
    keys = [f"run_dir={folder}", "train.checkpoint_every_steps=99999", many]
    command = [sys.executable, "-m", "pipeline.cli", "train", str(tiny.config), *keys]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert started.poll() is None, started.communicate()
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    _, error = started.communicate(timeout=120)
    assert started.returncode == 75, error
    said = r"guie train: SIGTERM: stopped in phase tune at step [\d,]+ of 12,000, saved in .*from here"
    assert re.fullmatch(said, error.splitlines()[-1])
    (saved,) = folder.glob("checkpoints/step-*")
    assert saved.stat().st_size > 0


def test_what_takes_longer_than_is_left_is_not_begun():
    some = stopping.Stopping(1.0)
    assert not some.due(3500) and some.due(3700).startswith("train.hours=1: 0.00 are over")
    assert not stopping.Stopping(None).due(1e9)
