"""What stages took: a line a run of a stage, none where nothing was done, none lost to a damaged one."""

import json
import sys
import time

import numpy as np
import pytest

from pipeline.errors import Stopped
from pipeline.guards import stage_log


def test_a_line_has_the_time_the_peak_of_the_stage_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/guie", "train", "a.yaml", "submit.token=hunter2hunter2"])
    large = np.ones(60_000_000, np.uint8)
    large[::4096] = 2
    del large  # before the stage: no part of its peak
    with stage_log.logged(tmp_path / "run", "train") as work:
        held = np.ones(30_000_000, np.uint8)
        time.sleep(0.05)
        work.images, work.device = 12, "a TPU"
        del held
    (row,) = stage_log.read(tmp_path / "run")
    assert row["stage"] == "train" and 0.05 <= row["seconds"] < 5 and row["peak_mb"] > 30
    assert (row["images"], row["device"]) == (12, "a TPU") and row["versions"]["numpy"] == np.__version__
    assert row["command"] == "guie train a.yaml submit.token=***" and "cores" in row["machine"]


def test_what_is_done_already_adds_nothing_and_what_was_stopped_counts(tmp_path):
    with stage_log.logged(tmp_path, "tfrecords") as work:
        work.skip = True
    with pytest.raises(ValueError, match="fault"), stage_log.logged(tmp_path, "train"):
        raise ValueError("fault")
    with stage_log.logged(None, "train"):
        pass
    assert stage_log.read(tmp_path) == [] and not [*tmp_path.iterdir()]
    with pytest.raises(Stopped), stage_log.logged(tmp_path, "train") as work:
        work.images = 9
        raise Stopped("hours are over")
    assert [(row["stage"], row["images"]) for row in stage_log.read(tmp_path)] == [("train", 0)]


def test_a_line_that_was_cut_off_costs_no_other(tmp_path):
    for stage in ("train", "export"):
        with stage_log.logged(tmp_path, stage):
            pass
    path = tmp_path / stage_log.NAME
    path.write_bytes(path.read_bytes()[:-40])
    with stage_log.logged(tmp_path, "score"):
        pass
    assert [row["stage"] for row in stage_log.read(tmp_path)] == ["train", "score"]
    path.write_text(json.dumps([1]) + "\n\xff\n{}\n")
    assert stage_log.read(tmp_path) == []
    whole = {"stage": "train", "seconds": 1.5}
    damaged = [{"stage": ["a"]}, {"seconds": None}, {"images": "9"}, {"versions": []}, {"command": 1}]
    path.write_text("\n".join(json.dumps(row) for row in [whole, *({**whole, **each} for each in damaged)]))
    assert stage_log.read(tmp_path) == [whole]
