"""What a query is searched in: the positives, then the distractors, part after part, none of them in memory as a whole.

A part is a store of `pipeline.vectors`, a file of features as the authors keep them, or the listed images of either.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks.ilias.hdf5 import READ_ROWS, found_distractors
from pipeline.errors import BadInput
from pipeline.retrieval.large import Block
from pipeline.vectors.chunk_files import Row
from pipeline.vectors.store import NAME, Vectors, folders_in, joined, open_store
from tfrecords.benchmarks import ilias as layout


class Listed:
    """Those images of a part of the distractors whose ids are listed, as mini-ILIAS's are.

    listed: bytes [M], sorted, as `layout.read_keys` gives them: of `yfcc100m_0007.tar/123` what follows the shard.
    """

    def __init__(self, part: Vectors, listed: np.ndarray):
        self.part, self.dim, self.dtype, self.fingerprint = part, part.dim, part.dtype, part.fingerprint
        keys, chosen = (row.key.partition("/")[2] for row in part.items()), [np.zeros(0, bool)]
        while block := list(islice(keys, layout.BLOCK)):
            chosen.append(layout.are_in(listed, block))
        self.chosen = np.concatenate(chosen)  # bool [N]
        self.count = int(self.chosen.sum())

    @property
    def identity(self) -> str:
        return files.fingerprint([self.part.identity, hashlib.sha256(self.chosen.tobytes()).hexdigest()])

    def items(self) -> Iterator[Row]:
        return (row for row, chosen in zip(self.part.items(), self.chosen, strict=True) if chosen)

    def blocks(self, rows: int = READ_ROWS) -> Iterator[Block]:
        first = 0
        for start, block in self.part.blocks(rows):
            kept = block[self.chosen[start : start + len(block)]]
            if len(kept):
                yield first, kept
            first += len(kept)


@dataclass(frozen=True)
class Database:
    """Parts one after another, of one width. Raises BadInput: a part of another width."""

    parts: Sequence[Vectors]

    def __post_init__(self) -> None:
        widths = sorted({part.dim for part in self.parts if part.count})
        if len(widths) > 1:
            raise BadInput(f"expected positives and distractors of one embedder, got vectors of {widths} numbers")

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def stored_as(self) -> str:
        """The dtypes of the vectors, such as `float16`."""
        return " and ".join(sorted({part.dtype for part in self.parts if part.count}))

    def blocks(self, number: int) -> Iterator[Block]:
        """Of one part; rows count through all parts."""
        first = sum(each.count for each in self.parts[:number])
        return ((first + start, block) for start, block in joined([self.parts[number]]))

    def ids_of(self, rows: np.ndarray) -> dict[int, str]:
        """Row → id, of the rows asked for. Reads the ids of every part that has one of them, once."""
        found: dict[int, str] = {}
        first = 0
        for part in self.parts:
            wanted = set(rows[(rows >= first) & (rows < first + part.count)].tolist())
            if wanted:
                found.update((row, each.key) for row, each in enumerate(part.items(), first) if row in wanted)
            first += part.count
        return found


def distractors(folder: Path, fingerprint: str = "", needed: bool = True) -> list[Vectors]:
    """The vectors of distractors that lie in a folder: a store, folders of one each, or features of the authors' form.

    Args:
        fingerprint: of the embedder of the queries; "" where nobody knows it.
        needed: whether a folder without any is refused.

    Raises BadInput: none of these, or a store of another embedder.
    """
    stores = [open_store(place) for place in folders_in(folder).values()]
    for each in stores:
        if fingerprint not in ("", each.fingerprint):
            raise BadInput(f"{each.folder}: expected vectors of the embedder of the queries, they are of another one")
    found: list[Vectors] = [*stores] if stores else [*found_distractors(folder)]
    if needed and not found:
        expected = f"a store of vectors ({NAME}), folders of one each, or features_distractors_00000.hdf5"
        raise BadInput(f"--distractors {folder}: expected {expected}")
    return found
