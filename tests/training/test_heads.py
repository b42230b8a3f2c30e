"""Heads that are trained: batch norm over replicas, the PCA against a slow SVD, what is exported and souped of both."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline import cli, config
from pipeline.data.records import open_records
from pipeline.training import checkpoints, devices, phases, train
from tests.training.tiny_runs import HEAD, TinyRuns, Trained, pictures, unit

BOTH = ("embedder.trained_dim=10", "embedder.batch_norm=true")
FROZEN = "train.phases=[{name: head, trainable: head, epochs: 2, batch_size: 8, learning_rate: 0.01}]"
WIDTH = 12  # of the tiny encoder's features


def slow_pca(rows: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean [T], axes [T, D]) by the SVD of the centred rows."""
    mean = rows.astype(np.float64).mean(axis=0)
    return mean, np.linalg.svd(rows - mean, full_matrices=False)[2][:dim].T


def through_head(tensors: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Features [B, W] → [B, T] of unit length, by the head's formula."""
    mean, variance = (tensors[f"embedder/batch_norm/{name}"] for name in ("mean", "variance"))
    seen = (unit(features) - mean) / np.sqrt(variance + 1e-6 / WIDTH)
    kernel, bias = (tensors[name] for name in HEAD)
    return unit(seen @ kernel + bias)


def reduced(trained: np.ndarray, dim: int) -> np.ndarray:
    """float [N, N]: cosines after the slow PCA of `trained`; of cosines the axes' signs are no part."""
    mean, axes = slow_pca(trained, dim)
    found = unit((trained - mean) @ axes)
    return found @ found.T


@pytest.fixture(scope="module")
def made(tiny: TinyRuns) -> Trained:
    return tiny.train("reduced", *BOTH)


def test_the_pca_is_a_slow_svds_and_the_export_serves_it(tiny, made):
    last = made.tensors(8)
    images = pictures(made.records(), np.arange(32))
    trained = through_head(last, made.features(8, images))
    assert trained.shape == (32, 10) and last["embedder/pca/kernel"].shape == (10, 8)
    wanted = reduced(trained, 8)
    mean, axes = last["embedder/pca/bias"], last["embedder/pca/kernel"]
    found = unit(trained @ axes + mean)
    np.testing.assert_allclose(found @ found.T, wanted, atol=1e-4)
    assert cli.main(["export", str(tiny.config), f"run_dir={made.folder}", *BOTH]) == 0
    serve = tf.saved_model.load(str(made.folder / "export/saved_model")).signatures["serving_default"]
    served = np.concatenate([serve(images=image[None])["embedding_norm"].numpy() for image in images])
    np.testing.assert_allclose(served, found, atol=1e-5)
    np.testing.assert_allclose(served @ served.T, wanted, atol=1e-4)
    assert "embedding_dim: `8`" in (made.folder / "export/model_card.md").read_text()


def test_a_checkpoint_within_a_phase_is_not_exported(tiny, made, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(made.folder / "checkpoints/step-000000003.safetensors", tmp_path / "checkpoints")
    assert cli.main(["export", str(tiny.config), f"run_dir={tmp_path}", *BOTH]) == 2
    assert "no PCA of its 10 numbers is fitted" in capsys.readouterr().err


def test_no_more_records_than_asked_are_read_for_the_pca(tiny, monkeypatch):
    counts = []
    fit = phases.fit_pca

    def counted(run, embedder, features, records):
        class Counting:
            def of(self, part, what):
                counts.append(len(part))
                return features.of(part, what)

        fit(run, embedder, Counting(), records)

    monkeypatch.setattr(train, "fit_pca", counted)
    frozen = "train.phases=[{name: head, trainable: head, epochs: 0.5, batch_size: 8, learning_rate: 0.01}]"
    found = tiny.train("fewer", *BOTH, "embedder.pca_images=20", frozen)
    assert counts == [20] and found.tensors(2)["embedder/pca/kernel"].std() > 0


@pytest.mark.parametrize("init", ["pca", "lda"])
def test_a_start_means_the_same_behind_batch_norm(tiny, init):
    embedded = []
    for batch_norm in ("false", "true"):
        asked = [f"run_dir={tiny.folder}/none", f"embedder.init={init}", f"embedder.batch_norm={batch_norm}"]
        run = config.load(config.Run, tiny.config, asked)
        found = devices.connect(run.devices)
        data = train.open_data(run, open_records(run.train.records))
        phase = phases.plan_phase(run, found, data.classes, 0)
        state = phases.prepare(run, found, phase, len(data.classes.labels), None)
        features = np.random.default_rng(3).normal(1, 1, (32, WIDTH)).astype("f4")
        phases.start_from_features(run, state, init, features, data.classes)
        embedded.append((np.asarray(state.embedder.head(features)), np.array(state.centers.variable)))
    for plain, behind in zip(*embedded, strict=True):
        np.testing.assert_allclose(behind, plain, atol=1e-4)


def test_what_a_head_cannot_be_is_bad_input(tiny, capsys):
    assert tiny.refused("refused", "embedder.trained_dim=8")
    assert "expected more than embedding_dim 8" in capsys.readouterr().err
    assert tiny.refused("refused", "embedder.trained_dim=400", "embedder.init=lda")
    assert "expected at least the 400 of the head" in capsys.readouterr().err
    assert tiny.refused("refused", "embedder.trained_dim=20", "embedder.init=pca")
    assert "12 axes are all that pca finds" in capsys.readouterr().err
    assert tiny.refused("refused", "embedder.batch_norm=true", "train.optimizer.accumulate_steps=2")
    assert "accumulate_steps=1" in capsys.readouterr().err
    assert tiny.refused("refused", "embedder.batch_norm=true", "train.phases.0.average_from=0.5")
    assert "not of an average of them" in capsys.readouterr().err


@pytest.mark.slow
def test_a_soups_pca_is_fitted_anew(tiny, made, capsys):
    # As many images of a class in a batch are another order: the runs differ in that alone.
    pairs = "train.phases.0.sampling={images_per_class: 2}"
    one, other = tiny.train("one", *BOTH, FROZEN), tiny.train("other", *BOTH, FROZEN, pairs)
    out = tiny.folder / "soup"
    assert cli.main(["soup", str(one.folder), str(other.folder), "--out", str(out)]) == 0
    path = checkpoints.newest(out / "checkpoints")
    assert path is not None and checkpoints.read_state(path)["pca_fitted"]
    soup = tiny.trained("soup", *BOTH, FROZEN).tensors(8)
    first, second = one.tensors(8), other.tensors(8)
    for name in (*HEAD, "embedder/batch_norm/mean"):
        assert np.abs(first[name] - second[name]).max() > 1e-6
        np.testing.assert_allclose(soup[name], (first[name] + second[name]) / 2, atol=1e-6)
    mean = (first["embedder/pca/kernel"] + second["embedder/pca/kernel"]) / 2
    assert np.abs(soup["embedder/pca/kernel"] - mean).max() > 1e-3
    built = tiny.trained("soup", *BOTH, FROZEN)
    images = pictures(one.records(), np.arange(32))
    trained = through_head(soup, built.features(8, images))
    found = unit(trained @ soup["embedder/pca/kernel"] + soup["embedder/pca/bias"])
    np.testing.assert_allclose(found @ found.T, reduced(trained, 8), atol=1e-4)
    assert cli.main(["export", str(out / "config.yaml")]) == 0 and (out / "submission.zip").is_file()
    capsys.readouterr()
    tuned = tiny.train("tuned", *BOTH, pairs)  # batch norm's statistics of two encoders have no mean
    assert cli.main(["soup", str(made.folder), str(tuned.folder), "--out", str(out / "b")]) == 2
    assert "batch norm's statistics are of one encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_batch_norm_on_four_replicas_and_under_xla_is_one_replicas(tiny):
    """Losses of six steps of the whole network, and the moving statistics that they leave."""
    own = ["embedder.batch_norm=true", "embedder.trained_dim=10", f"run_dir={tiny.folder}/none"]
    own += ["devices.kind=cpu", "train.loss.subcenters=2", "embedder.dropout=0.2"]
    found = []
    for more in ([], ["devices.replicas=4"], ["devices.replicas=4", "train.compile=true"]):
        script = [sys.executable, "-m", "tests.training.config_steps", str(tiny.config), "0", "6", *own, *more]
        done = subprocess.run(script, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    plain, *others = found
    assert plain["losses"][-1] < plain["losses"][0]
    for each in others:
        np.testing.assert_allclose(each["losses"], plain["losses"], atol=1e-5, rtol=1e-5)
        for name in ("mean", "variance"):
            name = f"embedder/batch_norm/{name}"
            np.testing.assert_allclose(each["weights"][name], plain["weights"][name], rtol=1e-4)
