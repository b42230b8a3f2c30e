"""A store of vectors, opened: a folder of chunks and `store.json`, which is written last.

store.json: `format`, `embedder` (its fingerprint), `dim`, `dtype`, `rejects` (their number), `chunks` (of each what
`chunk_files.write` made)
rejects.csv: source,key,reason of the images without a vector
.chunks/times.json: of each chunk `quick` when it was last known to be whole; without it all files are read
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline import files
from pipeline.errors import BadInput
from pipeline.retrieval.large import Block
from pipeline.vectors import chunk_files
from pipeline.vectors.chunk_files import DTYPES, Row

FORMAT = 1
NAME, REJECTS = "store.json", "rejects.csv"
MARKS, TIMES = ".chunks", "times.json"
BLOCK_ROWS = 65_536
BLOCK_VALUES = 1 << 25  # numbers of a block that is searched: 128 MB
AGAIN = "run again what wrote it: it makes what is missing or damaged, and nothing else"


class Vectors(Protocol):
    """N vectors and what each is of: a store, or a file of features that is read as it is."""

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def dtype(self) -> str:
        """As they are stored."""

    @property
    def fingerprint(self) -> str:
        """Of the embedder; of features that others made "": nobody knows it."""

    @property
    def identity(self) -> str:
        """16 hex digits of what it holds."""

    def items(self) -> Iterator[Row]: ...

    def blocks(self, rows: int = ...) -> Iterator[Block]: ...


def joined(parts: Sequence[Vectors]) -> Iterator[Block]:
    """The blocks of several parts one after another, of BLOCK_VALUES numbers; rows count on through all parts."""
    start = 0
    for part in parts:
        for first, block in part.blocks(max(1, BLOCK_VALUES // max(part.dim, 1))):
            yield start + first, block
        start += part.count


@dataclass(frozen=True)
class Store:
    """Vectors and what each is of, in the order of their chunks. `open_store` and `Writer.finish` make it."""

    folder: Path
    fingerprint: str  # of the embedder
    dim: int
    dtype: str  # as they are stored; they are given as float32
    counts: tuple[int, ...]  # vectors of each chunk
    rejects: int = 0  # images without a vector

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def identity(self) -> str:
        return files.identity(self.folder / NAME)  # what was written last

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """All vectors in order, `rows` at a time: (first row, float32 [n, D]); the last block may be smaller.

        Memory is bounded by one block. Raises BadInput: a file that cannot be read.
        """
        total, first, filled = self.count, 0, 0
        block = np.empty((min(rows, total), self.dim), np.float32)
        for number, count in enumerate(self.counts):
            at = 0
            while at < count:
                taken = min(count - at, len(block) - filled)
                chunk_files.read_vectors(self.folder, number, self.dtype, at, block[filled : filled + taken])
                at, filled = at + taken, filled + taken
                if filled == len(block):
                    yield first, block
                    first += filled
                    block, filled = np.empty((min(rows, total - first), self.dim), np.float32), 0

    def items(self) -> Iterator[Row]:
        """(key, source, class, further classes) of every vector, in order. Raises BadInput as `blocks`."""
        for number, count in enumerate(self.counts):
            found = 0
            for row in chunk_files.read_rows(self.folder, number):
                found += 1
                yield row
            if found != count:
                raise BadInput(f"{self.folder}: expected {count:,} items in chunk {number}, got {found:,}: {AGAIN}")


def folders_in(folder: Path) -> dict[str, Path]:
    """Name → folder of the stores that lie in a folder; "" → the folder, where it is one itself."""
    if (folder / NAME).is_file():
        return {"": folder}
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{NAME}"))}


def open_store(folder: Path) -> Store:
    """Opens a store that is whole; looks at every file's size and times, and reads those that have others.

    Raises BadInput: no store, one that is not finished, a file that is missing or damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise BadInput(f"{folder}: expected a store of vectors, it holds no {NAME}: was it written to its end?")
    held = files.read_json(path)
    if not _is_store(held):
        raise BadInput(f"{path} is damaged or of another version of guie: {AGAIN}")
    then, times = _times(folder), []
    for number, made in enumerate(held["chunks"]):
        before = then[number] if number < len(then) else ""
        wrong, now = chunk_files.damaged(folder, number, held["dtype"], made, before)
        if wrong:
            raise BadInput(f"{folder}: {wrong}: {AGAIN}")
        times.append(now)
    if times != then:
        with contextlib.suppress(OSError):  # a folder that is only looked at
            files.write_json(folder / MARKS / TIMES, times)
    counts = tuple(made["count"] for made in held["chunks"])
    return Store(folder, held["embedder"], held["dim"], held["dtype"], counts, held["rejects"])


def _times(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / MARKS / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


def _is_store(held: Any) -> bool:
    return (
        isinstance(held, dict)
        and held.get("format") == FORMAT
        and held.get("dtype") in DTYPES
        and isinstance(held.get("dim"), int)
        and isinstance(held.get("embedder"), str)
        and isinstance(held.get("rejects"), int)
        and isinstance(held.get("chunks"), list)
        and all(map(chunk_files.is_made, held["chunks"]))
    )
