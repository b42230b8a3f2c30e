"""Training: mAP rises, a killed run ends where an unbroken one does, broken images are named."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.similar import train
from pipeline.similar.embedder import build_head


def test_map_at_k_of_a_worked_example():
    """Three points on a line: a, b of class 0 with c of class 1 between them."""
    table = train.map_scores(np.array([[0.0, 0], [0.1, 0], [0.3, 0]], np.float32), np.array([0, 1, 0]))
    # query a: c, b → AP@1 0, AP@3 = 1/2; query c has no match: 0; query b: c, a → as a
    assert table["mAP@1"] == 0 and table["mAP@3"] == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_an_untrained_head_keeps_the_order_of_the_features():
    """Orthogonal and as wide as the features: all distances stay what they were."""
    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    head = build_head(8, 8, seed=1)(rows).numpy()
    np.testing.assert_allclose(unit @ unit.T, head @ head.T, atol=1e-5)


def test_training_raises_map_and_the_embedder_can_be_searched(config_file: str, tmp_path: Path, run):
    assert "two mAP@5" in run("train", config_file)[-1]
    sets = json.loads((tmp_path / "run" / "train_metrics.json").read_text())["sets"]
    assert [row["set"] for row in sets] == ["one", "two"]
    assert sets[1]["after"]["mAP@5"] > sets[0]["before"]["mAP@5"] + 0.02
    assert sets[1]["before"] == sets[0]["after"]  # the second set goes on where the first ended
    run("search", config_file, "method=embedder")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["method"] == "embedder" and metrics["queries"] == 24 and metrics["index"] == 48


@pytest.mark.faults("kill")
def test_killed_training_ends_where_an_unbroken_one_does(config_file: str, tmp_path: Path, run, monkeypatch):
    short = ["triplets.sets.1.epochs=3"]
    run("train", config_file, *short)
    whole = dict(np.load(tmp_path / "run" / "embedder.npz"))
    real, calls = train.train_epoch, []

    def killed_in_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "train_epoch", killed_in_the_fourth)
    run("train", config_file, *short, f"run_dir={tmp_path / 'again'}", code=130)
    run("train", config_file, *short, f"run_dir={tmp_path / 'again'}")
    assert len(calls) == 4 + 2  # one whole epoch of the second set was kept
    resumed = dict(np.load(tmp_path / "again" / "embedder.npz"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    metrics = [json.loads((tmp_path / each / "train_metrics.json").read_text()) for each in ("run", "again")]
    assert metrics[0] == metrics[1] and all(row["before"] for row in metrics[0]["sets"])


@pytest.mark.faults("kill")
def test_a_set_killed_before_its_validation_is_validated_and_no_epoch_is_repeated(
    config_file: str, tmp_path: Path, run, monkeypatch
):
    short = [f"triplets.sets.{i}.epochs=1" for i in (0, 1)]
    real, calls = train.validate, []

    def killed_in_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "validate", killed_in_the_fourth)
    run("train", config_file, *short, code=130)
    state = (tmp_path / "run" / "embedder.npz").read_bytes()
    lines = run("train", config_file, *short)
    assert "similar train: one is done" in lines and not any(", epoch " in line for line in lines)
    assert len(calls) == 4 + 1 and state == (tmp_path / "run" / "embedder.npz").read_bytes()
    sets = json.loads((tmp_path / "run" / "train_metrics.json").read_text())["sets"]
    assert [row["set"] for row in sets] == ["one", "two"]
    assert all(row["before"] and row["after"] for row in sets)
    assert "similar train: two is done" in run("train", config_file, *short)


def test_training_that_diverges_is_one_line(config_file: str, run, monkeypatch):
    monkeypatch.setattr("pipeline.similar.triplets.triplet_loss", lambda embeddings, *_: embeddings[0, 0] / 0.0)
    line = run("train", config_file, code=2)[-1]
    assert "one, epoch 1 of 2: the loss is" in line and "at step 1: lower the learning rate" in line


@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.faults("damaged image")
def test_a_broken_image_is_named_and_training_goes_on(
    config_file: str, images: Path, tmp_path: Path, run, trainable: str
):
    shutil.copytree(images, tmp_path / "broken")
    for path in ("train/red/0.png", "test/blue/1.png"):
        (tmp_path / "broken" / path).write_bytes(b"no image")
    argv = [f"data_root={tmp_path / 'broken'}", f"triplets.trainable={trainable}"]
    lines = run("train", config_file, *argv, *[f"triplets.sets.{i}.epochs=1" for i in (0, 1)])
    assert "two mAP@5" in lines[-1]
    with (tmp_path / "run" / "train_rejects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["set"], row["key"]) for row in rows] == [
        (name, key) for name in ("one", "two") for key in ("tiny/red/0.png", "tiny/blue/1.png")
    ]
    assert all(row["reason"].startswith("not an image") for row in rows)
    sets = json.loads((tmp_path / "run" / "train_metrics.json").read_text())["sets"]
    assert [row["images"] for row in sets] == [47, 47]


def test_the_whole_encoder_trains_too(config_file: str, tmp_path: Path, run):
    """An EfficientNet of the catalogue, made small, with random weights."""
    sizes = {
        "kernel_sizes": [3, 3], "num_repeats": [1, 1], "input_filters": [32, 16], "output_filters": [16, 24],
        "expansion_ratios": [1, 6], "strides": [1, 2], "squeeze_and_excite_ratios": [0.25, 0.25],
        "block_types": ["v1", "v1"], "width_coefficients": [1.0, 1.0], "depth_coefficients": [1.0, 1.0],
    }  # fmt: skip
    architecture = json.dumps({f"stackwise_{name}": values for name, values in sizes.items()})
    tiny = f"encoder={{name: efficientnet_b0, image_size_px: 32, architecture: {architecture}}}"
    options = ["triplets.trainable=all", "triplets.sets.0.epochs=1", "triplets.sets.1.epochs=1"]
    path = Path(config_file)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("encoder:")]
    path.write_text("\n".join(lines))
    run("train", config_file, tiny, *options)
    state = np.load(tmp_path / "run" / "embedder.npz")
    assert len([name for name in state if name.startswith("model/")]) > 30
    assert "mAP@5" in run("search", config_file, tiny, "method=embedder")[-2]
    assert "another encoder" in run("search", config_file, tiny, "method=embedder", "embedding_dim=7", code=2)[-1]
