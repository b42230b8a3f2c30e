"""What a query is searched in: the positives, then the distractors, part after part, none of them in memory as a whole.

A part is a store of vectors, a file of features as the authors keep them, or the listed images of either.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.errors import BadInput, reason
from pipeline.retrieval.large import Block

BLOCK_VALUES = 1 << 25  # of a block that is searched: 128 MB


class Part(Protocol):
    """N vectors and the id of each."""

    count: int
    dim: int
    dtype: str  # as they are stored

    def ids(self) -> Iterable[str]: ...

    def blocks(self, rows: int) -> Iterator[Block]: ...


class Listed:
    """Those images of a part of distractors whose ids are listed, as mini-ILIAS's are.

    listed: bytes [M], sorted, as `read_ids` gives them: of `yfcc100m_0007.tar/123` what follows the shard.
    """

    def __init__(self, part: Part, listed: np.ndarray):
        self.part, self.dim, self.dtype = part, part.dim, part.dtype
        found = np.array([each.partition("/")[2].encode() for each in part.ids()] or [b""])
        place = np.minimum(np.searchsorted(listed, found), len(listed) - 1)
        self.chosen = (listed[place] == found)[: part.count]  # bool [N]
        self.count = int(self.chosen.sum())

    def ids(self) -> Iterator[str]:
        return (each for each, chosen in zip(self.part.ids(), self.chosen, strict=True) if chosen)

    def blocks(self, rows: int) -> Iterator[Block]:
        first = 0
        for start, block in self.part.blocks(rows):
            kept = block[self.chosen[start : start + len(block)]]
            if len(kept):
                yield first, kept
            first += len(kept)


@dataclass(frozen=True)
class Database:
    """Parts one after another, of one width. Raises BadInput: a part of another width."""

    parts: Sequence[Part]

    def __post_init__(self) -> None:
        widths = sorted({part.dim for part in self.parts})
        if len(widths) > 1:
            raise BadInput(f"expected queries, positives and distractors of one embedder, got widths {widths}")

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def stored_as(self) -> str:
        """The dtypes of the vectors, for `exact over … vectors`."""
        return " and ".join(sorted({part.dtype for part in self.parts if part.count}))

    def blocks(self) -> Iterator[Block]:
        first = 0
        for part in self.parts:
            for start, block in part.blocks(max(1, BLOCK_VALUES // part.dim)):
                yield first + start, block
            first += part.count

    def ids_of(self, rows: np.ndarray) -> dict[int, str]:
        """Row → id, of the rows asked for. Reads the ids of every part that has one of them, once."""
        found: dict[int, str] = {}
        first = 0
        for part in self.parts:
            wanted = set(rows[(rows >= first) & (rows < first + part.count)].tolist())
            if wanted:
                found.update((row, each) for row, each in enumerate(part.ids(), first) if row in wanted)
            first += part.count
        return found


def read_ids(path: Path) -> np.ndarray:
    """The ids of a list, one a line (the first column of a CSV): bytes [M], sorted. Raises BadInput: none there."""
    try:
        with path.open("rb") as file:
            found = [line.split(b",", 1)[0].strip() for line in file]
    except OSError as error:
        raise BadInput(f"expected a list of ids in {path} ({reason(error)})") from None
    ids = np.unique(np.array([each for each in found if each] or [b""]))
    if not ids[0]:
        raise BadInput(f"{path}: expected an id a line, it has none")
    return ids
