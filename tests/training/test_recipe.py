"""What a training config asks for is checked before anything starts, and means what it says."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from pipeline import cli, config
from pipeline.models import backbones, catalogue, embedder, encoders
from pipeline.models.weights.variables import float_variables
from pipeline.planning import accelerators, estimates
from pipeline.training import checkpoints, class_centers, optimizers
from pipeline.training.class_centers import PER_REPLICA

CONFIG = """
records:
  sources: [{layout: drawn, name: drawn, options: {classes: 6, images_per_class: 6, image_size_px: 32}}]
  split: {by: class, train: 0.6666667, validation: 0.3333333}
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: class_token
  architecture: {patch_size: 8, hidden_dim: 16, num_layers: 1, num_heads: 2, intermediate_dim: 32}
embedder: {embedding_dim: 8}
train:
  checkpoint_every_steps: 2
  checkpoints_kept: 99
  phases: [{name: head, trainable: head, epochs: 2, batch_size: 8, learning_rate: 1.0e-2}]
"""
FOUR = [accelerators.find("4xA100")]  # gradients stand apart there; a TPU has them where activations were
TINY_RATE = "train.phases.0.learning_rate=1.0e-12"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, list[str]]:
    """A config, and overrides that name its records."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.yaml").write_text(CONFIG)
    assert cli.main(["tfrecords", str(folder / "small.yaml"), f"run_dir={folder}"]) == 0
    globs = [
        f"train.{key}=[{folder}/records/*-{split}-*.tfrec]"
        for key, split in (("records", "train"), ("validation", "validation"))
    ]
    return folder / "small.yaml", globs


