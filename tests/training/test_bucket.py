"""Training on records in a bucket (gcsfs against a server of our own): the losses are those of the same local files."""

import json
import shutil

import fsspec
import pytest

from pipeline import cli, reading
from pipeline.data.sources import open_data
from tests.data.bucket_server import serving
from tests.training.tiny_runs import TUNE

PHASES = f"train.phases={json.dumps([{**TUNE, 'epochs': 1}])}"
RECORDS = "train.records=[gs://photos/site/records/*.tfrec]"


@pytest.fixture
def bucket(tiny, tmp_path, monkeypatch):
    """gs://photos/site/records/ holds the records of `tiny`."""
    shutil.copytree(tiny.folder / "records", tmp_path / "photos/site/records")
    with serving(tmp_path) as server:
        options = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
        monkeypatch.setitem(fsspec.config.conf, "gs", options)
        reading._system.cache_clear()  # the server of the test before
        yield server


def test_a_run_on_a_bucket_has_the_losses_of_a_local_one(tiny, bucket):
    whole = tiny.train("near", PHASES).losses()
    bucket.seconds = 0.005
    shard = sorted((bucket.root / "photos/site/records").glob("*.tfrec"))[0].name
    bucket.unavailable[shard] = 1
    assert tiny.train("bucket", PHASES, RECORDS).losses() == whole
    assert bucket.reads[shard] > 16 and not bucket.writes


@pytest.mark.slow
def test_a_run_goes_on_where_its_records_were_moved_to_a_bucket(tiny, bucket, capsys):
    """Its shards are read block by block, from both."""
    phases = f"train.phases={json.dumps([{**TUNE, 'epochs': 1, 'sampling': {'interleave': 2}}])}"
    whole = tiny.train("local", phases).losses()
    folder = tiny.folder / "moved"
    shutil.copytree(tiny.folder / "local", folder)
    sorted(folder.glob("checkpoints/*"))[-1].unlink()
    capsys.readouterr()
    assert tiny.train("moved", phases, RECORDS).losses() == pytest.approx(whole, rel=1e-5)
    assert "goes on in phase tune at step 3 of 4" in capsys.readouterr().out
    assert tiny.refused("moved", PHASES, RECORDS)  # another order is another recipe
    assert "another recipe" in capsys.readouterr().err


def test_images_to_score_are_those_of_the_local_files(tiny, bucket):
    there, here = (open_data(f"{root}/*.tfrec") for root in ("gs://photos/site/records", tiny.folder / "records"))
    assert [each.name for each in there] == [each.name for each in here]
    for far, near in zip(there, here, strict=True):
        assert (far.label_space, [item.key for item in far.items]) == (near.label_space, [i.key for i in near.items])
        assert far.items[3].read() == near.items[3].read()


def test_a_bucket_without_records_is_refused_in_one_line(tiny, bucket, capsys):
    assert tiny.refused("no-shards", PHASES, "train.records=[gs://photos/other/*.tfrec]")
    assert "train.records: no shard matches gs://photos/other/*.tfrec" in capsys.readouterr().err


def test_a_shard_that_vanishes_ends_in_one_line_that_names_it(tiny, bucket, capsys):
    for path in (bucket.root / "photos/site/records").glob("*.index"):
        path.with_suffix(".tfrec").write_bytes(path.with_suffix(".tfrec").read_bytes()[:-7])
    assert cli.main(["train", str(tiny.config), f"run_dir={tiny.folder}/cut", PHASES, RECORDS]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("guie train: gs://photos/site/records/") and "half-written" in said
