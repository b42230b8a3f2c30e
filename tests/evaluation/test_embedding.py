"""Images → a store of vectors: as the embedder gives them, in bounded memory, nothing twice, the same bytes always."""

import csv
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import parts, sources
from pipeline.errors import BadInput
from pipeline.evaluation.embed import embed_sets, in_turn
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.embedding import chunks
from pipeline.evaluation.embedding.chunks import embed_into
from pipeline.vectors.store import open_store
from tests.evaluation.tiny import MeanColour, jpeg, run, save
from tests.tfrecords.test_records_build import build, write_config
from tfrecords import pixels
from tfrecords.listing.items import Item, read_file

DIM = 3


class Recorded:
    """An embedder without TensorFlow: mean colours. It counts what it is given, and fails where it is told to."""

    def __init__(self, fingerprint: str = "recorded"):
        self.images, self.fails_after = 0, None
        self.submission = Submission("recorded", self.embed, DIM, fingerprint)

    def embed(self, images: np.ndarray) -> np.ndarray:
        if self.fails_after is not None and self.images >= self.fails_after:
            raise RuntimeError("this batch fails")
        self.images += len(images)
        return np.stack([image.mean((0, 1), dtype=np.float32) / 255 for image in images])


@pytest.fixture
def things(tmp_path) -> Path:
    """Twenty images of three sizes, and two that are none."""
    root = tmp_path / "things"
    for number in range(20):
        jpeg(root / "red" / f"{number:02}.jpg", (200, 8 * number, 40), size=(16 + number % 3, 12))
    for number in (4, 19):
        (root / "red" / f"{number:02}.jpg").write_bytes(b"no image")
    return root


def listed(root: Path) -> list[parts.Named]:
    return [(each.name, item) for each in sources.open_data(str(root)) for item in each.items]


