"""A checkpoint is whole or absent, and of this architecture or refused."""

import keras
import numpy as np
import pytest

from pipeline.errors import BadInput
from pipeline.training import checkpoints


def variables(scale=1.0, width=3):
    return {"a/kernel": keras.Variable(np.full((2, width), scale, "f")), "b/step": keras.Variable(7, dtype="int32")}


def test_restore_gives_the_saved_values_back(tmp_path):
    writer = checkpoints.Writer(tmp_path, kept=2)
    writer.save(5, variables(3.0), {"phase": 1})
    writer.wait()
    path = checkpoints.newest(tmp_path)
    again = variables(0.0)
    checkpoints.restore(path, again)
    assert np.array(again["a/kernel"]).tolist() == [[3.0] * 3] * 2
    assert checkpoints.read_state(path) == {"phase": 1, "step": 5}


def test_the_values_saved_are_those_at_the_call(tmp_path):
    writer, held = checkpoints.Writer(tmp_path, kept=2), variables(1.0)
    writer.save(1, held, {})
    held["a/kernel"].assign(np.zeros((2, 3)))
    writer.wait()
    again = variables(0.0)
    checkpoints.restore(checkpoints.newest(tmp_path), again)
    assert np.array(again["a/kernel"]).min() == 1.0


def test_only_the_newest_are_kept(tmp_path):
    writer = checkpoints.Writer(tmp_path, kept=2)
    for step in (1, 20, 300):
        writer.save(step, variables(), {})
    writer.wait()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-000000020.safetensors",
        "step-000000300.safetensors",
    ]


def test_another_architecture_is_refused_by_name_and_shape_before_anything_changes(tmp_path):
    writer = checkpoints.Writer(tmp_path, kept=1)
    writer.save(1, variables(9.0), {})
    writer.wait()
    other = variables(1.0, width=4)
    with pytest.raises(BadInput, match=r"a/kernel is \(2, 3\) there, \(2, 4\)"):
        checkpoints.restore(checkpoints.newest(tmp_path), other)
    more = {**variables(1.0), "c/bias": keras.Variable([1.0])}
    with pytest.raises(BadInput, match="lacks 1 of 3 variables"):
        checkpoints.restore(checkpoints.newest(tmp_path), more)
    assert np.array(more["a/kernel"]).min() == 1.0


@pytest.mark.faults("truncated checkpoint")
def test_half_a_file_is_refused_and_a_partial_one_is_not_seen(tmp_path):
    writer = checkpoints.Writer(tmp_path, kept=1)
    writer.save(1, variables(), {})
    writer.wait()
    path = checkpoints.newest(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadInput, match="not a whole checkpoint"):
        checkpoints.read_state(path)
    path.rename(tmp_path / ".partial-step-000000001.safetensors-1")
    assert checkpoints.newest(tmp_path) is None


def test_a_failure_to_write_is_not_swallowed(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    writer = checkpoints.Writer(blocked / "checkpoints", kept=1)
    writer.save(1, variables(), {})
    with pytest.raises(OSError):
        writer.wait()
