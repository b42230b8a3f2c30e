"""References of a run's score."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Embedder, Encoder, Run, Score, Train
from pipeline.evaluation import pml_arcface, references
from tests.tfrecords import shard_files
from tfrecords.shards import ShardWriter, index_path

TINY = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}


def run_of(folder, *rows: str) -> Run:
    return Run(
        run_dir=str(folder),
        encoder=Encoder(name="clip_vit_b_32", image_size_px=16, pooling="class_token", architecture=TINY),
        embedder=Embedder(embedding_dim=4),
        train=Train(seed=5),
        score=Score(references=list(rows)),
    )


@pytest.fixture
def trained_on(tmp_path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [40, 16, 16, 3] and labels of a run's training records."""
    random = np.random.default_rng(0)
    path = tmp_path / "records" / "a-train-00-40.tfrec"
    path.parent.mkdir()
    writer, images, labels = ShardWriter(path), [], np.arange(40) % 5 * 3
    for number, label in enumerate(labels.tolist()):
        encoded = shard_files.jpeg(random.integers(0, 255, (16, 16, 3)).astype(np.uint8))
        writer.write(shard_files.example(encoded, label, f"{number}", "a"))
        images.append(tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy())
    writer.close()
    index_path(path).write_text(writer.index_text(), encoding="ascii")
    return np.stack(images), labels


def assert_same_neighbours(found: np.ndarray, expected: np.ndarray) -> None:
    """By their products: an axis may point either way."""
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-4)


def test_components_are_fitted_on_the_training_images_and_half_whitened_ones_divided(tmp_path, trained_on):
    rows = references.References(run_of(tmp_path, "pca", "half_whitened"))
    other = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)
    found = rows.finish({"features": other})
    assert list(found) == ["pca4", "half_whitened4"] and list((tmp_path / "features").iterdir())

    trained = rows.encode(trained_on[0])
    trained, unit = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (trained, other))
    mean = trained.mean(axis=0)
    _, spread, axes = np.linalg.svd(trained - mean)
    projected = (unit - mean) @ axes[:4].T
    assert_same_neighbours(found["pca4"], projected)
    variances = spread[:4] ** 2 / (len(trained) - 1)
    assert_same_neighbours(found["half_whitened4"], projected / variances**0.25)


def test_the_other_librarys_head_is_trained_on_the_training_features_and_their_classes(
    tmp_path, trained_on, monkeypatch
):
    given = []

    def fit(*arguments):
        given.extend(arguments)
        return np.eye(16, 4, dtype=np.float32), np.ones(4, np.float32)

    monkeypatch.setattr(pml_arcface, "fit", fit)
    run = run_of(tmp_path, "pml_arcface")
    rows = references.References(run)
    other = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)
    found = rows.finish({"features": other})["pml_arcface"]
    np.testing.assert_allclose(given[0], rows.encode(trained_on[0]), atol=1e-4)
    assert given[1].tolist() == (trained_on[1] // 3).tolist() and given[2:] == [4, run.train.loss, 5]
    expected = other[:, :4] / np.linalg.norm(other, axis=1, keepdims=True) + 1
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_a_row_that_cannot_be_had_is_left_out_with_a_line(tmp_path, trained_on, monkeypatch, capsys):
    (tmp_path / "pytorch_metric_learning.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)
    found = references.References(run_of(tmp_path, "raw_features", "pca", "pml_arcface")).finish({"features": other})
    assert list(found) == ["raw_features", "pca4"]
    assert "without the row pml_arcface: pml_arcface needs torch" in capsys.readouterr().out
    (gone := tmp_path / "gone").mkdir()
    found = references.References(run_of(gone, "pca", "pml_arcface")).finish({"features": other})
    assert list(found) == ["pca4"] and "train.records, which are gone" in capsys.readouterr().out


def test_queries_are_projected_on_the_indexs_principal_components(tmp_path):
    run = run_of(tmp_path, "pca")
    rng = np.random.default_rng(0)
    index, queries, other = (rng.normal(size=(count, 16)) * rng.random(16) for count in (40, 9, 50))
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "train-ffff.npy", other)  # of an encoder that a later phase trained
    rows = references.References(run)
    found = [rows.finish({"features": each})["pca4"] for each in (index, queries)]

    index, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (index, queries))
    axes = np.linalg.svd(index - index.mean(axis=0))[2][:4].T
    expected = [(each - index.mean(axis=0)) @ axes for each in (index, queries)]
    expected = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in expected]
    # Products, because an axis may point either way.
    np.testing.assert_allclose(found[1] @ found[0].T, expected[1] @ expected[0].T, atol=1e-5)
