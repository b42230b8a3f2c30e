"""Two runs in one folder: the second is refused and told of the first; a lock dies with its process."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys

import pytest

from pipeline import cli
from pipeline.config import Devices, Run
from pipeline.errors import BadInput
from pipeline.guards.locks import NAME, locked, one_at_a_time
from tests.tfrecords.test_records_build import build, class_folders, write_config

pytestmark = pytest.mark.faults("two runs in one folder")
HOLDS = """
import sys, time
from pathlib import Path
from pipeline.guards.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "run"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("command", ["run", "tfrecords", "train", "export", "sweep"])
def test_the_second_is_refused_and_told_of_the_first(tmp_path, holder, capsys, command):
    root = class_folders(tmp_path / "set", {"crow": 3, "owl": 3})
    config = write_config(tmp_path, {"birds": root})
    text = json.loads(config.read_text())
    text["train"] = {"phases": [{"name": "head", "trainable": "head", "epochs": 1}]}
    config.write_text(json.dumps(text))
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    assert cli.main([command, str(config)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"is in use by process {holder.pid} on {socket.gethostname()} since 20" in said
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before == [NAME]


def test_a_killed_run_blocks_nobody(tmp_path, holder):
    config = write_config(tmp_path, {"birds": class_folders(tmp_path / "set", {"crow": 3, "owl": 3})})
    assert build(config) == 2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / NAME).read_text(), "what the killed one wrote is still there"
    assert build(config) == 0
    assert not (tmp_path / "run" / NAME).exists()


def test_a_damaged_lock_file_is_only_a_file(tmp_path, holder, capsys):
    (tmp_path / "run" / NAME).write_text("{")
    with pytest.raises(BadInput, match="in use by another process"), locked(tmp_path / "run"):
        pass


def test_a_command_passes_within_one_that_holds_the_lock(tmp_path):
    with locked(tmp_path / "run"), locked(tmp_path / "elsewhere/../run"):
        assert (tmp_path / "run" / NAME).exists()
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_of_several_hosts_the_first_holds_the_lock(tmp_path, holder):
    run = Run(name="a", run_dir=str(tmp_path / "run"))
    main = one_at_a_time(lambda run: "ran")
    hosts = ["a:1", "b:1"]
    assert main(dataclasses.replace(run, devices=Devices(hosts=hosts, host_index=1))) == "ran"
    assert main(dataclasses.replace(run, devices=Devices(rehearse=2))) == "ran"
    with pytest.raises(BadInput, match="in use by"):
        main(dataclasses.replace(run, devices=Devices(hosts=hosts, host_index=0)))


def test_two_builds_at_once_end_in_one_build(tmp_path):
    """Begun together, as from two terminals: one builds, the other is refused in one line; then all is done."""
    config = write_config(tmp_path, {"birds": class_folders(tmp_path / "set", {"crow": 20, "owl": 20}, side=200)})
    command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes and set(codes) <= {0, 2}
    assert all(words.count("\n") == 1 and " in use " in words for words, code in zip(said, codes, strict=True) if code)
    assert cli.main(["verify", str(tmp_path / "run/records")]) == 0
