"""`import pipeline`: ten lines to load an embedder, embed, search and score; light until it is used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pipeline
from pipeline.errors import BadInput
from pipeline.evaluation import api
from tests.evaluation.tiny import MeanColour, jpeg, save
from tfrecords import pixels

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> pipeline.Embedder:
    return pipeline.load(save(MeanColour(), tmp_path_factory.mktemp("model") / "saved_model"))


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):  # two sizes in turn
        jpeg(path, (40 * number, 90, 200 - 30 * number), (32, 24) if number % 2 else (20, 30))
    return paths


def test_importing_it_loads_neither_tensorflow_nor_numpy():
    script = "import sys, pipeline; print(dir(pipeline)); assert not {'tensorflow', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and all(f"'{name}'" in done.stdout for name in pipeline.__all__), done.stderr
    with pytest.raises(AttributeError, match="no attribute 'embed'"):
        pipeline.embed  # noqa: B018


def test_paths_arrays_and_pillow_images_give_the_same_vectors_in_order(embedder, files):
    arrays = [np.asarray(Image.open(path)) for path in files]
    expected = np.concatenate([embedder._submission.embed(each[None]) for each in arrays])
    mixed = [str(files[0]), files[1], arrays[2], Image.open(files[3]), Image.open(files[4]).convert("RGBA")]
    for images in (files, arrays, mixed):
        for batch_size in (2, 64):
            found = embedder.embed(images, batch_size)
            assert found.dtype == np.float32 and found.shape == (5, embedder.embedding_dim) == (5, 12)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    stacked = embedder.embed(np.stack([arrays[1], arrays[3]]))
    np.testing.assert_allclose(stacked, expected[[1, 3]], atol=1e-6)
    assert embedder.embed([]).shape == (0, 12) and embedder.warnings == ()


def test_a_pillow_image_is_read_as_its_file_is(embedder, tmp_path):
    turned, clear = tmp_path / "turned.jpg", tmp_path / "clear.png"
    sides = np.zeros((20, 30, 3), np.uint8)
    sides[:, :15] = 250
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(sides).save(turned, exif=exif, quality=95)
    Image.fromarray(np.full((20, 30, 4), (9, 90, 9, 0), np.uint8)).save(clear)
    for path in (turned, clear):
        from_file, from_pillow = pixels.read(path.read_bytes()), api._pixels(Image.open(path))
        assert from_file.shape == from_pillow.shape and np.abs(from_file.astype(int) - from_pillow).max() < 9
    assert embedder.embed(Image.open(path) for path in (turned, clear)).shape == (2, 12)


def test_a_run_folder_is_loaded_by_its_submission(embedder, files, tmp_path):
    import zipfile

    folder = save(MeanColour(), tmp_path / "model")
    (tmp_path / "run").mkdir()
    with zipfile.ZipFile(tmp_path / "run/submission.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    np.testing.assert_allclose(pipeline.load(tmp_path / "run").embed(files), embedder.embed(files), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "kind", "said"),
    [
        ("a.jpg", ValueError, r"write embed\(\['a.jpg'\]\)"),
        (["gone.jpg"], BadInput, "gone.jpg cannot be read as an image"),
        ([__file__], BadInput, "test_api.py cannot be read as an image"),
        ([np.zeros((4, 4, 3))], ValueError, r"uint8 \[H, W, 3\], got float64 \[4, 4, 3\]"),
        ([np.zeros((0, 4, 3), np.uint8)], ValueError, r"got uint8 \[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"\[N, H, W, 3\] or a list of images"),
        ([7], ValueError, "got int"),
        (Image.new("RGB", (4, 4)), ValueError, r"write embed\(\[image\]\)"),
        ([Image.new("I;16", (4, 4))], ValueError, "got mode I;16: give its path"),
    ],
)
def test_what_is_no_image_is_refused_in_plain_words(embedder, images, kind, said):
    with pytest.raises(kind, match=said):
        embedder.embed(images)


def test_what_is_no_embedder_is_refused():
    with pytest.raises(BadInput, match="nothing is there"):
        pipeline.load("nowhere/submission.zip")


def test_search_finds_the_nearest_rows_as_sorting_all_distances_does():
    rng = np.random.default_rng(0)
    queries, index = rng.normal(size=(7, 5)), rng.normal(size=(40, 5))
    positions, distances = pipeline.search(queries, index, k=4)
    every = np.linalg.norm(queries[:, None] - index[None], axis=2)
    assert (positions == np.argsort(every, axis=1)[:, :4]).all() and positions.dtype == np.int64
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :4], rtol=1e-5)
    positions, distances = pipeline.search(queries, index[:2], k=3)
    assert (positions[:, 2] == -1).all() and np.isinf(distances[:, 2]).all()


def slow_score(vectors, labels, queries, query_labels, leave_one_out):
    found = []
    for row, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
        others = [n for n in range(len(vectors)) if not (leave_one_out and n == row)]
        ranked = sorted(others, key=lambda n: float(np.sum((vectors[n] - query) ** 2)))
        counted = min(5, sum(labels[n] == label for n in others))
        found.append(sum(labels[n] == label for n in ranked[:counted]) / counted if counted else 0.0)
    return float(np.mean(found))


def test_score_is_the_competitions_with_and_without_queries():
    rng = np.random.default_rng(1)
    vectors, queries = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=(11, 3)).astype(np.float32)
    labels, wanted = list(rng.choice(["a", "b", "c"], 30)), list(rng.choice(["a", "b", "z"], 11))
    expected = slow_score(vectors, labels, vectors, labels, True)
    assert pipeline.score(vectors, labels) == pytest.approx(expected) and 0 < expected < 1
    expected = slow_score(vectors, labels, queries, wanted, False)
    assert pipeline.score(vectors, np.array(labels), queries, wanted) == pytest.approx(expected)


def test_labels_of_a_tensor_are_numbers():
    tensor = tf.constant([1, 1, 2, 2])
    vectors = np.array([[0.0], [0.1], [9.0], [9.2]])
    assert pipeline.score(vectors, tensor) == pipeline.score(vectors, [np.int64(1), 1, 2, np.array(2)]) == 1.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pipeline.search(np.zeros(3), np.zeros((2, 3))), r"queries: expected float \[N, D\]"),
        (lambda: pipeline.search(np.zeros((1, 2)), np.zeros((2, 3))), "got 2 in queries, 3 in index"),
        (lambda: pipeline.search(np.full((1, 2), np.nan), np.zeros((2, 2))), "NaN or infinity"),
        (lambda: pipeline.search(np.zeros((1, 2)), np.zeros((2, 2)), k=0), "k: expected a whole number of 1 or more"),
        (lambda: pipeline.search(np.zeros((1, 2)), np.zeros((2, 2)), k=2.0), "got 2.0"),
        (lambda: pipeline.search(np.full((1, 2), 1e30), np.zeros((2, 2))), "up to 1e\\+17"),
        (lambda: pipeline.score(np.zeros((2, 2)), ["a"]), "1 labels for 2 rows"),
        (lambda: pipeline.score(np.zeros((2, 2)), [np.nan, np.nan]), "got nan"),
        (lambda: pipeline.score(np.zeros((2, 2)), np.zeros((2, 1))), r"got \[0.0\]"),
        (lambda: pipeline.score(np.zeros((2, 2)), ["a", "b"]), "no query has a match"),
        (
            lambda: pipeline.score(np.zeros((2, 2)), ["a", "a"], np.zeros((1, 2))),
            "queries and query_labels, or neither",
        ),
        (lambda: pipeline.score(np.zeros((2, 2)), ["a", "a"], np.zeros((1, 2)), ["z"]), "no query has a match"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_plain_words(call, said):
    with pytest.raises(ValueError, match=said):
        call()
