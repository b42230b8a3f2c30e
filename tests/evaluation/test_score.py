"""`guie score` and `guie embed`: folders, shards, sizes and colour modes of every kind."""

import csv
import json

import numpy as np
import pytest

from pipeline.data import sources
from pipeline.evaluation import embed, score_table
from pipeline.evaluation.embedders import Submission
from tests.evaluation.tiny import jpeg, run
from tests.tfrecords import shard_files
from tfrecords.shards import ShardWriter, index_path


def test_every_size_and_colour_mode_is_scored(embedder, folder, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    code, text, _ = run(capsys, "score", embedder, "--index", folder, "--out", out)
    result = json.loads(out.read_text())
    assert code == 0 and "things" in text
    assert result["mP@5"] == 1.0 and result["domains"]["things"]["queries"] == 16
    assert result["embedding_dim"] == 12 and not result["rejects"]
    assert (result["classes"], result["index_classes"], result["classes_trained_on"]) == (2, 2, None)
    few = "(2 classes, 16 queries: too few for an estimate)"
    assert text.splitlines()[-1] == f"score: mP@5 1.0000 ±0.000 {few} → {out}"
    assert 0 <= result["references"]["raw_pixels"] <= 1
    found = {each["key"]: [near["key"] for near in each["neighbours"]] for each in result["examples"]}
    assert len(found) == 12 and all(len(keys) == 5 and query not in keys for query, keys in found.items())


def test_several_indexes_merge_and_queries_pair_with_them(embedder, tmp_path, capsys):
    for split, count in (("index", 3), ("query", 2)):
        for number in range(count):
            jpeg(tmp_path / "a" / split / "red" / f"{number}.png", (220, 30, 30))
            jpeg(tmp_path / "a" / split / "green" / f"{number}.png", (30, 220, 30))
            jpeg(tmp_path / "b" / split / "red" / f"{number}.png", (205, 45, 45))  # another domain's red
            jpeg(tmp_path / "b" / split / "grey" / f"{number}.png", (120, 120, 120))
    arguments = ["--index", tmp_path / "a/index", "--index", tmp_path / "b/index"]
    arguments += ["--queries", tmp_path / "a/query", "--queries", tmp_path / "b/query"]
    arguments += ["--out", tmp_path / "m.json"]
    code, text, _ = run(capsys, "score", embedder, *arguments)
    result = json.loads((tmp_path / "m.json").read_text())
    assert code == 0 and set(result["domains"]) == {"a", "b"} and "all, one index" in text
    assert result["domains"]["a"] == {**result["domains"]["a"], "mP@5": 1.0, "queries": 4, "index": 6}
    assert not result["leave_one_out"]
    pairs = [(example, near) for example in result["examples"] for near in example["neighbours"]]
    names = [[(each["domain"], each["key"].split("/")[0]) for each in pair] for pair in pairs]
    assert [near["match"] for _, near in pairs] == [query == near for query, near in names]
    assert any(query[1] == near[1] and query != near for query, near in names)  # the other domain's red is near


def shard_of(folder, source, images):
    """A shard of (label, colour) images, named as `guie tfrecords` names it."""
    path = folder / f"{source}-test-00-{len(images)}.tfrec"
    writer = ShardWriter(path)
    for number, (label, colour) in enumerate(images):
        encoded = shard_files.jpeg(np.full((8, 8, 3), colour, np.uint8))
        writer.write(shard_files.example(encoded, label, f"{source}-{number}", source))
    writer.close()
    index_path(path).write_text(writer.index_text(), encoding="ascii")


def test_a_class_merged_over_sources_is_one_class_in_the_merged_index(embedder, tmp_path, capsys):
    red, green, blue = [(200, 20, 20), (190, 20, 20)], [(20, 200, 20)] * 2, [(20, 20, 200)] * 2
    for split in ("index", "queries"):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "labels.json").write_text(f'{{"of": "{split}"}}')  # of two builds, with the same labels
        shard_of(folder, "s1", [*((0, colour) for colour in red), *((1, colour) for colour in green)])
        shard_of(folder, "s2", [*((0, colour) for colour in red), *((2, colour) for colour in blue)])
    index, queries = (tmp_path / split / "*.tfrec" for split in ("index", "queries"))

    def scored(*arguments):
        assert run(capsys, "score", embedder, *arguments, "--out", tmp_path / "m.json")[0] == 0
        return json.loads((tmp_path / "m.json").read_text())["mP@5"]

    assert scored("--index", index) == scored("--index", index, "--queries", queries) == 1.0
    # Without labels.json nobody knows what the labels count: each source then has its classes for itself.
    (tmp_path / "index" / "labels.json").unlink()
    assert scored("--index", index) < 1.0


