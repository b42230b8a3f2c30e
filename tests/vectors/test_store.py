"""A store of vectors: what was put is read back, in blocks; what is stale is refused, what is damaged is named."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BadInput
from pipeline.vectors import chunk_files
from pipeline.vectors.chunk_files import Row
from pipeline.vectors.store import Store, open_store
from pipeline.vectors.writer import Writer
from tests.faults.renames import ends_at_rename

COUNTS, DIM = (5, 0, 3, 7, 1), 6
ODD = ("a,b", 'a "quote"', "two\nlines", "carriage\rreturn", " spaces ", "", "=cmd()", "größe", "\\xff", "[1]")


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def rows_of(number: int, count: int) -> list[Row]:
    names = [f"{number}/{place}/{ODD[(number + place) % len(ODD)]}" for place in range(count)]
    also = [(), (ODD[number % len(ODD)],), ("x", "y, z")]
    return [Row(name, f"set {number}", ODD[place], also[place % 3]) for place, name in enumerate(names)]


def written(folder: Path, dtype: str = "float32", counts: tuple[int, ...] = COUNTS) -> Store:
    writer = Writer(folder, "embedder", DIM, dtype)
    for number in reversed(range(len(counts))):  # in any order
        rejects = [("set", f"broken {number}", "why, so")] if number % 2 else []
        writer.put(number, drawn(counts[number], number), rows_of(number, counts[number]), rejects)
    return writer.finish()


def all_vectors(store: Store, rows: int = 4) -> np.ndarray:
    return np.concatenate([np.zeros((0, DIM), np.float32), *(block for _, block in store.blocks(rows))])


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("rows", [1, 3, 4, 15, 16, 17, 1000])
def test_blocks_hold_all_vectors_in_order_whatever_their_size(tmp_path, rows):
    written(tmp_path)
    store = open_store(tmp_path)
    blocks = list(store.blocks(rows))
    assert [len(block) for _, block in blocks] == [rows] * (16 // rows) + [16 % rows] * (16 % rows > 0)
    assert [first for first, _ in blocks] == list(range(0, 16, rows))
    expected = np.concatenate([drawn(count, number) for number, count in enumerate(COUNTS)])
    np.testing.assert_array_equal(all_vectors(store, rows), expected)
    assert (store.count, store.dim, store.dtype, store.fingerprint) == (16, DIM, "float32", "embedder")
    assert all(block.dtype == np.float32 for _, block in blocks)


def test_a_block_that_is_kept_stays_as_it_is(tmp_path):
    store = written(tmp_path)
    kept = [block for _, block in store.blocks(3)]
    np.testing.assert_array_equal(np.concatenate(kept), all_vectors(store, 100))


def test_items_are_read_back_as_they_were_put_odd_names_included(tmp_path):
    store = written(tmp_path)
    assert list(store.items()) == [row for number, count in enumerate(COUNTS) for row in rows_of(number, count)]
    assert store.rejects == 2
    assert (tmp_path / "rejects.csv").read_text() == (
        'source,key,reason\nset,broken 1,"why, so"\nset,broken 3,"why, so"\n'
    )


def test_half_precision_and_int8_are_as_near_as_they_can_be(tmp_path):
    expected = np.concatenate([drawn(count, number) for number, count in enumerate(COUNTS)])
    half = all_vectors(written(tmp_path / "half", "float16"))
    np.testing.assert_array_equal(half, expected.astype(np.float16).astype(np.float32))
    whole = all_vectors(written(tmp_path / "int8", "int8"))
    start = 0
    for number, count in enumerate(COUNTS):
        chunk, scale = expected[start : start + count], np.load(tmp_path / "int8" / f"scale-{number:05d}.npy")
        assert scale.dtype == np.float32 and scale.shape == (DIM,)
        np.testing.assert_allclose(scale, np.abs(chunk).max(axis=0, initial=0) / 127, rtol=1e-6)
        assert (np.abs(whole[start : start + count] - chunk) <= scale * 0.5001).all()
        assert np.load(tmp_path / "int8" / f"vectors-{number:05d}.npy").dtype == np.int8
        start += count


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 1e5), ("float16", np.inf), ("int8", np.nan), ("int8", np.inf)]
)
def test_numbers_that_the_dtype_does_not_hold_are_refused(tmp_path, dtype, value):
    vectors = drawn(2)
    vectors[1, 2] = value
    if (dtype, value) == ("int8", 1e5):
        Writer(tmp_path, "a", DIM, dtype).put(0, vectors, rows_of(0, 2))
        return
    with pytest.raises(BadInput) as error:
        Writer(tmp_path, "a", DIM, dtype).put(0, vectors, rows_of(0, 2))
    assert "choose float32" in one_line(error)
    assert not Writer(tmp_path, "a", DIM, dtype).has(0)


def test_a_chunk_needs_an_item_a_vector_of_its_dimension(tmp_path):
    writer = Writer(tmp_path, "a", DIM)
    for vectors, rows in ((drawn(2), rows_of(0, 3)), (drawn(3)[:, :5], rows_of(0, 3))):
        with pytest.raises(ValueError, match="expected"):
            writer.put(0, vectors, rows)
    assert not writer.has(0)


def test_a_store_that_is_not_finished_is_no_store(tmp_path):
    writer = Writer(tmp_path, "a", DIM)
    writer.put(0, drawn(2), rows_of(0, 2))
    with pytest.raises(BadInput, match=r"holds no store\.json"):
        open_store(tmp_path)
    writer.put(2, drawn(2), rows_of(0, 2))
    with pytest.raises(BadInput, match="chunk 1 is missing"):
        writer.finish()
    writer.put(1, drawn(2), rows_of(0, 2))
    writer.finish()
    assert open_store(tmp_path).count == 6
    writer.put(1, drawn(1), rows_of(0, 1))  # store.json told of another chunk 1
    with pytest.raises(BadInput, match=r"holds no store\.json"):
        open_store(tmp_path)


def test_another_embedder_or_dtype_is_refused_and_redone_where_it_is_asked_for(tmp_path):
    written(tmp_path)
    for other in (("other", DIM, "float32"), ("embedder", DIM + 1, "float32"), ("embedder", DIM, "int8")):
        with pytest.raises(BadInput) as error:
            Writer(tmp_path, *other)
        assert "holds other vectors: " in one_line(error) and " was " in one_line(error)
    with pytest.raises(BadInput, match="a chunk was not there, is 7"):
        Writer(tmp_path, "embedder", DIM, keys={"images a chunk": 7})
    with pytest.raises(BadInput, match="expected float32, float16 or int8"):
        Writer(tmp_path, "embedder", DIM, "float64")
    assert open_store(tmp_path).count == 16
    writer = Writer(tmp_path, "embedder", DIM, "int8", redo=True)
    assert not any(writer.has(number) for number in range(5))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["keys.json"]
    writer.put(0, drawn(2), rows_of(0, 2))
    assert writer.finish().count == 2


def test_vectors_without_their_marks_are_not_taken_for_a_stores_own(tmp_path):
    written(tmp_path)
    shutil.rmtree(tmp_path / ".chunks")
    assert open_store(tmp_path).count == 16  # to be read it needs none
    with pytest.raises(BadInput, match="its marks are missing"):
        Writer(tmp_path, "embedder", DIM)


def test_what_is_beyond_the_data_goes(tmp_path):
    store = written(tmp_path)
    writer = Writer(tmp_path, "embedder", DIM)
    writer.keep(5)
    assert open_store(tmp_path) == store
    writer.keep(3)
    assert writer.finish().counts == COUNTS[:3] and not (tmp_path / "items-00003.csv").exists()


def test_equal_stores_have_equal_bytes_and_a_copy_opens(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / name, "int8")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").iterdir() if path.is_file())
    assert len(files) == 3 * len(COUNTS) + 2
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    shutil.copytree(tmp_path / "a", tmp_path / "copy", copy_function=shutil.copyfile)  # other times
    assert open_store(tmp_path / "copy").count == 16
    assert Writer(tmp_path / "copy", "embedder", DIM, "int8").has(0)


@pytest.mark.faults("damage")
def test_a_damaged_chunk_is_named_and_made_again(tmp_path, tried):
    whole = tmp_path / "whole"
    written(whole, "int8")
    expected = all_vectors(open_store(whole))
    kinds = {
        "missing": lambda path: path.unlink(),
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
        "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    }
    for name in ("vectors-00002.npy", "scale-00002.npy", "items-00002.csv"):
        for kind, damage in kinds.items():
            folder = tmp_path / f"{name} {kind}"
            shutil.copytree(whole, folder)
            damage(folder / name)
            with pytest.raises(BadInput) as error:
                open_store(folder)
            assert name in one_line(error) and str(folder) in one_line(error)
            writer = Writer(folder, "embedder", DIM, "int8")
            assert [writer.has(number) for number in range(5)] == [True, True, False, True, True]
            with pytest.raises(BadInput, match="chunk 2 is missing or damaged"):
                writer.finish()
            writer.put(2, drawn(3, 2), rows_of(2, 3))
            writer.finish()
            np.testing.assert_array_equal(all_vectors(open_store(folder)), expected)
    tried(3 * len(kinds))


@pytest.mark.faults("damage")
@pytest.mark.parametrize("name", ["store.json", ".chunks/00001.json", ".chunks/keys.json", ".chunks/times.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": 1, "chunks": [3]}', b'{"made": 1}'])
def test_a_damaged_mark_is_no_traceback_and_no_wrong_vectors(tmp_path, name, content):
    expected = all_vectors(written(tmp_path))
    (tmp_path / name).write_bytes(content)
    try:
        np.testing.assert_array_equal(all_vectors(open_store(tmp_path)), expected)
    except BadInput as error:
        assert name == "store.json" and "\n" not in str(error)
    try:
        writer = Writer(tmp_path, "embedder", DIM)
    except BadInput as error:
        assert name == ".chunks/keys.json" and "\n" not in str(error)
    else:
        if not writer.has(1):
            assert name == ".chunks/00001.json"
            writer.put(1, drawn(0), [])
        writer.finish()
        np.testing.assert_array_equal(all_vectors(open_store(tmp_path)), expected)


@pytest.mark.faults("damage")
def test_a_file_that_is_swapped_after_opening_is_no_other_shape(tmp_path):
    store = written(tmp_path)
    np.save(tmp_path / "vectors-00002.npy", drawn(2))
    with pytest.raises(BadInput, match=r"vectors-00002\.npy cannot be read \(it holds other vectors"):
        list(store.blocks(100))
    (tmp_path / "vectors-00002.npy").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"vectors-00002\.npy cannot be read"):
        list(store.blocks(100))
    (tmp_path / "items-00003.csv").write_text("key,source,class,also\na\n")
    with pytest.raises(BadInput, match=r"items-00003\.csv cannot be read"):
        list(store.items())


@pytest.mark.faults("killed")
def test_a_writer_that_ends_at_any_rename_loses_one_chunk_at_most(tmp_path, monkeypatch, tried):
    expected = all_vectors(written(tmp_path / "whole", "int8"))
    for at in itertools.count():
        folder = tmp_path / str(at)
        with ends_at_rename(monkeypatch, at) as ended:
            written(folder, "int8")
        if not ended:
            break
        writer = Writer(folder, "embedder", DIM, "int8")
        done = [number for number in range(5) if writer.has(number)]
        assert done == list(range(5 - len(done), 5)) and len(done) >= min((at - 1) // 4, 5)
        for number in set(range(5)) - set(done):
            rejects = [("set", f"broken {number}", "why, so")] if number % 2 else []
            writer.put(number, drawn(COUNTS[number], number), rows_of(number, COUNTS[number]), rejects)
        writer.finish()
        np.testing.assert_array_equal(all_vectors(open_store(folder)), expected)
        assert (folder / "store.json").read_bytes() == (tmp_path / "whole/store.json").read_bytes()
    assert at >= 5 * 4
    tried(at)


def test_two_that_make_one_chunk_leave_it_whole(tmp_path, monkeypatch):
    """As where a distributed runner begins a task twice."""
    first, second = (Writer(tmp_path, "embedder", DIM) for _ in range(2))
    appear, begun = chunk_files._appear, []

    def interrupted(path, fill):
        if not begun:
            begun.append(path)
            second.put(0, drawn(4), rows_of(0, 4))
        return appear(path, fill)

    monkeypatch.setattr(chunk_files, "_appear", interrupted)
    first.put(0, drawn(4), rows_of(0, 4))
    np.testing.assert_array_equal(all_vectors(first.finish()), drawn(4))
    assert not list(tmp_path.rglob(".partial-*"))
