"""The order of training as arithmetic: from a position in the stream to a record. No TensorFlow."""

from functools import lru_cache

import numpy as np


class Positions:
    """A stream without end over records, each drawn once an epoch (or as often as `sampling` says).

    Position p belongs to epoch e = p // L and holds entry permutation(seed, e)[p mod L], L being the length of an
    epoch. Batch k takes the positions [kB, (k+1)B), across the borders of epochs, so every batch is full and no
    record is dropped or repeated; where training resumes is a number, nothing is replayed.

    >>> positions = Positions(3, seed=0)
    >>> sorted(positions.batch(0, 3).tolist()), sorted(positions.batch(1, 3).tolist())
    ([0, 1, 2], [0, 1, 2])

    `sampling`, integers [records], says how often each record is drawn in an epoch (0: never); None: once.
    """

    def __init__(self, records: int, seed: int, sampling: np.ndarray | None = None):
        entries = np.arange(records) if sampling is None else np.repeat(np.arange(records), sampling)
        if not len(entries):
            raise ValueError("expected records to draw from, got none")
        self.entries = entries
        # A batch sees two epochs at a border.
        self._permutation = lru_cache(2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(entries))

    def __len__(self) -> int:
        """Positions in an epoch."""
        return len(self.entries)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """int64 [B] positions → int64 [B] records."""
        positions = np.asarray(positions, np.int64)
        epochs, places = np.divmod(positions, len(self))
        found = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self._permutation(int(epoch))[places[here]]
        return found

    def batch(self, step: int, batch_size: int, host: tuple[int, int] = (0, 1)) -> np.ndarray:
        """int64 [batch_size / hosts]: this host's records of global batch `step`."""
        return self.at(batch_positions(step, batch_size, host))


def batch_positions(step: int, batch_size: int, host: tuple[int, int] = (0, 1)) -> np.ndarray:
    """int64 [batch_size / hosts]: the positions of global batch `step` that host (index, hosts) reads."""
    index, hosts = host
    if batch_size % hosts or not 0 <= index < hosts:
        raise ValueError(f"host {index} of {hosts} cannot have an equal share of a batch of {batch_size}")
    each = batch_size // hosts
    return np.arange(each, dtype=np.int64) + step * batch_size + index * each
