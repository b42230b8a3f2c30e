"""A benchmark's parts as vectors: embedded once, or read from features that are there; their classes and neighbours.

<out>/vectors/<part>/ a store of `pipeline.vectors`, <out>/search/*.npz neighbours: a killed command goes on from both.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks.labels import Labels, Numbers, numbered
from pipeline.benchmarks.table import Benchmark, Part
from pipeline.console import Progress
from pipeline.retrieval.large import most_similar
from pipeline.vectors.store import Store

Changed = Callable[[np.ndarray], np.ndarray]  # float32 [n, D] → float32 [n, E]
BLOCK_VALUES = 1 << 25  # numbers of a block of the index, and of the queries asked at a time: 128 MB


class Work:
    """What a protocol asks for. `command.main` makes it."""

    def __init__(
        self,
        benchmark: Benchmark,
        parts: Sequence[Part],
        out: Path,
        opened: Callable[[Part], Store],
        distractors: str = "",
    ):
        self.benchmark, self.parts, self.out, self.distractors = benchmark, tuple(parts), out, distractors
        self.numbers: Numbers = {}
        self.notes: list[str] = []  # what the result does not say of itself; a protocol may add to it
        self._opened, self._stores = opened, dict[str, Store]()

    def store(self, part: Part) -> Store:
        """The vectors of a part, in the order of its listing without the images that cannot be read."""
        if part.name not in self._stores:
            self._stores[part.name] = self._opened(part)
        return self._stores[part.name]

    def count(self, parts: Sequence[Part]) -> int:
        return sum(self.store(part).count for part in parts)

    def labels(self, part: Part) -> Labels:
        """The classes of a part's images; those of two domains differ."""
        classes = ((name, *also) for _, _, name, also in self.store(part).items())
        return numbered(part.domain, classes, self.numbers)

    def keys(self, part: Part) -> Iterator[str]:
        return (key for key, *_ in self.store(part).items())

    def rows_of(self, queries: Part, index: Sequence[Part]) -> np.ndarray:
        """int64 [Q], the row of the index that each query is: in its own part by place, in another by key; else -1."""
        start, wanted = 0, self.store(queries).count
        for part in index:
            if part.name == queries.name:
                return np.arange(start, start + wanted)
            start += self.store(part).count
        row_of: dict[tuple[str, str], int] = {}
        start = 0
        for part in index:
            if part.domain == queries.domain:
                row_of.update(((key, part.domain), start + row) for row, key in enumerate(self.keys(part)))
            start += self.store(part).count
        return np.array([row_of.get((key, queries.domain), -1) for key in self.keys(queries)], np.int64)

    def blocks(self, parts: Sequence[Part]) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, float32 [n, D]) of several parts one after another."""
        start = 0
        for part in parts:
            store = self.store(part)
            for first, block in store.blocks(max(1, BLOCK_VALUES // store.dim)):
                yield start + first, block
            start += store.count

    def neighbours(
        self, queries: Part, index: Sequence[Part], k: int, changed: Changed | None = None, by: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the index with the largest inner product, ties by the smaller row; the query itself, too.

        Args:
            changed: what becomes of the vectors before they are compared. by: its name.

        Returns:
            (rows int64 [Q, k], similarities float32 [Q, k]), -1 and -inf for none. Kept on disk, for the same vectors.
        """
        named = [files.identity(self.store(part).folder / "store.json") for part in (queries, *index)]
        path = self.out / "search" / f"{queries.name}-{files.fingerprint([named, k, by])}.npz"
        if path.is_file():
            with np.load(path) as held:
                return held["rows"], held["similarities"]
        asked = self.store(queries)
        step = max(1, BLOCK_VALUES // max(asked.dim, 2 * k))
        rows, similarities = np.full((asked.count, k), -1, np.int64), np.full((asked.count, k), -np.inf, np.float32)
        progress = Progress(f"bench: searches {queries.name}", asked.count, "queries")
        for first, vectors in asked.blocks(step):
            here = slice(first, first + len(vectors))
            blocks = self.blocks(index) if changed is None else ((at, changed(each)) for at, each in self.blocks(index))
            rows[here], similarities[here] = most_similar(changed(vectors) if changed else vectors, blocks, k)
            progress.add(len(vectors))
        with files.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, rows=rows, similarities=similarities)
        return rows, similarities
