"""The order of training where every batch is of one domain. No TensorFlow."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

WINDOW = 1000  # steps within which the domains' shares of the batches are kept


class Stream(Protocol):
    """Batches of one domain: `sampler.Positions` or `sampler.ClassGroups` over its records."""

    entries: np.ndarray

    def __len__(self) -> int: ...

    def batch(self, step: int, batch_size: int, host: tuple[int, int] = (0, 1)) -> np.ndarray: ...


@dataclass(frozen=True)
class Shares:
    """The domains' shares from a step on.

    `weights`: float [D], at least 0, of any sum; None: the domains in turn. `batches`: int [D], how many each had
    before the step; None: none.
    """

    weights: np.ndarray | None
    step: int = 0
    batches: np.ndarray | None = None


class OneDomain:
    """A stream without end of batches of one domain each; a batch follows from (seed, shares, its number) alone.

    In turn, step k is of domain k mod D. By weights, a window of WINDOW steps has ⌊W·share⌋ or ⌈W·share⌉ batches of a
    domain, spread over it: the j-th of a domain's n stands at (j + u) / n of the window, u drawn from the seed. The
    b-th batch of a domain is that of its own stream: of `Positions`, each of its records once before any again.

    >>> from pipeline.data.sampler import Positions
    >>> rows = [np.array([0, 1]), np.array([2, 3, 4])]
    >>> order = OneDomain([Positions(len(each), seed=0) for each in rows], rows, Shares(None), seed=0)
    >>> order.domain(1), [sorted(order.batch(step, 2).tolist()) for step in (0, 2)]
    (1, [[0, 1], [0, 1]])

    Args:
        streams: of each domain, over places in its `rows`.
        rows: int64 [N_d] each, the domain's records.
    """

    def __init__(self, streams: Sequence[Stream], rows: Sequence[np.ndarray], shares: Shares, seed: int):
        self.streams, self.rows, self.shares, self.seed = streams, rows, shares, seed
        drawn = range(len(rows)) if shares.weights is None else np.flatnonzero(shares.weights).tolist()
        self.entries = np.concatenate([rows[domain][streams[domain].entries] for domain in drawn])
        # Of each window since the shares' step: batches of each domain before it [D], domains of its steps [WINDOW].
        self._windows: list[tuple[np.ndarray, np.ndarray]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Positions in an epoch: those of the domains that are drawn."""
        return len(self.entries)

    def renewed(self, shares: Shares) -> "OneDomain":
        """The same order with other shares from a step on."""
        return OneDomain(self.streams, self.rows, shares, self.seed)

    def batch(self, step: int, batch_size: int, host: tuple[int, int] = (0, 1)) -> np.ndarray:
        """int64 [batch_size / hosts]: this host's records of global batch `step`."""
        domain = self.domain(step)
        number = int(self.batches_before(step)[domain])
        return self.rows[domain][self.streams[domain].batch(number, batch_size, host)]

    def domain(self, step: int) -> int:
        """The domain of global batch `step`, which is not before the shares' own."""
        _, domains, place = self._at(step)
        return int(domains[place])

    def batches_before(self, step: int) -> np.ndarray:
        """int64 [D]: how many batches each domain has before `step`."""
        before, domains, place = self._at(step)
        return before + np.bincount(domains[:place], minlength=len(self.rows))

    def _at(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The window of a step: batches of each domain before it, the domain of each of its steps, the step's place."""
        window, place = divmod(step - self.shares.step, WINDOW)
        count = len(self.rows)
        with self._lock:
            while len(self._windows) <= window:
                if self._windows:
                    before, domains = self._windows[-1]
                    before = before + np.bincount(domains, minlength=count)
                else:
                    given = self.shares.batches
                    before = np.zeros(count, np.int64) if given is None else np.asarray(given, np.int64)
                self._windows.append((before, self._drawn(self.shares.step + len(self._windows) * WINDOW)))
            return *self._windows[window], place

    def _drawn(self, first: int) -> np.ndarray:
        """int64 [WINDOW]: the domain of each step of the window that begins with step `first`."""
        if self.shares.weights is None:
            return (first + np.arange(WINDOW)) % len(self.rows)
        rng = np.random.default_rng([self.seed, first])
        batches = allotted(np.asarray(self.shares.weights, np.float64), WINDOW, rng)
        domains = np.repeat(np.arange(len(self.rows)), batches)
        places = np.concatenate([np.arange(each) for each in batches])
        return domains[np.argsort((places + rng.random(WINDOW)) / batches[domains], kind="stable")]


def allotted(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [D] of sum `count`: ⌊count·share⌋ or ⌈count·share⌉ of each domain, by systematic sampling.

    That is `count` evenly spaced points with one random offset on the line of cumulative shares.
    """
    points = np.minimum((rng.random() + np.arange(count)) / count, np.nextafter(1.0, 0.0))
    cumulative = np.cumsum(weights) / np.sum(weights)
    return np.bincount(np.searchsorted(cumulative, points, side="right"), minlength=len(weights))
