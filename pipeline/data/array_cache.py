"""Arrays that a model made of some content, kept on disk: computed once, found again by content and model.

A row is known by its content's key, the folder by all that decides what is computed from it. So nothing in a cache is
ever stale. Rows are written in parts, a folder of `.npy` files each; a part appears whole or not at all.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import atomic_path, fingerprint

KEYS = "keys.npy"


def content_key(content: bytes) -> str:
    """32 hex digits of the bytes; equal bytes, equal key."""
    return hashlib.sha256(content).hexdigest()[:32]


class ArrayCache:
    """Rows of arrays by key.

    >>> import tempfile
    >>> cache = ArrayCache(Path(tempfile.mkdtemp()), ["some encoder", 224])
    >>> cache.put(["a", "b"], vectors=np.eye(2))
    >>> cache.missing(["b", "c"]), cache.get(["b", "a"])["vectors"].tolist()
    (['c'], [[0.0, 1.0], [1.0, 0.0]])

    Args:
        folder: of caches; each has a folder of its own in it.
        made_by: JSON-able; all that decides the rows but their content: weights, preprocessing, precision, …
    """

    def __init__(self, folder: Path, made_by: Any):
        self.folder = folder / fingerprint(made_by)
        self._where: dict[str, tuple[Path, int]] = {}  # key → (part, row)
        self._open: dict[Path, dict[str, np.ndarray]] = {}  # part → its arrays, memory-mapped
        for part in sorted(self.folder.glob("[!.]*")):
            self._add(part, np.load(part / KEYS).tolist())

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without a row, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def put(self, keys: Sequence[str], **arrays: np.ndarray) -> None:
        """Keeps a row a key; `arrays`: name → [len(keys), …], the same names in every part."""
        if not keys:
            return
        part = self.folder / fingerprint(list(keys))
        with atomic_path(part) as temporary:
            temporary.mkdir()
            for name, array in arrays.items():
                if len(array) != len(keys):
                    raise ValueError(f"expected {len(keys)} rows of {name}, got {len(array)}")
                np.save(temporary / f"{name}.npy", array)
            np.save(temporary / KEYS, np.array(keys, str))
        self._add(part, keys)

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Name → [len(keys), …], rows in the order of `keys`; memory-mapped where they are one part's, in its order."""
        spots = [self._where[key] for key in keys]
        parts = list(dict.fromkeys(part for part, _ in spots))
        if not parts:
            return {}
        opened = [self._arrays(part) for part in parts]
        if len(parts) == 1:
            rows = [row for _, row in spots]
            whole = rows == list(range(len(next(iter(opened[0].values())))))
            return {name: array if whole else array[rows] for name, array in opened[0].items()}
        found = {name: np.empty((len(keys), *array.shape[1:]), array.dtype) for name, array in opened[0].items()}
        for part, arrays in zip(parts, opened, strict=True):
            at = [place for place, (of, _) in enumerate(spots) if of == part]
            rows = [spots[place][1] for place in at]
            for name, array in arrays.items():
                found[name][at] = array[rows]
        return found

    def _add(self, part: Path, keys: Iterable[str]) -> None:
        self._where.update((key, (part, row)) for row, key in enumerate(keys))

    def _arrays(self, part: Path) -> dict[str, np.ndarray]:
        if part not in self._open:
            arrays = sorted(path for path in part.glob("*.npy") if path.name != KEYS)
            self._open[part] = {path.stem: np.load(path, mmap_mode="r") for path in arrays}
        return self._open[part]
