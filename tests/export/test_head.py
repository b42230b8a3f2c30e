"""The head alone, taken out of a checkpoint and put on the encoder again."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from export import head
from pipeline.config import Embedder, Encoder, Phase, Run, Train
from pipeline.errors import BadInput
from pipeline.models import embedder
from pipeline.training.checkpoints import Writer
from tests.training.tiny_runs import HEAD, VIT


@pytest.fixture
def run(tmp_path) -> Run:
    encoder = Encoder("clip_tiny", image_size_px=16, architecture=VIT)
    train = Train(phases=[Phase(name="head")], seed=3)
    return Run(run_dir=str(tmp_path / "run"), encoder=encoder, embedder=Embedder(embedding_dim=8), train=train)


@pytest.fixture
def trained(run, tmp_path) -> embedder.Embedder:
    """At 24 px, in the last checkpoint; its head is another than the start's."""
    built = embedder.build(run, image_size_px=24)
    for variable in built.head.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    writer = Writer(tmp_path / "run" / "checkpoints", kept=1)
    writer.save(5, built.variables, {"image_size_px": 24, "patch_overlap_px": 0})
    writer.wait()
    return built


def test_the_head_is_written_alone_and_put_on_the_encoder_again(run, trained, tmp_path):
    head.write(run, tmp_path / "head.safetensors")
    held = load_file(tmp_path / "head.safetensors")
    assert set(held) == set(HEAD)
    for name, value in zip(HEAD, trained.head.get_weights(), strict=True):
        np.testing.assert_array_equal(held[name], value)
    attached = head.attach(run, tmp_path / "head.safetensors")
    x = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    np.testing.assert_allclose(attached.model(x), trained.model(x), atol=1e-6)


def test_batch_norm_and_pca_go_with_the_head_once_they_are_fitted(run, tmp_path):
    run = dataclasses.replace(run, embedder=Embedder(embedding_dim=8, trained_dim=12, batch_norm=True))
    built = embedder.build(run)
    for variable in built.head.variables:
        variable.assign(np.abs(np.random.default_rng(1).normal(size=variable.shape)))
    writer = Writer(tmp_path / "run" / "checkpoints", kept=1)
    writer.save(5, built.variables, {"pca_fitted": False})
    writer.wait()
    with pytest.raises(BadInput, match="no PCA of its 12 numbers is fitted"):
        head.write(run, tmp_path / "head.safetensors")
    writer.save(6, built.variables, {"pca_fitted": True})
    writer.wait()
    head.write(run, tmp_path / "head.safetensors")
    assert set(load_file(tmp_path / "head.safetensors")) == set(head.VARIABLES)
    attached = head.attach(run, tmp_path / "head.safetensors")
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(attached.model(x), built.model(x), atol=1e-6)


def test_a_head_of_another_width_is_bad_input(run, trained, tmp_path):
    head.write(run, tmp_path / "head.safetensors")
    other = dataclasses.replace(run, embedder=Embedder(embedding_dim=5))
    with pytest.raises(BadInput, match="another architecture"):
        head.attach(other, tmp_path / "head.safetensors")


def test_the_head_alone_does_not_stand_for_a_tuned_encoder(run, trained, tmp_path):
    tuned = dataclasses.replace(
        run, train=Train(phases=[Phase(name="tune", trainable="last 50 %"), Phase(name="head")])
    )
    with pytest.raises(BadInput, match="phase 'tune' trains the encoder too"):
        head.write(tuned, tmp_path / "head.safetensors")
    assert not (tmp_path / "head.safetensors").exists()
