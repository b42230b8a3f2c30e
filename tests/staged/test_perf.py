"""`guie staged perf`: accuracies by brute force, the rows of its table worked out, images that cannot be read."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.config import load
from pipeline.data.preprocessing import prepare_all
from pipeline.models import encoders
from pipeline.staged import cascade, perf, retriever
from pipeline.staged.config import STAGES, Staged
from pipeline.staged.stages import pixel_vectors
from pipeline.staged.vector_database import Neighbour
from tfrecords import pixels

pytest.importorskip("milvus_lite", reason="needs the extra vectordb")
pytest.importorskip("pymilvus", reason="needs the extra vectordb")  # here, not in a test: see test_staged.py


def answer(stage: str, class_name: str, distance: float, encode_ms: float, query_ms: float) -> retriever.Answer:
    return retriever.Answer(stage, class_name, 1.0, [Neighbour("key", class_name, distance)], encode_ms, query_ms)


def test_rows_of_a_worked_example():
    """Image a is settled by `second`, image b goes on to `origin`; `third` is skipped."""
    tested = [
        retriever.Tested("a", "cat", [answer("first", "dog", 0.9, 1, 2), answer("second", "cat", 0.5, 10, 4)]),
        retriever.Tested(
            "b",
            "dog",
            [
                answer("first", "dog", 0.7, 3, 4),
                answer("second", "cat", 0.6, 20, 6),
                answer("origin", "cat", 0.4, 30, 8),
            ],
        ),
    ]
    first, second, origin, cascade = perf.stage_rows(tested, "cascade")
    assert first == {
        "stage": "first", "images": 2, "accuracy": 0.5, "distance_correct": 0.7, "distance_incorrect": 0.9,
        "encode_ms": 2, "query_ms": 3, "alone_ms": 5,
    }  # fmt: skip
    assert second == {
        "stage": "second", "images": 2, "accuracy": 0.5, "distance_correct": 0.5, "distance_incorrect": 0.6,
        "encode_ms": 15, "query_ms": 5, "alone_ms": 20,
    }  # fmt: skip
    assert origin == {
        "stage": "origin", "images": 1, "accuracy": 0, "distance_correct": 0, "distance_incorrect": 0.4,
        "encode_ms": 30, "query_ms": 8, "alone_ms": 58,  # the 20 of `second` are on its way, the 3 of `first` not
    }  # fmt: skip
    assert cascade == {
        "stage": "cascade", "images": 2, "accuracy": 0.5, "distance_correct": 0.5, "distance_incorrect": 0.4,
        "encode_ms": 32, "query_ms": 12, "alone_ms": 44,
        "answered": {"first": 0, "second": 0.5, "third": 0, "origin": 0.5},
    }  # fmt: skip
    assert [row["stage"] for row in perf.stage_rows(tested, "all")] == ["first", "second", "origin"]


@pytest.mark.parametrize("stage", ["all", "cascade"])
def test_test_images_that_cannot_be_read_are_rejects(built: str, images: Path, tmp_path: Path, run, stage: str):
    for name in ("0", "1"):
        (tmp_path / "test" / "red").mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / "red" / f"{name}.png").write_bytes(b"no image")
    argv = ["perf", built, "--stage", stage, "--batch-size", "1", "--display-freq", "1"]
    line = run(*argv, f"queries.0.root={tmp_path / 'test'}", code=2)[-1]
    assert "none of the 2 test images could be read" in line and "not an image" in line
    (tmp_path / "test" / "red" / "1.png").write_bytes((images / "test" / "red" / "1.png").read_bytes())
    assert "of 1 images, 1 rejected" in run(*argv, f"queries.0.root={tmp_path / 'test'}")[-1]
    result = json.loads((Path(built).parent / "run" / f"perf-{stage}.json").read_text())
    assert (result["images"], result["rejected"]) == (1, 1)


def test_perf_accuracies_equal_a_brute_force_vote_on_the_same_features(built: str, images: Path, run):
    lines = run("perf", built, "--stage", "all", "--time", "--display-freq", "1")
    assert sum(line.startswith("batch ") for line in lines) == 2
    result = json.loads((Path(built).parent / "run" / "perf-all.json").read_text())
    assert [row["stage"] for row in result["stages"]] == list(STAGES) and result["images"] == 9

    def read(split):
        paths = sorted((images / split).rglob("*.png"))
        return [pixels.read(path.read_bytes()) for path in paths], [path.parent.name for path in paths]

    index, queries = read("train"), read("test")
    for row, layer in zip(result["stages"], (None, "a", "d", "pool"), strict=True):
        vectors = []
        for pictures in (index[0], queries[0]):
            if layer is None:
                raw = pixel_vectors(pictures, 4)
            else:
                encoder = encoders.build(load(Staged, built).encoder)
                part = keras.Model(encoder.model.inputs, encoder.model.get_layer(layer).output)
                raw = part(prepare_all(pictures, encoder.preprocess)).numpy()
                raw = raw.mean(axis=(1, 2)) if raw.ndim == 4 else raw
            vectors.append(raw / np.linalg.norm(raw, axis=1, keepdims=True))
        right = 0
        for query, name in zip(vectors[1], queries[1], strict=True):
            nearest = np.argsort(((vectors[0] - query) ** 2).sum(axis=1))[:3]
            right += cascade.vote([index[1][i] for i in nearest])[0] == name
        assert row["accuracy"] == pytest.approx(right / 9), row["stage"]
        assert row["alone_ms"] >= row["encode_ms"] > 0 and row["query_ms"] > 0
    page = (Path(built).parent / "run" / "perf-all.html").read_text()
    assert page.count("<svg") >= 10 and "var(--right)" in page and "var(--wrong)" in page


def test_perf_of_one_stage_takes_num_batches_of_batch_size(built: str, run):
    argv = ["--stage", "third", "--num", "2", "--batch-size", "3", "--display-freq", "1", "--time"]
    lines = run("perf", built, *argv)
    assert sum(line.startswith("batch ") for line in lines) == 2 and "of 6 images" in lines[-1]
    assert any("query ms" in line for line in lines)
    assert not any("query ms" in line for line in run("perf", built, *argv[:-1]))


@pytest.mark.parametrize(
    ("thresholds", "answers"),
    [("{first: 2, second: 2, third: 2}", "origin"), ("{first: 0, second: 1, third: 1}", "first")],
)
def test_cascade_answers_as_the_stage_its_thresholds_point_to(built: str, run, thresholds: str, answers: str):
    folder = Path(built).parent / "run"
    run("perf", built, "--stage", answers)
    run("perf", built, "--stage", "cascade", f"thresholds={thresholds}")
    alone, stepped = (json.loads((folder / f"perf-{s}.json").read_text()) for s in (answers, "cascade"))
    assert stepped["stages"][-1]["answered"][answers] == 1
    assert stepped["stages"][-1]["accuracy"] == alone["stages"][0]["accuracy"]
