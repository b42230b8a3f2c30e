"""The world that edits start from, once a process."""

import gc
from collections.abc import Iterator

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
