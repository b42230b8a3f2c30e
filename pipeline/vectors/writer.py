"""Writes a store chunk by chunk; killed at any moment, it goes on with the first chunk that is not done.

A chunk is done when `.chunks/NNNNN.json`, its mark, describes its files. The mark is written after them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files, marks
from pipeline.errors import BadInput
from pipeline.vectors import chunk_files
from pipeline.vectors.chunk_files import DTYPES, PARTIAL, Row
from pipeline.vectors.store import FORMAT, MARKS, NAME, REJECTS, TIMES, Store

KEYS = "keys.json"
Reject = tuple[str, str, str]  # source, key, reason


class Writer:
    """The chunks of one store, in one process or in many on a shared disk.

    Args:
        folder: of the store.
        fingerprint: of the embedder.
        dim: numbers of a vector.
        dtype: float32, float16, or int8 with a scale a dimension and chunk.
        keys: what else decides the vectors, such as how many images a chunk has.
        redo: a store of another embedder, dtype or `keys` is removed and begun anew.

    Raises BadInput: the folder holds such a store (without `redo`), or one without its marks; an unknown dtype.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        dim: int,
        dtype: str = "float32",
        *,
        keys: Mapping[str, Any] | None = None,
        redo: bool = False,
    ):
        if dtype not in DTYPES:
            raise BadInput(f"dtype: expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {dtype!r}")
        self.folder, self.fingerprint, self.dim, self.dtype = folder, fingerprint, dim, dtype
        self._claim({"format": FORMAT, "embedder": fingerprint, "dim": dim, "dtype": dtype, **(keys or {})}, redo)

    def has(self, number: int) -> bool:
        """Whether the chunk is done and its files are those that were written."""
        return self.mark(number) is not None

    def mark(self, number: int) -> dict[str, Any] | None:
        """The mark of a chunk that is done; None where there is none, or a file is missing or damaged."""
        try:
            mark = json.loads(self._mark_path(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not _is_mark(mark):
            return None
        wrong, now = chunk_files.damaged(self.folder, number, self.dtype, mark["made"], mark.get("quick", ""))
        if wrong:
            return None
        if mark.get("quick") != now:
            mark["quick"] = now
            files.write_json(self._mark_path(number), mark)
        return mark

    def put(
        self,
        number: int,
        vectors: np.ndarray,
        items: Iterable[Row | tuple[str, str, str, tuple[str, ...]]],
        rejects: Sequence[Reject] = (),
        made_of: Mapping[str, str] | None = None,
    ) -> None:
        """Writes a chunk, whole or not at all; in place of one that is there.

        Args:
            number: 0, 1, … vectors: float [n, D]. items: n of them, see `Row`.
            rejects: of the chunk, images without a vector.
            made_of: what the chunk depends on, for whoever asks `mark` whether it is stale.

        Raises BadInput: numbers that the dtype does not hold. ValueError: other shapes.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"expected vectors [n, {self.dim}], got {list(vectors.shape)}")
        (self.folder / NAME).unlink(missing_ok=True)  # it tells of all chunks
        self._mark_path(number).unlink(missing_ok=True)
        made = chunk_files.write(self.folder, number, vectors, (Row(*row) for row in items), self.dtype)
        mark = {
            "made": made,
            "quick": chunk_files.quick(self.folder, number, self.dtype),
            "rejects": [list(reject) for reject in rejects],
            "made_of": dict(made_of or {}),
        }
        files.write_json(self._mark_path(number), mark)

    def renew(self, number: int, mark: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
        """The mark of a done chunk, made of the same images: their files have other times alone."""
        files.write_json(self._mark_path(number), {**mark, "made_of": dict(made_of)})

    def made_of(self, number: int) -> Mapping[str, str]:
        """As `put` was given it, of a chunk that is done."""
        return (self.mark(number) or {"made_of": {}})["made_of"]

    def finish(self) -> Store:
        """Writes rejects.csv and, last, store.json.

        The chunks are 0 … C − 1; what is beyond them was removed by `keep`. Raises BadInput: a chunk that is not done.
        """
        numbers = range(len(list((self.folder / MARKS).glob("[0-9]*.json"))))
        chunks, times, rejects = [], [], []
        for number in numbers:
            mark = self.mark(number)
            if mark is None:
                raise BadInput(f"{self.folder}: chunk {number} is missing or damaged: the same command makes it again")
            chunks.append(mark["made"])
            times.append(mark["quick"])
            rejects += mark["rejects"]
        files.write_csv(self.folder / REJECTS, ("source", "key", "reason"), rejects)
        held = {"format": FORMAT, "embedder": self.fingerprint, "dim": self.dim, "dtype": self.dtype}
        held["rejects"] = len(rejects)
        files.write_json(self.folder / MARKS / TIMES, times)
        files.write_json(self.folder / NAME, {**held, "chunks": chunks})
        counts = tuple(made["count"] for made in chunks)
        return Store(self.folder, self.fingerprint, self.dim, self.dtype, counts, len(rejects))

    def keep(self, chunks: int) -> None:
        """Removes what is beyond the first `chunks`: the data has become less since."""
        for path in sorted((self.folder / MARKS).glob("[0-9]*.json")):
            if int(path.stem) >= chunks:
                (self.folder / NAME).unlink(missing_ok=True)
                path.unlink()
                chunk_files.remove(self.folder, int(path.stem))

    def _claim(self, keys: dict[str, Any], redo: bool) -> None:
        path = self.folder / MARKS / KEYS
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            why = marks.changed_keys(held, keys) if isinstance(held, dict) else ["its mark is damaged"]
        except FileNotFoundError:
            others = (self.folder / NAME).exists() or any(self.folder.glob("vectors-[0-9]*.npy"))
            why, held = ["its marks are missing"] if others else [], None
        except (OSError, ValueError):
            why, held = ["its mark is damaged"], None
        if why and not redo:
            said = f"{self.folder} holds other vectors: {marks.said(why)}"
            raise BadInput(f"{said}; choose another folder, or remove this one to make it anew")
        if why:
            print(f"vectors: {marks.said(why)}: done again", flush=True)
            self.clear()
        if why or held is None:
            files.write_json(path, keys)

    def clear(self) -> None:
        """Removes the store: chunks, marks, store.json."""
        for pattern in (NAME, REJECTS, "vectors-[0-9]*.npy", "scale-[0-9]*.npy", "items-[0-9]*.csv"):
            for path in self.folder.glob(pattern):
                path.unlink()
        files.remove(self.folder / MARKS)
        self.remove_partial()

    def remove_partial(self) -> None:
        """What writers that were killed have left. Call it while nobody else writes."""
        for stale in self.folder.glob(f"{PARTIAL}*"):
            stale.unlink(missing_ok=True)

    def _mark_path(self, number: int) -> Path:
        return self.folder / MARKS / f"{number:05d}.json"


def _is_mark(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and chunk_files.is_made(found.get("made"))
        and isinstance(found.get("made_of"), dict)
        and isinstance(found.get("rejects"), list)
    )
