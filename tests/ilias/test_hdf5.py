"""Features as ILIAS's authors keep them: read as they are, written so that their code reads them."""

import h5py
import numpy as np
import pytest

from pipeline.benchmarks.ilias import hdf5
from pipeline.errors import BadInput
from tests.ilias import drawn
from tfrecords.listing.unzipped import escaped


@pytest.mark.parametrize("compression", [0, 9])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_files_of_the_authors_are_read_as_they_are(tmp_path, compression, dtype):
    ids = [f"it's_00{number}/pos/P00{number}_00.jpg" for number in range(7)]
    vectors = np.random.default_rng(1).normal(size=(7, 5))
    drawn.features(tmp_path / "a.hdf5", ids, vectors, compression, dtype)
    found = hdf5.Features(tmp_path / "a.hdf5")
    assert (found.count, found.dim, found.dtype) == (7, 5, np.dtype(dtype).name)
    assert [row.key for row in found.items()] == ids and {row.class_name for row in found.items()} >= {"it's_003"}
    blocks = list(found.blocks(3))
    assert [first for first, _ in blocks] == [0, 3, 6] and all(block.dtype == np.float32 for _, block in blocks)
    assert np.array_equal(np.concatenate([block for _, block in blocks]), vectors.astype(dtype).astype(np.float32))


def test_what_is_written_is_read_back_by_the_authors_code(tmp_path):
    ids = [escaped(f"čaj_{number:03d}/query/Q{number:03d}_00.jpg") for number in range(300)]
    vectors = np.random.default_rng(2).normal(size=(300, 4)).astype(np.float32)
    hdf5.write(tmp_path / "b.hdf5", iter(ids), iter([vectors[:100], vectors[100:]]), 4)
    found, features = drawn.read(tmp_path / "b.hdf5")
    assert found == ids and features.dtype == np.float16 and np.array_equal(features, vectors.astype(np.float16))
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert h5py.check_string_dtype(file["index"].dtype).encoding == "ascii"
    again = hdf5.Features(tmp_path / "b.hdf5")
    assert np.array_equal(next(again.blocks())[1], features.astype(np.float32))


def test_no_file_appears_where_writing_fails(tmp_path):
    with pytest.raises(BadInput, match="up to 65,504"):
        hdf5.write(tmp_path / "c.hdf5", ["a", "b"], [np.full((2, 3), 1e6)], 3)
    with pytest.raises(ValueError, match="1 vectors for 2 ids"):
        hdf5.write(tmp_path / "c.hdf5", ["a", "b"], [np.ones((1, 3))], 3)
    assert not list(tmp_path.iterdir())


def test_a_file_of_distractors_that_is_missing_in_between_is_named(tmp_path):
    folder = drawn.ilias(tmp_path)
    assert [part.count for part in hdf5.found_distractors(folder)] == [53, 1, 120]
    hdf5.distractor_path(folder, 1).unlink()
    with pytest.raises(BadInput, match=r"expected features_distractors_00001.hdf5 before .*_00002"):
        hdf5.found_distractors(folder)


@pytest.mark.faults("damage")
def test_damaged_files_of_features_are_named(tmp_path, tried):
    path = tmp_path / "features_positives.hdf5"
    drawn.features(path, ["a/pos/x"] * 4000, np.ones((4000, 8)), compression=4)
    whole = path.read_bytes()
    cases = {
        "does not open as HDF5": b"not one",
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "zeros": whole[:2048] + bytes(len(whole) - 2048),
    }
    for name, data in cases.items():
        path.write_bytes(data)
        with pytest.raises(BadInput, match=r"HDF5|cannot be read|expected"):
            found = hdf5.Features(path)
            list(found.blocks()), list(found.items())
        assert name
    for lacking in ("index", "features"):
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            del file[lacking]
        with pytest.raises(BadInput, match=f"it lacks {lacking}"):
            hdf5.Features(path)
    with pytest.raises(BadInput, match="does not exist"):
        hdf5.Features(tmp_path / "none.hdf5")
    tried(len(cases) + 3)


@pytest.mark.parametrize(
    "ids, vectors, said",
    [
        (["a"], np.ones((2, 3)), "an index entry a vector"),
        (["a", "b"], np.ones(2), "features of floats"),
        (["a", "b"], np.ones((2, 3), np.int64), "features of floats"),
    ],
)
def test_files_of_another_form_are_named(tmp_path, ids, vectors, said):
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file.create_dataset("index", data=ids, dtype=h5py.string_dtype(encoding="ascii"))
        file.create_dataset("features", data=vectors)
    with pytest.raises(BadInput, match=said):
        hdf5.Features(tmp_path / "d.hdf5")
