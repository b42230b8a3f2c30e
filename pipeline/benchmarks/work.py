"""A benchmark's parts as vectors: embedded once, or read from features that are there; their classes and neighbours.

<out>/vectors/<part>/ a store of `pipeline.vectors`, <out>/search/ neighbours: a killed command goes on from both.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import files
from pipeline.benchmarks.ilias.database import Vectors, identity
from pipeline.benchmarks.labels import Labels, Numbers, numbered
from pipeline.benchmarks.table import Benchmark, Part
from pipeline.console import Progress
from pipeline.retrieval.large import most_similar

Changed = Callable[[np.ndarray], np.ndarray]  # float32 [n, D] → float32 [n, E]
QUERIES = 16_384  # of a lot: a kill loses no more
BLOCK_VALUES = 1 << 25  # numbers of a block of the index, and of the queries asked at a time: 128 MB


class Near(NamedTuple):
    """The neighbours of some queries."""

    first: int  # the row of the first of them
    rows: np.ndarray  # int64 [q, k], of the index; -1 for none
    similarities: np.ndarray  # float32 [q, k], falling; -inf for none


class Work:
    """What a protocol asks for. `command.main` makes it."""

    def __init__(
        self,
        benchmark: Benchmark,
        parts: Sequence[Part],
        out: Path,
        opened: Callable[[Part], Vectors],
        root: Path,
        features: Path | None = None,
        distractors: str = "",
        mini: bool = False,
    ):
        """`root`: of the benchmark. `features`: where the embedder is a folder of features. The others: of ILIAS."""
        self.benchmark, self.parts, self.out = benchmark, tuple(parts), out
        self.root, self.features, self.distractors, self.mini = root, features, distractors, mini
        self.numbers: Numbers = {}
        self.notes: list[str] = []  # what the result does not say of itself; a protocol may add to it
        self._opened, self._stores, self._labels = opened, dict[str, Vectors](), dict[str, Labels]()

    def store(self, part: Part) -> Vectors:
        """The vectors of a part, in the order of its listing without the images that cannot be read."""
        if part.name not in self._stores:
            self._stores[part.name] = self._opened(part)
        return self._stores[part.name]

    def count(self, parts: Sequence[Part]) -> int:
        return sum(self.store(part).count for part in parts)

    def labels(self, part: Part) -> Labels:
        """The classes of a part's images; those of two domains differ."""
        if part.name not in self._labels:
            classes = ((name, *also) for _, _, name, also in self.store(part).items())
            self._labels[part.name] = numbered(part.domain, classes, self.numbers)
        return self._labels[part.name]

    def keys(self, part: Part) -> Iterator[str]:
        return (key for key, *_ in self.store(part).items())

    def rows_of(self, queries: Part, index: Sequence[Part]) -> np.ndarray:
        """int64 [Q], the row of the index that each query is: in its own part by place, in another by key; else -1."""
        start, wanted = 0, self.store(queries).count
        for part in index:
            if part.name == queries.name:
                return np.arange(start, start + wanted)
            start += self.store(part).count
        row_of: dict[str, int] = {}
        start = 0
        for part in index:
            if part.domain == queries.domain:
                row_of.update((key, start + row) for row, key in enumerate(self.keys(part)))
            start += self.store(part).count
        return np.array([row_of.get(key, -1) for key in self.keys(queries)], np.int64)

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
        """All of `searched`: rows int64 [Q, k], similarities float32 [Q, k]."""
        count = self.store(queries).count
        rows, similarities = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
        for near in self.searched(queries, index, k, changed, by):
            here = slice(near.first, near.first + len(near.rows))
            rows[here], similarities[here] = near.rows, near.similarities
        return rows, similarities

    def searched(
        self, queries: Part, index: Sequence[Part], k: int, changed: Changed | None = None, by: str = ""
    ) -> Iterator[Near]:
        """The rows of the index with the largest inner product, ties by the smaller row; the query itself, too.

        So many queries at a time; each lot is kept on disk, so that a killed search goes on.

        Args:
            changed: what becomes of the vectors before they are compared. by: its name.
        """
        asked = self.store(queries)
        step = max(1, min(QUERIES, BLOCK_VALUES // max(asked.dim, 2 * k)))
        named = [identity(self.store(part)) for part in (queries, *index)]
        folder = self.out / "search" / f"{queries.name}-{files.fingerprint([named, k, by, step])}"
        progress = Progress(f"bench: searches {queries.name}", asked.count, "queries")
        for first, vectors in asked.blocks(step):
            path = folder / f"{first // step:05d}.npz"
            near = _kept(path, first)
            timed = near is None
            if near is None:
                blocks = ((at, changed(each) if changed else each) for at, each in self.blocks(index))
                near = Near(first, *most_similar(changed(vectors) if changed else vectors, blocks, k))
                files.write_arrays(path, {"rows": near.rows, "similarities": near.similarities})
            progress.add(len(vectors), timed=timed)
            yield near


def _kept(path: Path, first: int) -> Near | None:
    """A lot as it was found before; None where it was not, or its file is damaged."""
    held = files.read_arrays(path)
    return Near(first, **held) if held and set(held) == {"rows", "similarities"} else None
