"""Features as ILIAS's authors keep them: HDF5 with `index` (ASCII ids) and `features` (float16 [N, D]).

features_image_queries.hdf5, features_positives.hdf5, features_text_queries.hdf5, features_distractors_%05d.hdf5
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.benchmarks.ilias.truth import object_of
from pipeline.errors import BadInput, reason
from pipeline.vectors.chunk_files import Row

QUERIES, POSITIVES, TEXTS, DISTRACTORS = "image_queries", "positives", "text_queries", "distractors"
READ_ROWS = 1 << 16


def path_of(folder: Path, part: str) -> Path:
    return folder / f"features_{part}.hdf5"


def distractor_path(folder: Path, number: int) -> Path:
    return path_of(folder, f"{DISTRACTORS}_{number:05d}")


class Features:
    """One file of features, opened whenever it is read. Raises BadInput: it is not of the authors' form."""

    fingerprint = ""

    @property
    def identity(self) -> str:
        return files.identity(self.path)

    def __init__(self, path: Path):
        self.path = path
        with _opened(path) as file:
            shape, self.dtype = file["features"].shape, file["features"].dtype.name
            if len(shape) != 2 or not np.issubdtype(file["features"].dtype, np.floating):
                raise BadInput(f"{path}: expected features of floats [N, D], got {self.dtype} {list(shape)}")
            if file["index"].shape != shape[:1]:
                raise BadInput(f"{path}: expected an index entry a vector, got {file['index'].shape} for {shape}")
            self.count, self.dim = shape

    def items(self) -> Iterator[Row]:
        """The ids, row by row; the class is the object, a distractor's its shard."""
        with _opened(self.path) as file:
            for start in range(0, self.count, READ_ROWS):
                for each in _read(file["index"], start, start + READ_ROWS, self.path):
                    key = each.decode("utf-8", "backslashreplace") if isinstance(each, bytes) else str(each)
                    yield Row(key, "ilias", object_of(key))

    def blocks(self, rows: int = READ_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 [≤rows, D]) of the whole file, in order."""
        with _opened(self.path) as file:
            for start in range(0, self.count, rows):
                yield start, _read(file["features"], start, start + rows, self.path).astype(np.float32)


def write(path: Path, ids: Iterable[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    """Writes a file in the authors' form, whole or not at all: float16, chunked by rows.

    ids: N, ASCII. blocks: float [n, dim], N rows in all. Raises BadInput: numbers that float16 does not hold.
    """
    import h5py

    names = list(ids)
    with files.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("index", data=names, shape=(len(names),), dtype=h5py.string_dtype(encoding="ascii"))
        chunk = (max(1, min(len(names), 2**20 // max(2 * dim, 1))), dim)  # a megabyte
        features = file.create_dataset("features", (len(names), dim), np.float16, chunks=chunk if names else None)
        start = 0
        for block in blocks:
            if np.abs(block).max(initial=0) > np.finfo(np.float16).max:
                raise BadInput(f"{path}: expected numbers up to 65,504, as float16 holds them: give unit vectors")
            features[start : start + len(block)] = block.astype(np.float16)
            start += len(block)
        if start != len(names):
            raise ValueError(f"expected a vector an id, got {start:,} vectors for {len(names):,} ids")


def found_distractors(folder: Path) -> list[Features]:
    """The files of distractors in a folder, by number. Raises BadInput: one in between is missing."""
    paths = sorted(folder.glob(f"features_{DISTRACTORS}_[0-9]*.hdf5"))
    for number, path in enumerate(paths):
        if path != distractor_path(folder, number):
            raise BadInput(f"{folder}: expected {distractor_path(folder, number).name} before {path.name}")
    return [Features(path) for path in paths]


@contextmanager
def _opened(path: Path):
    import h5py  # slow to import

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        what = f"does not open as HDF5 ({reason(error)})" if path.exists() else "does not exist"
        raise BadInput(f"expected features as ILIAS's authors keep them: {path} {what}") from None
    with file:
        if missing := {"index", "features"} - set(file):
            raise BadInput(f"{path}: expected datasets index and features, it lacks {' and '.join(sorted(missing))}")
        yield file


def _read(dataset: Any, start: int, stop: int, path: Path) -> np.ndarray:
    try:
        return dataset[start:stop]
    except (OSError, RuntimeError) as error:  # HDF5 knows no third
        raise BadInput(f"{path} cannot be read ({reason(error)}): is it whole?") from None
