"""A damaged checkpoint falls back to the one before it, in one line; weights that are not finite go nowhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.errors import BadInput
from pipeline.training import checkpoints
from tests.training.tiny_runs import TinyRuns

pytestmark = pytest.mark.faults("damaged checkpoint")
VALUES = {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "b/step": np.array(7, np.int64)}


def written(folder: Path, steps: tuple[int, ...] = (1, 2)) -> list[Path]:
    writer = checkpoints.Writer(folder, kept=9)
    for step in steps:
        writer.save(step, {name: value * step for name, value in VALUES.items()}, {"finished": False})
    writer.wait()
    return [folder / f"step-{step:09d}.safetensors" for step in steps]


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def longer(data: bytes) -> bytes:
    return data + b"\0"


def flipped_header(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 0x80]) + data[41:]


def flipped_values(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


def flipped_state(data: bytes) -> bytes:
    return data.replace(b"false", b"true ", 1)


DAMAGES = [cut, longer, flipped_header, flipped_values, flipped_state, lambda _: b"", lambda data: bytes(len(data))]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before_it_and_says_so_once(tmp_path, capsys, damage):
    first, second = written(tmp_path)
    second.write_bytes(damage(second.read_bytes()))
    assert checkpoints.newest(tmp_path, read=True) == first and second.exists(), "who only asks moves nothing"
    assert checkpoints.newest_mended(tmp_path) == first
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(second) in said and f"goes on from {first.name}" in said
    assert checkpoints.newest(tmp_path) == first and not capsys.readouterr().out
    assert written(tmp_path, (2,)) and checkpoints.newest(tmp_path, read=True) == second, "it is written again"


def test_without_a_whole_one_nothing_is_set_aside_and_nothing_trained(tmp_path):
    paths = written(tmp_path)
    for path in paths:
        path.write_bytes(cut(path.read_bytes()))
    for _ in range(2):
        with pytest.raises(BadInput, match=r"no whole checkpoint is left beside it.*remove .* to train anew"):
            checkpoints.newest(tmp_path)
    assert sorted(tmp_path.iterdir()) == paths


def test_one_of_before_there_was_a_checksum_is_whole(tmp_path):
    save_file(VALUES, tmp_path / "step-000000003.safetensors", metadata={"guie": json.dumps({"step": 3})})
    path = checkpoints.newest(tmp_path, read=True)
    assert path is not None and checkpoints.read_state(path) == {"step": 3}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    (first,) = written(tmp_path, (1,))
    writer = checkpoints.Writer(tmp_path, kept=1)
    spoilt = VALUES["a/kernel"].copy()
    spoilt[1, 2] = value
    writer.save(2, {**VALUES, "a/kernel": spoilt}, {})
    with pytest.raises(BadInput, match=r"step 2: the weights are not finite \(a/kernel\)"):
        writer.wait()
    assert list(tmp_path.iterdir()) == [first]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TinyRuns:
    """With a run `whole` of eight steps, each kept."""
    runs = TinyRuns.made(tmp_path_factory.mktemp("tiny"))
    runs.train("whole")
    return runs


def copied(trained: TinyRuns, name: str) -> Path:
    shutil.copytree(trained.folder / "whole", trained.folder / name)
    return trained.folder / name / "checkpoints"


@pytest.mark.slow
def test_training_goes_on_from_the_one_before_to_the_same_weights(trained, capsys):
    folder = copied(trained, "cut")
    last = folder / "step-000000008.safetensors"
    last.write_bytes(cut(last.read_bytes()))
    before = folder / "step-000000007.safetensors"
    before.write_bytes(flipped_values(before.read_bytes()))
    trained.train("cut")
    said = capsys.readouterr().out
    assert said.count("set aside") == 2 and "goes on in phase tune at step 6 of 8" in said
    expected = load_file(trained.folder / "whole/checkpoints" / last.name)
    for name, value in load_file(last).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.slow
def test_export_takes_the_one_before_and_refuses_weights_that_are_not_finite(trained, capsys):
    folder = copied(trained, "export")
    last = folder / "step-000000008.safetensors"
    last.write_bytes(flipped_values(last.read_bytes()))
    run = trained.trained("export").run
    embedder = checkpoints.load_trained(run)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"{last} is damaged (its checksum is another): set aside" in said
    expected = load_file(trained.folder / "whole/checkpoints/step-000000007.safetensors")
    for name, variable in embedder.variables.items():
        np.testing.assert_array_equal(variable, expected[name])
    state = checkpoints.read_state(folder / "step-000000007.safetensors")
    spoilt = {name: np.full_like(value, np.nan) if "kernel" in name else value for name, value in expected.items()}
    save_file(spoilt, last, metadata={"guie": json.dumps(state)})
    with pytest.raises(BadInput, match=r"the weights are not finite .*nothing is exported"):
        checkpoints.load_trained(run)
    from export import saved_model

    with pytest.raises(BadInput, match="nothing is exported"):
        saved_model.main(run)
    assert not (folder.parent / "submission.zip").exists() and not (folder.parent / "export").exists()
