"""A training is known by what its files hold, not by where they lie: it goes on elsewhere, and not on other files."""

import json
import shutil

import numpy as np
import pytest

from pipeline import cli, files
from pipeline.data.records import open_records
from tests.training.tiny_runs import TUNE, TinyRuns

PHASES = f"train.phases={json.dumps([{**TUNE, 'epochs': 1}])}"


@pytest.fixture
def moved(tiny, tmp_path) -> TinyRuns:
    """Its own records and network, in another place."""
    shutil.copytree(tiny.folder / "records", tmp_path / "site/records")
    shutil.copy(tiny.folder / "tiny.keras", tmp_path / "site")
    config = tiny.config.read_text().replace(str(tiny.folder), str(tmp_path / "site"))
    (tmp_path / "site/tiny.yaml").write_text(config)
    return TinyRuns(tmp_path / "site")


def test_a_run_goes_on_where_its_files_lie_elsewhere(tiny, moved, capsys):
    whole = tiny.train("inputs", PHASES).losses()
    folder = moved.folder / "again"
    shutil.copytree(tiny.folder / "inputs", folder)
    last = sorted(folder.glob("checkpoints/*"))[-1]
    last.unlink()
    assert moved.train("again", PHASES).losses() == pytest.approx(whole, rel=1e-5)
    assert "goes on in phase tune at step 3 of 4" in capsys.readouterr().out


def relabelled(moved: TinyRuns) -> None:
    records = moved.folder / "records"
    assert cli.main(["tfrecords", str(moved.config), f"run_dir={moved.folder}/other", "records.cap_per_class=2"]) == 0
    shutil.rmtree(records)
    shutil.copytree(moved.folder / "other/records", records)


def overwritten(moved: TinyRuns) -> None:
    """One byte of one image, in place."""
    shard = sorted(moved.folder.glob("records/*.tfrec"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))


def another_network(moved: TinyRuns) -> None:
    import keras

    model = keras.models.load_model(moved.folder / "tiny.keras")
    model.layers[1].kernel.assign_add(np.ones(model.layers[1].kernel.shape))
    model.save(moved.folder / "tiny.keras")


@pytest.mark.parametrize(
    ("change", "key"),
    [(relabelled, "train.records"), (overwritten, "train.records"), (another_network, "encoder.name")],
)
@pytest.mark.parametrize("finished", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.faults("stale results")
def test_files_that_changed_since_are_refused_by_the_key_that_names_them(moved, change, key, finished, capsys):
    moved.train("run", PHASES)
    if not finished:
        sorted((moved.folder / "run").glob("checkpoints/*"))[-1].unlink()
    change(moved)
    capsys.readouterr()
    assert moved.refused("run", PHASES)
    error = capsys.readouterr().err.strip()
    assert f"was trained on another {key}" in error and len(error.splitlines()) == 1


def test_records_that_are_gone_do_not_undo_what_is_done(moved, capsys):
    moved.train("run", PHASES)
    shutil.rmtree(moved.folder / "records")
    moved.train("run", PHASES)
    assert "done already" in capsys.readouterr().out


def test_the_identity_of_records_is_of_names_labels_and_images(moved):
    pattern = [f"{moved.folder}/records/*.tfrec"]
    before = open_records(pattern).identity
    assert open_records(pattern).identity == before
    shard = sorted(moved.folder.glob("records/*-train-*.tfrec"))[0]
    shard.rename(shard.with_name("z" + shard.name))
    assert open_records(pattern).identity != before


def test_the_identity_of_a_large_file_is_of_pieces_of_it(tmp_path):
    path, rng = tmp_path / "large", np.random.default_rng(0)
    content = rng.integers(0, 256, 10 * 2**20, np.uint8)
    path.write_bytes(content.tobytes())
    before = files.identity(path)
    for place in (0, len(content) - 1):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed.tobytes())
        assert files.identity(path) != before
    path.write_bytes((content ^ 1).tobytes())
    assert files.identity(path) != before
    path.write_bytes(content.tobytes()[:-1])
    assert files.identity(path) != before and files.identity(tmp_path / "none") == ""
    whole = files.identity(tmp_path)
    path.rename(tmp_path / "renamed")
    assert files.identity(tmp_path) != whole
