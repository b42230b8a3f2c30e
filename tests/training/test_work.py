"""The achieved FLOP/s of the log, against the matrix products of a transformer counted one by one."""

import json
import re
from dataclasses import replace

import pytest

from pipeline.planning.accelerators import CHIPS
from pipeline.training import devices, metrics_log, train
from pipeline.training.metrics_log import Work
from tests.training.tiny_runs import TUNE, VIT

SIDE, DIM, CLASSES = 16, 8, 8
OVERRIDES = [
    "encoder={name: clip_tiny, image_size_px: 16, pooling: class_token, checkpointing: true, architecture: "
    + json.dumps(VIT) + "}",
    f"train.phases={json.dumps([{**TUNE, 'epochs': 1}])}",
]  # fmt: skip


def product(rows: int, inner: int, columns: int) -> int:
    """FLOPs, with those of both gradients."""
    return 3 * 2 * rows * inner * columns


def slow_flops() -> int:
    """Of one image, forward and backward."""
    patch, width, inner = VIT["patch_size"], VIT["hidden_dim"], VIT["intermediate_dim"]
    patches = (SIDE // patch) ** 2
    tokens = patches + 1
    found = product(patches, 3 * patch * patch, width) * 2 // 3  # nobody asks for the pixels' gradient
    for _ in range(VIT["num_layers"]):
        found += 4 * product(tokens, width, width)  # queries, keys, values, output
        for _ in range(VIT["num_heads"]):
            found += 2 * product(tokens, width // VIT["num_heads"], tokens)  # scores, and the mean of the values
        found += product(tokens, width, inner) + product(tokens, inner, width)
    return found + product(1, width, DIM) + product(1, DIM, CLASSES)


def test_the_log_has_the_achieved_flops_and_their_share_of_a_known_chips_peak(tiny, monkeypatch):
    connect, rates, given = devices.connect, Work.rates, []
    monkeypatch.setattr(train.devices, "connect", lambda options: replace(connect(options), chip=CHIPS["T4"]))
    monkeypatch.setattr(metrics_log.Work, "rates", lambda self, *asked: given.append(asked) or rates(self, *asked))
    compiled, *rows = tiny.train("worked", *OVERRIDES).rows()
    # The first step compiles, and is no measure of training.
    assert compiled["compile_seconds"] > 0 and not {"teraflops_per_replica", "images_per_second"} & compiled.keys()
    assert len(rows) == len(given) == 3
    for row, (images, seconds) in zip(rows, given, strict=True):
        assert "compile_seconds" not in row and row["images_per_second"] > 0
        assert images == TUNE["batch_size"] and seconds > 0
        achieved = images * slow_flops() / seconds
        assert row["teraflops_per_replica"] == pytest.approx(achieved / 1e12)
        assert row["mfu"] == pytest.approx(achieved / CHIPS["T4"].peak_flops)


def test_on_a_processor_there_is_no_peak_and_replicas_share_the_work(tiny):
    rows = tiny.train("unknown chip", *OVERRIDES).rows()
    assert all(row["teraflops_per_replica"] > 0 for row in rows[1:]) and not any("mfu" in row for row in rows)


def test_steps_after_the_first_are_timed_without_it_and_the_losses_are_those_of_one_call(tiny, capsys, monkeypatch):
    """Four steps a row, of which the first is a call of its own; the losses of single steps are the same numbers."""
    given, rates = [], Work.rates
    monkeypatch.setattr(metrics_log.Work, "rates", lambda self, *asked: given.append(asked) or rates(self, *asked))
    few = ["train.log_every_steps=9", "train.checkpoint_every_steps=9"]
    (row,) = tiny.train("timed", OVERRIDES[1], *few).rows()
    assert [images for images, _ in given] == [3 * TUNE["batch_size"]]
    assert row["compile_seconds"] > 0
    assert re.search(r"train tune: compiled in \d+\.\d s, the first step included", capsys.readouterr().out)
    single = tiny.train("timed-step-by-step", OVERRIDES[1]).losses()
    assert row["loss"] == pytest.approx(sum(single) / 4, rel=1e-5) and len(single) == 4


def test_a_chip_is_not_needed_for_the_rate():
    assert Work(2e12, 4, None).rates(10, 5.0) == {"teraflops_per_replica": 1.0}
