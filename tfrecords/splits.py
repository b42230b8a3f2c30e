"""Which images are selected, and which split each goes to: by hash alone, so order and machine do not matter."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from tfrecords.labels import SPLITS


def digest(salt: str, text: str) -> int:
    """64 bits of BLAKE2b.

    Each use has its own salt. The images of a capped class are those of the lowest hashes: were the split decided by
    the same hash, all of them would go to one split.
    """
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=salt.encode()).digest(), "big")


def split_classes(classes: Iterable[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Class → split, whole classes in exact shares by largest remainder: the counts do not vary by chance.

    Classes are assigned in the order of their hash, so a new class moves few others.

    >>> from collections import Counter
    >>> sorted(Counter(split_classes(map(str, range(96)), {"train": 0.667, "validation": 0.083, "test": 0.25})
    ...     .values()).items())
    [('test', 24), ('train', 64), ('validation', 8)]
    """
    ordered = sorted(classes, key=lambda name: (digest("class-split", name), name))
    exact = [shares[split] * len(ordered) for split in SPLITS]
    counts = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(SPLITS)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: len(ordered) - sum(counts)]:
        counts[i] += 1
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(ordered, splits, strict=True))


def split_item(key: str, shares: Mapping[str, float]) -> str:
    """The split of one image, each with probability `shares`; the key alone decides."""
    position = digest("item-split", key) / 2**64  # in [0, 1]
    for split in SPLITS[:-1]:
        if position < shares[split]:
            return split
        position -= shares[split]
    return next(split for split in reversed(SPLITS) if shares[split] > 0)


class Lowest:
    """The `cap` lowest-ranked entries of a stream, in bounded memory (at most `2 × cap` entries)."""

    __slots__ = ("after", "cap", "entries", "limit", "seen")

    def __init__(self, cap: int, after: tuple | None = None):
        self.cap = cap
        self.after = after  # only ranks above it count, so the next entries of the same stream can be had later
        self.entries: list[tuple] = []
        self.limit: tuple | None = None
        self.seen = 0  # entries offered

    def offer(self, rank: tuple, entry: object) -> None:
        self.seen += 1
        if (self.limit is not None and rank > self.limit) or (self.after is not None and rank <= self.after):
            return
        self.entries.append((rank, entry))
        if len(self.entries) >= 2 * self.cap:
            self._cut()

    def taken(self) -> Sequence[tuple]:
        """`(rank, entry)` by rising rank."""
        self._cut()
        return self.entries

    def _cut(self) -> None:
        self.entries.sort(key=lambda pair: pair[0])
        del self.entries[self.cap :]
        if len(self.entries) == self.cap and self.cap:
            self.limit = self.entries[-1][0]