def train(drawn, run_dir: Path, *overrides: str) -> dict[str, np.ndarray]:
    """The newest checkpoint's tensors."""
    path, globs = drawn
    assert cli.main(["train", str(path), f"run_dir={run_dir}", *globs, *overrides]) == 0
    return load_file(checkpoints.newest(run_dir / "checkpoints"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.seed=-1", "train.seed: expected 0 …"),
        ("train.log_every_steps=0", "expected 1 or more, got 0"),
        ("train.checkpoint_every_steps=0", "expected 1 or more, got 0"),
        ("train.optimizer.accumulate_steps=0", "expected 1 or more, got 0"),
        ("train.optimizer.ema=1.5", "train.optimizer.ema: expected 0 … 0.9999999, got 1.5"),
        ("train.loss.subcenters=0", "expected 1 or more, got 0"),
        ("embedder.dropout=1.0", "embedder.dropout: expected 0 … 0.999, got 1"),
        ("train.phases.0.epochs=0", "train.phases.0.epochs: expected above 0, got 0"),
        ("train.phases.0.augment.crop_aspect_max=0", "expected 1 or more, got 0"),
        ("devices.replicas=-1", "expected 0 or more, got -1"),
        ("train.phases=[]", "at least one phase"),
    ],
)
def test_values_that_cannot_be_end_in_one_line(drawn, tmp_path, override, said, capsys):
    for command in ("train", "plan"):
        assert cli.main([command, str(drawn[0]), f"run_dir={tmp_path}/run", override]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file_ends_in_one_line(drawn, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["train", str(drawn[0]), f"run_dir={tmp_path}/file", *drawn[1]]) == 2
    error = capsys.readouterr().err
    assert "file" in error and error.count("\n") == 1


def test_a_refused_run_leaves_the_config_as_run(drawn, tmp_path, capsys):
    train(drawn, tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    assert cli.main(["run", str(drawn[0]), f"run_dir={tmp_path}", *drawn[1], "train.seed=5", "score.index=[]"]) == 2
    assert "another recipe" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.faults("stale results")
def test_features_of_another_pooling_are_computed_anew(drawn, tmp_path):
    train(drawn, tmp_path)
    one = set((tmp_path / "features").rglob("features.npy"))
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    train(drawn, tmp_path, "encoder.pooling=mean")
    assert len(set((tmp_path / "features").rglob("features.npy")) - one) == len(one) == 2


def test_a_head_that_init_from_gives_is_not_thrown_away_for_pca(drawn, tmp_path):
    first = train(drawn, tmp_path / "first")
    path = checkpoints.newest(tmp_path / "first/checkpoints")
    again = train(drawn, tmp_path / "again", f"train.init_from={path}", "embedder.init=pca", TINY_RATE)
    np.testing.assert_allclose(again["embedder/embedding/kernel"], first["embedder/embedding/kernel"], atol=1e-6)


def test_training_starts_from_the_weights_that_the_config_names(drawn, tmp_path):
    section = config.load(config.Run, drawn[0], []).encoder
    entry = catalogue.find(section.name, section.architecture)
    backbone = backbones.make(entry, entry.image_size_px)
    backbones.hub_variables(entry, backbone)  # sets the ids of positions
    backbone.save_weights(tmp_path / "hub.weights.h5")
    weights = f"file:{tmp_path}/hub.weights.h5"
    tensors = train(drawn, tmp_path / "run", f"encoder.weights={weights}", "train.phases.0.trainable=all", TINY_RATE)
    expected = encoders.build(replace(section, weights=weights)).model
    for name, variable in float_variables(expected).items():
        np.testing.assert_allclose(tensors[f"embedder/{name}"], variable, atol=1e-6, err_msg=name)


def test_averaged_weights_are_validated_and_exported_within_a_phase_too(drawn, tmp_path):
    steps = ["train.optimizer.ema=0.5", "train.phases.0.epochs=2", "train.validate_every_epochs=0.5"]
    train(drawn, tmp_path, *steps)
    last = checkpoints.newest(tmp_path / "checkpoints")
    last.unlink()  # the one before is of the middle of the phase
    middle = load_file(checkpoints.newest(tmp_path / "checkpoints"))
    average = middle["optimizer/adamw/embedding_kernel_average"]
    assert np.abs(average - middle["embedder/embedding/kernel"]).max() > 1e-4
    run = config.load(config.Run, drawn[0], [f"run_dir={tmp_path}", *steps])
    np.testing.assert_array_equal(checkpoints.load_trained(run).variables["embedder/embedding/kernel"], average)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation/mP@5" in row for row in rows) >= 3


def test_biases_scales_and_tokens_are_not_decayed(drawn):
    run = config.load(config.Run, drawn[0], [])
    variables = embedder.build(run).model.trainable_variables
    built = optimizers.build(config.Optimizer(weight_decay=0.1), 1e-3, variables, [1.0] * len(variables))
    decayed = {v.path.rsplit("/", 1)[-1] for v in variables if built.factors[built._var_key(v)][1]}
    kept = {v.path.rsplit("/", 1)[-1] for v in variables if not built.factors[built._var_key(v)][1]}
    assert decayed == {"kernel", "embeddings"} and {"bias", "gamma", "beta"} <= kept


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_the_rate_warms_up_and_falls_by_a_cosine_to_its_end(warmup_epochs):
    phase = config.Phase(
        name="head", trainable="head", epochs=10, batch_size=8, learning_rate=0.1,
        end_learning_rate=0.02, warmup_epochs=warmup_epochs,
    )  # fmt: skip
    rate = optimizers.schedule(phase, steps=50, steps_per_epoch=5)
    warm = 5 * warmup_epochs
    obvious = [
        0.1 * step / warm if step < warm else 0.02 + 0.08 * (1 + np.cos(np.pi * (step - warm) / (50 - warm))) / 2
        for step in range(51)
    ]
    np.testing.assert_allclose([float(rate(step)) for step in range(51)], obvious, atol=1e-6)


def test_random_centers_are_small_and_come_from_the_seed():
    """A gradient turns a short centre far: the steps of a learning rate depend on the start's length."""
    one, same, other = (
        np.asarray(class_centers.build(500, 2, 64, seed, False, tf.distribute.get_strategy()).variable)
        for seed in (1, 1, 2)
    )
    assert one.shape == (500, 2, 64) and abs(one.std() / 0.01 - 1) < 0.02 and abs(one.mean()) < 1e-4
    assert np.array_equal(one, same) and not np.allclose(one, other)


@pytest.mark.parametrize(("name", "ema", "slots"), [("adamw", None, 2), ("adamw", 0.9, 3), ("sgd", None, 1)])
def test_per_replica_slots_are_among_the_optimizer_s_variables_and_so_in_checkpoints(name, ema, slots):
    centers = keras.Variable(np.ones((5, 3), np.float32), name="centers", **PER_REPLICA)
    built = optimizers.build(config.Optimizer(name=name, ema=ema), 1e-3, [centers], [1.0])
    assert [tuple(variable.shape) for variable in built.variables].count((5, 3)) == slots


def test_the_plan_gives_each_replica_its_shard_of_the_classes(drawn):
    whole, sharded = (
        estimates.plan_phase(run, 0, estimates.SetSize(10**6, 10**5, ""), 0.35, FOUR).estimates["4xA100"].memory
        for run in (config.load(config.Run, drawn[0], [f"train.loss.sharded={on}"]) for on in ("false", "true"))
    )
    spared = 10**5 * 8 * 3 / 4  # numbers, of four replicas
    assert whole["optimizer"] - sharded["optimizer"] == 8 * spared  # Adam's two moments in float32
    assert whole["gradients"] - sharded["gradients"] == 4 * spared


def test_the_plan_of_a_phase_that_trains_the_encoder_alone_spares_no_gradients_of_classes(drawn):
    overrides = ["train.phases.0.trainable=encoder", "encoder.architecture.hidden_dim=64"]
    whole, sharded = (
        estimates.plan_phase(run, 0, estimates.SetSize(10**6, 1000, ""), 0.35, FOUR).estimates["4xA100"].memory
        for run in (
            config.load(config.Run, drawn[0], [*overrides, f"train.loss.sharded={on}"]) for on in ("false", "true")
        )
    )
    assert whole["gradients"] == sharded["gradients"] and whole["weights"] > sharded["weights"]
