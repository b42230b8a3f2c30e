"""What the notebooks show: a sample of labelled images, their neighbours, mP@5 on them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInput
from pipeline.evaluation.embedders import Submission
from pipeline.pages import samples
from pipeline.retrieval.metrics import mean_precision_at_5


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Four classes by colour, of five images each and one that cannot be read; a class of one image."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(["a", "b", "c", "d", "single"]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for image in range(1 if name == "single" else 5):
            pixels = np.full((20 + image, 30, 3), 60 * number) + rng.integers(0, 9, (20 + image, 30, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / name / f"{image}.png")
    (tmp_path / "photos" / "a" / "9.png").write_bytes(b"no image")
    return str(tmp_path / "photos")


def mean_colour(images: np.ndarray) -> np.ndarray:
    return images.mean((1, 2)).astype(np.float32) / 255


def test_a_sample_is_of_several_images_a_class_and_scored_by_the_metric(folder):
    sample = samples.take([folder], classes=4, images_per_class=6)
    assert len(sample.images) == 20 and sorted(set(sample.names)) == ["a", "b", "c", "d"]  # none unread, none alone
    vectors = samples.embedded(sample, Submission("mean colour", mean_colour, 3, "0"))
    assert vectors.shape == (20, 3)  # images of several sizes, one at a time
    line = samples.line(sample, vectors)
    assert line.startswith("**mP@5 1.0000 ±0.000** of 20 images of 4 classes") and "too few" in line
    worst = np.roll(vectors, 1, axis=0)[np.random.default_rng(1).permutation(20)]
    hits = [[float(sample.labels[j] == sample.labels[i]) for j in nearest(worst, i)] for i in range(20)]
    expected = mean_precision_at_5(np.array(hits) > 0, np.full(20, 4))
    assert f"mP@5 {expected:.4f}" in samples.line(sample, worst)


def nearest(vectors: np.ndarray, row: int) -> list[int]:
    distances = np.linalg.norm(vectors - vectors[row], axis=1)
    return [i for i in np.argsort(distances, kind="stable").tolist() if i != row][:5]


def test_the_pictures_say_in_words_what_they_show(folder):
    sample = samples.take([folder], classes=4)
    vectors = samples.embedded(sample, Submission("mean colour", mean_colour, 3, "0"))
    rows = samples.neighbour_rows(sample, vectors, queries=3)
    assert rows.count("<figure") == 18 and "class a: 4 of 5 right" in rows
    assert rows.count("✓ same") == 12 and rows.count("✗ ") == 3
    assert samples.row_of(sample).count("<figcaption>class ") == 4


def test_without_data_images_are_drawn_and_shards_or_classes_that_are_missing_are_named(tmp_path):
    drawn = samples.take([], classes=3, images_per_class=2)
    assert len(drawn.images) == 6 and drawn.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "one" / "0.png")
    with pytest.raises(BadInput, match="classes of two images or more"):
        samples.take([str(tmp_path)])
    with pytest.raises(BadInput, match="no shard matches"):
        samples.take([f"{tmp_path}/*-test-*.tfrec"])