def tree(folder: Path) -> dict[str, bytes]:
    """All but the marks, which hold the files' times."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.parent.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_store_holds_what_the_embedder_gives_one_image_at_a_time(things, tmp_path, capsys):
    store = embed_into(tmp_path / "store", Recorded().submission, listed(things), chunk=6, batch_size=4)
    expected = {}
    for source, item in listed(things):
        data = read_file(str(things / item.key))
        if data != b"no image":
            expected[item.key, source, item.class_name, ()] = pixels.read(data).mean((0, 1), dtype=np.float32) / 255
    assert list(store.items()) == list(expected)
    ((first, vectors),) = store.blocks()
    np.testing.assert_array_equal(vectors, list(expected.values()))
    assert (first, store.counts, store.rejects) == (0, (5, 6, 6, 1), 2)
    assert "embed: 2 images cannot be read: " in capsys.readouterr().out
    scored = embed_sets(Recorded().submission, sources.open_data(str(things)), 4, "score", {})
    np.testing.assert_array_equal(vectors, scored.vectors["embedder"])
    rejects = list(csv.reader((tmp_path / "store/rejects.csv").open()))
    assert rejects == [["source", "key", "reason"], *map(list, scored.rejects)]
    assert open_store(tmp_path / "store") == store


def test_further_classes_of_an_image_are_kept(tmp_path):
    jpeg(tmp_path / "a.jpg", (9, 9, 9))
    items = [("uned", Item("a", "1", partial(read_file, str(tmp_path / "a.jpg")), also=("2", "3")))]
    store = embed_into(tmp_path / "store", Recorded().submission, items)
    assert list(store.items()) == [("a", "uned", "1", ("2", "3"))]


def test_images_are_taken_as_they_are_needed_and_no_more(tmp_path, monkeypatch):
    """A listing of 100 million is never in memory: at most the chunks at work and the images read ahead."""
    jpeg(tmp_path / "a.jpg", (9, 9, 9))
    read, taken = partial(read_file, str(tmp_path / "a.jpg")), []

    def endless():
        for number in range(3000):
            taken.append(number)
            yield "set", Item(str(number), "one", read)

    ahead = []
    put = chunks.Writer.put

    def recorded(self, number, *arguments):
        ahead.append(len(taken) - 100 * (number + 1))
        put(self, number, *arguments)

    monkeypatch.setattr(chunks.Writer, "put", recorded)
    store = embed_into(tmp_path / "store", Recorded().submission, endless(), chunk=100, batch_size=32)
    assert store.count == 3000 and len(ahead) == 30
    assert max(ahead) <= 256 + 3 * 32 + 2 * 100


@pytest.mark.faults("killed")
@pytest.mark.parametrize("after", [0, 1, 5, 6, 9, 12, 17])
def test_an_embedder_that_fails_leaves_whole_chunks_and_the_rest_is_made_once(things, tmp_path, after):
    """A chunk some of whose batches failed is never written."""
    embed_into(tmp_path / "whole", Recorded().submission, listed(things), chunk=6, batch_size=2)
    first, second = Recorded(), Recorded()
    first.fails_after = after
    with pytest.raises(RuntimeError, match="this batch fails"):
        embed_into(tmp_path / "store", first.submission, listed(things), chunk=6, batch_size=2)
    assert not (tmp_path / "store/store.json").exists()
    vectors = {path.name for path in (tmp_path / "store").glob("vectors-*.npy")}
    assert len(vectors) == sum(first.images >= each for each in (5, 11, 17, 18))
    embed_into(tmp_path / "store", second.submission, listed(things), chunk=6, batch_size=2)
    assert second.images == 18 - sum((5, 6, 6, 1)[: len(vectors)])
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def test_no_call_is_made_after_one_that_failed():
    made = []

    def call(number):
        made.append(number)
        if number == 1:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"), in_turn() as submit:
        for number in range(9):
            submit(call, number)
    assert made == [0, 1]


def test_what_is_done_is_not_embedded_again_and_what_changed_is(things, tmp_path, capsys):
    where, options = tmp_path / "store", {"chunk": 6, "batch_size": 4}
    embed_into(where, Recorded().submission, listed(things), **options)
    whole = tree(where)

    def rerun() -> int:
        embedder = Recorded()
        embed_into(where, embedder.submission, listed(things), **options)
        return embedder.images

    assert rerun() == 0 and tree(where) == whole
    for path in sorted((things / "red").iterdir())[:9]:
        os.utime(path)
    capsys.readouterr()
    assert rerun() == 0 and tree(where) == whole
    assert capsys.readouterr().out.count("have other times: comparing their images") == 1
    assert rerun() == 0 and "other times" not in capsys.readouterr().out
    jpeg(things / "red" / "07.jpg", (1, 2, 3))
    assert rerun() == 6 and tree(where).keys() == whole.keys()
    (things / "red" / "19.jpg").unlink()
    jpeg(things / "red" / "18.jpg", (1, 2, 3))
    assert rerun() == 1
    for number in range(12, 19):
        (things / "red" / f"{number}.jpg").unlink()
    assert rerun() == 0
    fresh = embed_into(tmp_path / "fresh", Recorded().submission, listed(things), **options)
    assert tree(where) == tree(tmp_path / "fresh") and fresh.counts == (5, 6)


def test_a_store_of_another_embedder_is_refused_or_made_anew(things, tmp_path, capsys):
    where = tmp_path / "store"
    embed_into(where, Recorded().submission, listed(things), chunk=6)
    before = tree(where)
    other = Recorded("other")
    with pytest.raises(BadInput, match=r"embedder was .recorded., is .other.; choose another folder"):
        embed_into(where, other.submission, listed(things), chunk=6)
    with pytest.raises(BadInput, match="images a chunk was 6, is 7"):
        embed_into(where, Recorded().submission, listed(things), chunk=7)
    assert tree(where) == before and other.images == 0
    embed_into(where, other.submission, listed(things), chunk=6, redo=True)
    assert other.images == 18 and open_store(where).fingerprint == "other"
    assert "embedder was" in capsys.readouterr().out


@pytest.mark.faults("killed")
def test_the_command_that_ends_at_any_rename_goes_on_to_the_same_files(
    things, embedder, tmp_path, monkeypatch, capsys, tried
):
    monkeypatch.setattr(chunks, "IMAGES", 8)
    assert run(capsys, "embed", embedder, things, "--out", tmp_path / "whole")[0] == 0
    expected, replace = tree(tmp_path / "whole"), os.replace
    assert sorted(expected) == ["embeddings.npy", "items.csv", "rejects.csv"]

    class Killed(BaseException):
        pass

    at, code = 0, None
    while code is None:
        out, left = tmp_path / str(at), [at]

        def dying(source, target, left=left):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                code = run(capsys, "embed", embedder, things, "--out", out)[0]
            except Killed:
                at += 1
        assert run(capsys, "embed", embedder, things, "--out", out)[0] == 0
        assert tree(out) == expected, at
        shutil.rmtree(out)
    assert code == 0 and at > 3 * 3
    tried(at)


def test_the_command_writes_one_file_and_does_nothing_twice(things, embedder, tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "embed", embedder, things, "--out", out)
    assert code == 0 and f"embed: 18 vectors of 12, 2 left out → {out}/embeddings.npy" in text
    vectors = np.load(out / "embeddings.npy")
    np.save(tmp_path / "again.npy", vectors)
    assert (out / "embeddings.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()
    assert not (out / "chunks").exists()
    times = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    code, text, _ = run(capsys, "embed", embedder, things, "--out", out)
    assert code == 0 and "is done: the same embedder, the same images" in text
    assert {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()} == times
    (out / "items.csv").write_text("key,source,class\n")
    code, text, _ = run(capsys, "embed", embedder, things, "--out", out)
    assert code == 0 and "embed: items.csv changed: done again" in text
    assert (out / "items.csv").read_text().count("\n") == 19
    os.utime(things / "red" / "00.jpg")
    code, text, _ = run(capsys, "embed", embedder, things, "--out", out)
    assert code == 0 and "have other times" in text and "is done: the same embedder, the same images" in text
    jpeg(things / "red" / "00.jpg", (0, 0, 0))
    code, text, _ = run(capsys, "embed", embedder, things, "--out", out, "--dtype", "float16")
    assert code == 0 and 'dtype was "float32", is "float16"; the images changed: done again' in text
    half = np.load(out / "embeddings.npy")
    assert half.dtype == np.float16 and (half[0] != vectors[0].astype(np.float16)).any()
    np.testing.assert_array_equal(half[1:], vectors[1:].astype(np.float16))


def test_the_command_leaves_a_store_where_it_is_asked_to(things, embedder, tmp_path, capsys):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "embed", embedder, things, "--out", out, "--store", "--dtype", "int8")
    assert code == 0 and f"embed: 18 vectors of 12 (int8, 1 chunks), 2 left out → {out}" in text
    assert run(capsys, "embed", embedder, things, "--out", tmp_path / "one")[0] == 0
    ((_, vectors),) = open_store(out).blocks()
    np.testing.assert_allclose(vectors, np.load(tmp_path / "one/embeddings.npy"), atol=1 / 127)
    for words, said in (
        (("--out", out, "--store"), 'dtype was "int8", is "float32"; choose another folder'),
        (("--out", out), "with --store: add it"),
        (("--out", tmp_path / "one", "--store"), "without --store: choose another --out"),
        (("--out", tmp_path / "new", "--dtype", "int8"), "add --store"),
        (("--out", tmp_path / "new", "--beam-options", "--a=b"), "expected --runner beam"),
    ):
        code, _, error = run(capsys, "embed", embedder, things, *words)
        assert code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_an_embedder_of_more_numbers_is_taken_where_it_is_asked_for(things, tmp_path, capsys):
    wide = save(MeanColour(width=100), tmp_path / "wide")
    code, _, error = run(capsys, "embed", wide, things, "--out", tmp_path / "out")
    assert code == 2 and "expected embeddings [1, ≤64]" in error
    assert run(capsys, "embed", wide, things, "--out", tmp_path / "out", "--any-width")[0] == 0
    assert np.load(tmp_path / "out/embeddings.npy").shape == (18, 100)


@pytest.fixture
def records(things, tmp_path) -> Path:
    """Shards of four records of the images that can be read."""
    config = write_config(tmp_path, {"things": things}, images_per_shard=4, image_size_px=12, max_reject_share=1.0)
    assert build(config) == 0
    return tmp_path / "run/records"


def test_a_chunk_is_a_shard_and_a_shard_that_is_done_is_not_opened(records, embedder, tmp_path, capsys, monkeypatch):
    pattern = f"{records}/*.tfrec"
    code, _, _ = run(capsys, "embed", embedder, pattern, "--out", tmp_path / "out", "--store")
    store, shards = open_store(tmp_path / "out"), sorted(records.glob("*.tfrec"))
    assert code == 0 and store.counts == tuple(int(path.stem.rsplit("-", 1)[1]) for path in shards)
    (data,) = sources.open_data(pattern)
    assert [row[:3] for row in store.items()] == [(item.key, "things", item.class_name) for item in data.items]
    opened, images = [], parts.Shard.images
    monkeypatch.setattr(parts.Shard, "images", lambda self: (opened.append(self.path), images(self))[1])
    assert run(capsys, "embed", embedder, pattern, "--out", tmp_path / "out", "--store")[0] == 0
    assert not opened
    (tmp_path / "out/items-00001.csv").unlink()
    assert run(capsys, "embed", embedder, pattern, "--out", tmp_path / "out", "--store")[0] == 0
    assert opened == [str(shards[1])]


def test_beam_makes_the_same_chunks_and_skips_those_that_are_done(records, embedder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.chdir(tmp_path)
    trees = []
    for runner in ("here", "beam"):
        for data in ("run/records/*.tfrec", "things"):
            words = ("--out", f"{runner}/{data[0]}", "--runner", runner, *["--store"] * (data != "things"))
            assert run(capsys, "embed", os.path.relpath(embedder), data, *words)[0] == 0
        trees.append(tree(tmp_path / runner))
    assert trees[0] == trees[1] and len(trees[0]) > 12
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "beam/r").glob("vectors-*")}
    (lost := sorted(times)[1]).unlink()
    words = (embedder, "run/records/*.tfrec", "--out", "beam/r", "--store", "--runner", "beam")
    code, text, _ = run(capsys, "embed", *words)
    assert code == 0 and f"embed: {len(times) - 1} of {len(times)} chunks are done" in text
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {lost}
    assert tree(tmp_path / "beam") == trees[0]
    code, _, error = run(
        capsys, "embed", *words[:-4], "beam/new", *words[-3:], "--beam-options", "--runner=NoSuchRunner"
    )
    assert code == 2 and "NoSuchRunner" in error


@pytest.mark.faults("damage")
def test_a_shard_that_a_worker_of_beam_refuses_is_one_line_and_stops_no_other(records, embedder, tmp_path, capsys):
    pytest.importorskip("apache_beam")
    words = (embedder, f"{records}/*.tfrec", "--out", tmp_path / "out", "--store", "--runner", "beam")
    whole, shards = {path: path.read_bytes() for path in records.glob("*.tfrec")}, sorted(records.glob("*.tfrec"))
    for path in shards[1:3]:
        path.write_bytes(whole[path][:-3] + b"xyz")
    code, _, error = run(capsys, "embed", *words)
    lines = error.splitlines()
    assert code == 2 and "wrong CRC" in lines[-1] and lines[-1].endswith("(2 chunks are refused)")
    assert "Traceback" not in error and str(shards[1]) in lines[-1]
    assert len(list((tmp_path / "out").glob("vectors-*.npy"))) == len(shards) - 2
    for path, content in whole.items():
        path.write_bytes(content)
    assert run(capsys, "embed", *words)[0] == 0
    assert open_store(tmp_path / "out").count == 18
