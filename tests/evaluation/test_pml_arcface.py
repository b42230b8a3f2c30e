"""The reference head that pytorch-metric-learning trains, in its own process."""

import numpy as np
import pytest

from pipeline.config import Loss
from pipeline.errors import BadInput
from pipeline.evaluation import pml_arcface
from pipeline.retrieval.metrics import mean_precision_at_5, neighbour_hits
from pipeline.retrieval.search import nearest
from pipeline.retrieval.vectors import unit_length


def features(seed: int, each: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """12 classes that differ in 6 of 32 numbers, the others being louder noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(12), each)
    told = np.random.default_rng(0).normal(size=(12, 6))[labels] + 0.3 * random.normal(size=(12 * each, 6))
    return np.hstack([told, 2 * random.normal(size=(12 * each, 26))]).astype(np.float32), labels


def score(vectors: np.ndarray, labels: np.ndarray) -> float:
    neighbours, _ = nearest(vectors, vectors, 5, leave_one_out=True)
    return mean_precision_at_5(*neighbour_hits(neighbours, labels, labels, True))


@pytest.fixture(scope="module")
def fitted():
    pytest.importorskip("pytorch_metric_learning", reason="needs pytorch-metric-learning, which is not installed")
    return pml_arcface.fit(*features(1, 1000), 8, Loss(name="arcface", scale=16.0, margin_radians=0.2), seed=3)


def test_the_head_finds_what_tells_the_classes_apart_on_images_it_never_saw(fitted):
    kernel, bias = fitted
    assert kernel.shape == (32, 8) and kernel.dtype == bias.dtype == np.float32
    unseen, labels = features(2)
    unit = unit_length(unseen)
    assert score(unit_length(unit @ kernel + bias), labels) > score(unit, labels) + 0.2


def test_the_same_seed_gives_the_same_head_and_scale_and_margin_count(fitted, monkeypatch):
    rows, labels = features(1, 1000)
    again = pml_arcface.train(rows, labels, 8, 16.0, 0.2, seed=3)
    assert all(np.array_equal(*pair) for pair in zip(fitted, again, strict=True))
    monkeypatch.setattr(pml_arcface, "EPOCHS", 2)
    first, *others = ((16.0, 0.2, 3), (16.0, 0.5, 3), (30.0, 0.2, 3), (16.0, 0.2, 4))
    kernels = [pml_arcface.train(rows, labels, 8, *each)[0] for each in (first, *others)]
    assert not any(np.allclose(kernel, kernels[0], atol=1e-3) for kernel in kernels[1:])


def test_another_loss_leaves_the_default_scale_and_margin(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command)
        raise RuntimeError

    monkeypatch.setattr(pml_arcface.subprocess, "run", run)
    with pytest.raises(RuntimeError):
        pml_arcface.fit(*features(1), 8, Loss(name="cosface", scale=7.0, margin_radians=0.9), seed=3)
    assert {"--scale=30.0", "--margin-radians=0.3"} <= set(asked[0])


def test_without_the_packages_it_is_bad_input_that_names_them(monkeypatch, tmp_path):
    (tmp_path / "pytorch_metric_learning.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"^pml_arcface needs .*pip install 'guie\[bench\]'$"):
        pml_arcface.fit(*features(1), 8, Loss(), seed=3)
