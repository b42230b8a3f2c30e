"""The world that edits start from, once a process; a disk that can be filled."""

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from tests.faults.reruns import Reruns
from tests.faults.world import made


@pytest.fixture(scope="package")
def reruns(tmp_path_factory) -> Iterator[Reruns]:
    tf.config.experimental.enable_op_determinism()  # not TF_DETERMINISTIC_OPS, which no test after these gets rid of
    yield Reruns(made(tmp_path_factory.mktemp("edits") / "world"))
    disable_op_determinism()
    gc.unfreeze()  # what `World.guie` froze


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk in memory with the given options, or mounts it again: `disk("size=64k")`; gives its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode and not options.startswith("remount"):
            pytest.skip("a disk can be mounted by root alone")
        assert done.returncode == 0, done.stderr
        return folder

    yield mounted
    while subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
        pass
