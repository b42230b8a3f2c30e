"""A fold is validated as it would be served: at every size, on the tuned weights, by slow and obvious means."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from pipeline import cli
from pipeline.data import folds
from pipeline.data.sampler import Positions
from pipeline.retrieval import intervals
from pipeline.training.train import PRECISIONS
from tests.training.tiny_runs import TUNE, VIT, Trained, embedded, pictures, slow_arcface

HEAD = {"name": "head", "trainable": "head", "epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
OVERRIDES = [
    "encoder={name: clip_tiny, image_size_px: 16, pooling: class_token, architecture: " + json.dumps(VIT) + "}",
    "embedder.sizes_px=[16,24]",
    "train.fold=classes 1/2",
    f"train.phases={json.dumps([{**TUNE, 'epochs': 1}, HEAD])}",
]
STEPS = 6  # two of the first phase, four of the second: half of the images are held out


@pytest.fixture(scope="module")
def trained(tiny) -> Trained:
    """A transformer, whose positions are tuned and resampled."""
    return tiny.train("validated", *OVERRIDES)


@pytest.fixture(scope="module")
def held(trained) -> np.ndarray:
    records = trained.records()
    return folds.held_out("classes 1/2", records.labels, records.domains)


def slow_precisions(embeddings: np.ndarray, labels: np.ndarray) -> list[float]:
    found = []
    for query, label in enumerate(labels):
        others = sorted((-float(embeddings[query] @ embeddings[j]), j) for j in range(len(labels)) if j != query)
        matches = min(5, int((labels == label).sum()) - 1)
        found.append(sum(labels[j] == label for _, j in others[:matches]) / matches)
    return found


def test_a_fold_is_validated_on_what_it_holds_out_at_every_size(trained, held):
    records = trained.records()
    features = trained.features(STEPS, pictures(records, np.flatnonzero(held)), (16, 24))
    expected = slow_precisions(embedded(trained.tensors(STEPS), features), records.labels[held])
    found = np.load(trained.folder / PRECISIONS)
    assert found.dtype == np.float64 and len(found) == held.sum() == 16
    np.testing.assert_allclose(found, expected)
    scores = [row["validation/mP@5"] for row in trained.rows() if "validation/mP@5" in row]
    assert len(scores) >= 2 and scores[-1] == pytest.approx(found.mean())
    last = trained.rows()[-1]
    assert (last["validation/mP@5_low"], last["validation/mP@5_high"]) == intervals.interval(found)
    assert (last["validation/classes"], last["validation/classes_trained_on"]) == (4, 0)


def test_the_line_of_validation_says_what_it_is_of(trained, tiny, capsys):
    """A fold of four classes is unseen and small; a split of images is of classes that are trained on."""
    head = f"train.phases={json.dumps([{**HEAD, 'epochs': 1}])}"
    tiny.train("said", "train.fold=classes 1/2", head)
    said = capsys.readouterr().out
    assert re.search(
        r"mP@5 on unseen classes [01]\.\d{3} ±0\.\d{3} \(4 classes, 16 queries: too few for an estimate\)", said
    )
    keys = ["records.split={by: item, train: 0.5, validation: 0.5}", f"run_dir={tiny.folder / 'items'}"]
    assert cli.main(["tfrecords", str(tiny.config), *keys]) == 0
    records = [f"train.{key}=[{tiny.folder}/items/records/*-{split}-*.tfrec]"
               for key, split in (("records", "train"), ("validation", "validation"))]  # fmt: skip
    row = tiny.train("by item", head, *records).rows()[-1]
    said = capsys.readouterr().out
    ((trained_on, classes),) = re.findall(r"mP@5 on (\d) of (\d) classes trained on [01]\.\d{3} ±", said)
    assert "unseen" not in said and 0 < int(trained_on) <= int(classes)
    assert (row["validation/classes_trained_on"], row["validation/classes"]) == (int(trained_on), int(classes))


def test_the_head_is_trained_on_the_rest_and_on_features_of_every_size(trained, held):
    """The first loss of the second phase, from the weights after the first."""
    records, step = trained.records(), 2
    rest = np.flatnonzero(~held)
    rows = Positions(len(rest), trained.run.train.seed + 1).batch(0, 8)
    labels = np.unique(records.labels[rest], return_inverse=True)[1][rows]
    features, tensors = trained.features(step, pictures(records, rest[rows]), (16, 24)), trained.tensors(step)
    expected = slow_arcface(embedded(tensors, features), labels, tensors["centers/class_centers"])
    assert trained.losses()[step] == pytest.approx(expected, rel=1e-4)
    alone = trained.features(step, pictures(records, rest[rows]))
    other = slow_arcface(embedded(tensors, alone), labels, tensors["centers/class_centers"])
    assert abs(expected - other) > 1e-3  # one size would have another loss


def test_the_exported_embedder_gives_the_embeddings_that_were_validated(tiny, trained, held):
    assert cli.main(["export", str(tiny.config), f"run_dir={trained.folder}", *OVERRIDES]) == 0
    served = tf.saved_model.load(str(trained.folder / "export/saved_model")).signatures["serving_default"]
    images = pictures(trained.records(), np.flatnonzero(held))
    found = np.concatenate([served(images=tf.constant(image[None]))["embedding_norm"] for image in images])
    expected = embedded(trained.tensors(STEPS), trained.features(STEPS, images, (16, 24)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
