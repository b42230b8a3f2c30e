"""The files of one chunk: vectors-NNNNN.npy, scale-NNNNN.npy where they are int8, items-NNNNN.csv.

Each appears whole, by a rename. What was written is known as `made`: count of vectors, SHA-256 of each file. `quick` is
a digest of the files' sizes and times, see `pipeline.marks`.
"""

import csv
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import marks
from pipeline.errors import BadInput, reason
from pipeline.files import csv_line, file_sha256, save_array
from pipeline.guards import machine

DTYPES = ("float32", "float16", "int8")
VECTORS, SCALE, ITEMS = "vectors", "scale", "items"
COLUMNS = ("key", "source", "class", "also")
PARTIAL = ".partial-"
LARGEST_INT8, LARGEST_HALF = 127, 65_504.0


class Row(NamedTuple):
    """What a vector is of."""

    key: str
    source: str
    class_name: str
    also: tuple[str, ...] = ()  # further classes of the image


def paths(folder: Path, number: int, dtype: str) -> dict[str, Path]:
    """VECTORS, SCALE (of int8 alone), ITEMS → the chunk's file."""
    suffixes = {VECTORS: "npy", SCALE: "npy", ITEMS: "csv"}
    return {
        name: folder / f"{name}-{number:05d}.{suffix}"
        for name, suffix in suffixes.items()
        if name != SCALE or dtype == "int8"
    }


def write(folder: Path, number: int, vectors: np.ndarray, rows: Iterable[Row], dtype: str) -> dict[str, Any]:
    """Writes a chunk's files and returns what was made: count, files (name → SHA-256).

    Args:
        vectors: float [n, D]. rows: n of them. dtype: one of DTYPES; int8 gets a scale per dimension, the chunk's own.

    Raises BadInput: numbers that the dtype does not hold.
    """
    stored = _encoded(vectors, dtype, folder, number)
    lines = [csv_line(COLUMNS), *(csv_line(_cells(Row(*row))) for row in rows)]
    if len(lines) != len(vectors) + 1:
        raise ValueError(f"expected an item a vector, got {len(lines) - 1:,} items for {len(vectors):,} vectors")
    held: dict[str, np.ndarray | bytes] = {**stored, ITEMS: "".join(lines).encode()}
    digests = {name: _appear(path, held[name]) for name, path in paths(folder, number, dtype).items()}
    return {"count": len(vectors), "files": digests}


def damaged(folder: Path, number: int, dtype: str, made: Mapping[str, Any], then: str) -> tuple[str, str]:
    """(the file of a chunk that is missing or is not what was made, as part of a line, else ""; `quick` as it is now).

    Where `quick` is as it was `then` the files are taken as equal; else their bytes are compared.
    """
    now = quick(folder, number, dtype)
    if now != then:
        for name, path in paths(folder, number, dtype).items():
            if not path.is_file():
                return f"{path.name} is missing", now
            if file_sha256(path)[:16] != made["files"].get(name):
                return f"{path.name} is damaged: it is not what was written", now
    return "", now


def quick(folder: Path, number: int, dtype: str) -> str:
    return marks.stat_digest(map(str, paths(folder, number, dtype).values()))


def is_made(found: Any) -> bool:
    """Whether what a JSON file holds has the form of `made`."""
    return isinstance(found, dict) and isinstance(found.get("count"), int) and isinstance(found.get("files"), dict)


def read_vectors(folder: Path, number: int, dtype: str, start: int, out: np.ndarray) -> None:
    """Rows of a chunk from `start` on into `out`, float32 [n, D]. Raises BadInput where the file does not hold them."""
    where = paths(folder, number, dtype)
    try:
        found = np.load(where[VECTORS], mmap_mode="r")[start : start + len(out)]
        if found.shape != out.shape:
            raise ValueError(f"it holds other vectors than its store says: {found.shape} instead of {out.shape}")
        if dtype == "int8":
            np.multiply(found, np.load(where[SCALE]), out=out)
        else:
            out[:] = found
    except (OSError, ValueError, EOFError) as error:
        if machine.refuses(error):
            raise
        raise BadInput(f"{where[VECTORS]} cannot be read ({reason(error)}): embed again what it holds") from None


def read_rows(folder: Path, number: int) -> Iterator[Row]:
    """Raises BadInput where the file cannot be read."""
    path = paths(folder, number, "")[ITEMS]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            next(lines)
            for key, source, class_name, also in lines:
                yield Row(key, source, class_name, tuple(json.loads(also)) if also else ())
    except (OSError, ValueError, StopIteration, csv.Error) as error:
        raise BadInput(f"{path} cannot be read ({reason(error)}): embed again what it holds") from None


def remove(folder: Path, number: int) -> None:
    for path in paths(folder, number, "int8").values():
        path.unlink(missing_ok=True)


def _cells(row: Row) -> tuple[str, ...]:
    return (*row[:3], json.dumps(row.also, ensure_ascii=False) if row.also else "")


def _encoded(vectors: np.ndarray, dtype: str, folder: Path, number: int) -> dict[str, np.ndarray]:
    """VECTORS, and SCALE of int8, as they are stored."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if dtype == "float32":
        return {VECTORS: vectors}
    most = float(np.abs(vectors).max(initial=0.0))
    if not np.isfinite(most) or (dtype == "float16" and most > LARGEST_HALF):
        held = "up to 65,504" if dtype == "float16" else "that are finite"
        raise BadInput(f"{folder}: chunk {number} holds {most:g}, {dtype} takes numbers {held}: choose float32")
    if dtype == "float16":
        return {VECTORS: vectors.astype(np.float16)}
    scale = (np.abs(vectors).max(axis=0, initial=0.0) / LARGEST_INT8).astype(np.float32)  # [D]
    steps = np.rint(vectors / np.where(scale > 0, scale, 1)).clip(-LARGEST_INT8, LARGEST_INT8)
    return {VECTORS: steps.astype(np.int8), SCALE: scale}


def _appear(path: Path, held: np.ndarray | bytes) -> str:
    """Writes a file and gives it its name; returns 16 hex digits of its SHA-256.

    Not by `files.atomic_path`, which removes what another writer has begun: a distributed run may begin a chunk twice.
    """
    temporary = path.with_name(f"{PARTIAL}{path.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if isinstance(held, bytes):
                file.write(held)
            else:
                save_array(file, held.dtype, held.shape, [held])
            file.flush()
            os.fsync(file.fileno())  # a renamed file is whole even after a power cut
        digest = file_sha256(temporary)[:16]
        os.replace(temporary, path)
    except Exception as error:
        machine.note(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return digest