def test_an_unreadable_image_is_left_out_and_named(embedder, folder, tmp_path, capsys):
    for name in ("red", "blue"):
        for number in range(3):
            jpeg(tmp_path / "set" / name / f"{number}.jpg", (200, 0, 0) if name == "red" else (0, 0, 200))
    (tmp_path / "set/red/broken.jpg").write_bytes((tmp_path / "set/red/0.jpg").read_bytes()[:150])
    (tmp_path / "set/red/notes.txt").write_text("not an image")
    code, text, _ = run(capsys, "score", embedder, "--index", tmp_path / "set", "--out", tmp_path / "m.json")
    rejects = json.loads((tmp_path / "m.json").read_text())["rejects"]
    assert code == 0 and {reject["key"].split("/")[-1] for reject in rejects} == {"broken.jpg", "notes.txt"}
    assert "2 image(s) left out" in text


def test_the_table_has_a_row_a_domain_and_one_of_the_whole():
    domain = {"mP@5": 0.5, "queries": 1000, "index": 2000, "references": {"raw_pixels": 0.25}}
    result = {"mP@5": 0.4, "domains": {"a": domain, "b": domain}, "references": {"raw_pixels": 0.2}, "rejects": []}
    lines = [line.split() for line in score_table.text(result).splitlines()]
    assert lines == [
        ["mP@5", "queries", "index", "embedder", "raw_pixels"],
        ["a", "1,000", "2,000", "0.5000", "0.2500"],
        ["b", "1,000", "2,000", "0.5000", "0.2500"],
        ["all,", "one", "index", "2,000", "4,000", "0.4000", "0.2000"],
    ]
    alone = {**result, "domains": {"a": domain}, "rejects": ["x", "y"]}
    assert score_table.text(alone).splitlines()[2:] == ["2 image(s) left out, the first: x"]


def test_no_batch_is_larger_than_asked_or_than_memory_allows(tmp_path, monkeypatch):
    for number in range(7):
        jpeg(tmp_path / "things" / "red" / f"{number}.jpg", (200, 40, 40))
    jpeg(tmp_path / "things" / "red" / "large.jpg", (200, 40, 40), size=(64, 48))
    batches = []

    def embed_batch(images):
        batches.append(images.shape[:3])
        return images.mean((1, 2)).astype(np.float32)

    submission = Submission("recorded", embed_batch, 3, "")
    found = embed.embed_sets(submission, sources.open_data(str(tmp_path / "things")), 3, "embed", {})
    assert sorted(batches) == [(1, 24, 32), (1, 48, 64), (3, 24, 32), (3, 24, 32)] and len(found.keys) == 8
    batches.clear()
    monkeypatch.setattr(embed, "MAX_BATCH_VALUES", 2 * 24 * 32 * 3)
    embed.embed_sets(submission, sources.open_data(str(tmp_path / "things")), 3, "embed", {})
    assert sorted(batches) == [(1, 24, 32), (1, 48, 64), (2, 24, 32), (2, 24, 32), (2, 24, 32)]


def test_embed_writes_a_row_an_image(embedder, folder, tmp_path, capsys):
    jpeg(folder.parent / "copy" / "red" / "a.jpg", (200, 0, 0))
    (folder.parent / "copy" / "red" / "b.jpg").write_bytes(b"no image")
    assert run(capsys, "embed", embedder, folder.parent / "copy", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/items.csv").read_bytes() == b"key,source,class\nred/a.jpg,copy,red\n"
    assert (tmp_path / "out/rejects.csv").read_text().startswith("source,key,reason\ncopy,red/b.jpg,")
    code, _, _ = run(capsys, "embed", embedder, folder, "--out", tmp_path / "out")
    vectors = np.load(tmp_path / "out/embeddings.npy")
    rows = list(csv.DictReader((tmp_path / "out/items.csv").open()))
    assert code == 0 and vectors.shape == (16, 12) and vectors.dtype == np.float32 and len(rows) == 16
    assert {row["class"] for row in rows} == {"red", "blue"} and {row["source"] for row in rows} == {"things"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nowhere", "nowhere"),
        (lambda path: path, ""),
        (lambda path: str(path / "*.tfrec"), "no shard matches"),
        (lambda path: f"nolayout:{path}", "unknown layout"),
    ],
)
def test_data_that_is_not_there_is_refused_in_one_line(make, said, embedder, tmp_path, capsys):
    code, _, error = run(capsys, "score", embedder, "--index", make(tmp_path))
    assert code == 2 and said in error and error.count("\n") == 1


def test_a_single_class_is_a_warning_not_a_perfect_score(embedder, tmp_path, capsys):
    for number in range(6):
        jpeg(tmp_path / "set" / "red" / f"{number}.png", (200, 40 * number, 0))
    code, text, _ = run(capsys, "score", embedder, "--index", tmp_path / "set")
    assert code == 0 and "warning: one class: every neighbour is right" in text.splitlines()
    assert text.splitlines()[-1] == "score: mP@5 1.0000 ±0.000 (one class: every neighbour is right)"


def test_classes_of_one_image_each_cannot_be_scored(embedder, tmp_path, capsys):
    for name in ("red", "blue"):
        jpeg(tmp_path / "set" / name / "0.png", (200, 0, 0))
    code, _, error = run(capsys, "score", embedder, "--index", tmp_path / "set")
    assert code == 2 and "at least two images" in error
