"""The one cache of arrays: rows by content and model, whole parts, memory-mapped where that is possible."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.array_cache import ArrayCache, content_key


def test_rows_come_back_in_the_order_that_is_asked_for_whatever_part_they_are_in(tmp_path: Path):
    cache = ArrayCache(tmp_path, "model")
    cache.put(["a", "b", "c"], vectors=np.arange(6.0).reshape(3, 2), boxes=np.arange(3))
    cache.put(["d"], vectors=np.array([[9.0, 9.0]]), boxes=np.array([7]))
    for found in (cache, ArrayCache(tmp_path, "model")):  # the second reads what is on disk
        rows = found.get(["d", "b", "d", "a"])
        assert rows["vectors"].tolist() == [[9, 9], [2, 3], [9, 9], [0, 1]]
        assert rows["boxes"].tolist() == [7, 1, 7, 0]
        assert found.missing(["e", "a", "e", "f"]) == ["e", "f"] and "c" in found
        with pytest.raises(KeyError):
            found.get(["a", "nowhere"])
    assert cache.get([]) == {}


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), max_size=5), st.data())
def test_what_is_put_is_what_is_got(tmp_path_factory, parts: list[list[int]], data):
    cache, known = ArrayCache(tmp_path_factory.mktemp("cache"), "model"), {}
    for part in parts:
        new = [number for number in part if str(number) not in cache]
        cache.put([str(number) for number in new], values=np.array(new, np.int64))
        known |= {str(number): number for number in new}
    asked = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=8)) if known else []
    if asked:
        assert cache.get(asked)["values"].tolist() == [known[key] for key in asked]


@pytest.mark.faults("stale results")
def test_another_model_and_other_bytes_find_nothing(tmp_path: Path):
    cache = ArrayCache(tmp_path, ["encoder", 224])
    cache.put([content_key(b"image")], vectors=np.ones((1, 2)))
    assert ArrayCache(tmp_path, ["encoder", 256]).missing([content_key(b"image")])
    assert cache.missing([content_key(b"image.")]) and not cache.missing([content_key(b"image")])


@pytest.mark.faults("kill")
def test_one_part_in_its_own_order_is_memory_mapped_and_a_half_written_part_is_not_seen(tmp_path: Path):
    cache = ArrayCache(tmp_path, "model")
    cache.put(["a", "b"], vectors=np.eye(2))
    assert isinstance(cache.get(["a", "b"])["vectors"], np.memmap)
    half = cache.folder / ".partial-0123-99"
    half.mkdir()
    (half / "keys.npy").write_bytes(b"\x93NUMPY")
    again = ArrayCache(tmp_path, "model")
    assert again.get(["b"])["vectors"].tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="expected 1 rows of vectors, got 2"):
        cache.put(["c"], vectors=np.eye(2))
    assert not list(cache.folder.glob("[!.]*c*")) and ArrayCache(tmp_path, "model").missing(["c"]) == ["c"]
