"""A benchmark's parts as vectors: embedded once, or read from features that are there; their classes and neighbours.

<out>/vectors/<part>/ a store of `pipeline.vectors`, <out>/search/ neighbours: a killed command goes on from both.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks.labels import Labels, Numbers, numbered
from pipeline.benchmarks.table import Benchmark, Part
from pipeline.console import Progress
from pipeline.retrieval.large import Neighbours, most_similar
from pipeline.vectors.store import BLOCK_VALUES, Vectors, joined

Changed = Callable[[np.ndarray], np.ndarray]  # float32 [n, D] → float32 [n, E]
QUERIES = 16_384  # of a lot: a kill loses no more


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

    def neighbours(
        self, queries: Part, index: Sequence[Part], k: int, changed: Changed | None = None, by: str = ""
    ) -> Neighbours:
        """All of `searched`."""
        count = self.store(queries).count
        found = Neighbours(np.empty((count, k), np.int64), np.empty((count, k), np.float32))
        for lot, near in self.searched(queries, index, k, changed, by):
            found.rows[lot], found.similarities[lot] = near
        return found

    def searched(
        self, queries: Part, index: Sequence[Part], k: int, changed: Changed | None = None, by: str = ""
    ) -> Iterator[tuple[slice, Neighbours]]:
        """(a lot of the queries, the rows of the index with their largest inner product; the query itself, too).

        Each lot is kept on disk, so that a killed search goes on.

        Args:
            changed: what becomes of the vectors before they are compared. by: its name.
        """
        asked, searched = self.store(queries), [self.store(part) for part in index]
        step = max(1, min(QUERIES, BLOCK_VALUES // max(asked.dim, 2 * k)))
        named = [part.identity for part in (asked, *searched)]
        folder = self.out / "search" / f"{queries.name}-{files.fingerprint([named, k, by, step])}"
        progress = Progress(f"bench: searches {queries.name}", asked.count, "queries")
        for first, vectors in asked.blocks(step):
            path = folder / f"{first // step:05d}.npz"
            near = _kept(path)
            timed = near is None
            if near is None:
                blocks = ((at, changed(each) if changed else each) for at, each in joined(searched))
                near = most_similar(changed(vectors) if changed else vectors, blocks, k)
                files.write_arrays(path, near._asdict())
            progress.add(len(vectors), timed=timed)
            yield slice(first, first + len(vectors)), near


def _kept(path: Path) -> Neighbours | None:
    """A lot as it was found before; None where it was not, or its file is damaged."""
    held = files.read_arrays(path)
    return Neighbours(**held) if held and set(held) == set(Neighbours._fields) else None
