"""The order of training as arithmetic: from (seed, step) to the records of a batch. No TensorFlow.

`Positions` draws every record once an epoch; `Interleaved` as well, but so that a disk is read in long pieces;
`ClassGroups` draws P classes × K images, its domains weighed. `domain_batches.OneDomain` has one of these a domain.
"""

import copy
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from pipeline.config import Sampling
from pipeline.data.domain_batches import OneDomain, Shares, allotted
from pipeline.errors import BadInput

BLOCK = 64  # records: some megabytes, of which a far disk gives many a second


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
        self._permutation = lru_cache(2)(lambda epoch: self._permuted(np.random.default_rng([seed, epoch])))

    def _permuted(self, rng: np.random.Generator) -> np.ndarray:
        """The entries in the order of the epoch that `rng` stands for."""
        return rng.permutation(self.entries)

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


class Interleaved(Positions):
    """`Positions` whose records come from a few shards at a time, block by block.

    A block is BLOCK neighbours of a shard. An epoch has the shards in random order, one after another, and cuts this
    row of M blocks into `shards_at_a_time` equal stretches. Window w takes the w-th block of each stretch, and its
    records are shuffled. A reader that holds a few windows of blocks reads each block once an epoch, whole.

    >>> order = Interleaved(np.repeat([0, 1, 2, 3], BLOCK), seed=0, shards_at_a_time=2)
    >>> order.window, [len(set((order.batch(step, 128) // BLOCK).tolist())) for step in range(2)]
    (128, [2, 2])

    Args:
        shards: int [records], the shard of each; a shard's records stand together.
        kept: bool [records], which are drawn; None: all.
    """

    def __init__(self, shards: np.ndarray, seed: int, shards_at_a_time: int, kept: np.ndarray | None = None):
        begins = np.flatnonzero(np.diff(shards, prepend=shards[0] - 1))  # [S], where each shard does
        sizes = np.diff(np.append(begins, len(shards)))
        counts = -(-sizes // BLOCK)  # [S] blocks
        first = np.repeat(np.cumsum(counts) - counts, sizes)  # [records], the first block of each record's shard
        self.blocks = first + (np.arange(len(shards)) - np.repeat(begins, sizes)) // BLOCK  # int64 [records]
        self.shards_at_a_time = shards_at_a_time
        self._shard_of_block = np.repeat(np.arange(len(begins)), counts)
        super().__init__(len(shards), seed, None if kept is None else kept.astype(np.int64))
        windows = -(-int(counts.sum()) // shards_at_a_time)
        self.window = -(-len(self.entries) // windows)  # positions: of a cap's, fewer

    def _permuted(self, rng: np.random.Generator) -> np.ndarray:
        turns = rng.permutation(int(self._shard_of_block[-1]) + 1)
        row = np.argsort(turns[self._shard_of_block], kind="stable")  # [M] blocks, shard after shard
        window = np.empty(len(row), np.int64)
        window[row] = np.arange(len(row)) % -(-len(row) // self.shards_at_a_time)
        return self.entries[np.lexsort((rng.random(len(self)), window[self.blocks[self.entries]]))]


def batch_positions(step: int, batch_size: int, host: tuple[int, int] = (0, 1)) -> np.ndarray:
    """int64 [batch_size / hosts]: the positions of global batch `step` that host (index, hosts) reads."""
    index, hosts = host
    if batch_size % hosts or not 0 <= index < hosts:
        raise ValueError(f"host {index} of {hosts} cannot have an equal share of a batch of {batch_size}")
    each = batch_size // hosts
    return np.arange(each, dtype=np.int64) + step * batch_size + index * each


class ClassGroups:
    """A stream without end of batches of P classes × K images; a batch follows from (seed, its number) alone.

    A batch of B images has P = ⌈B / K⌉ slots of K images of one class; where K does not divide B the last slot has
    fewer. The slots go to the domains by their shares, by systematic sampling: P evenly spaced points with one random
    offset on the line of cumulative shares, so that a domain has ⌊P·share⌋ or ⌈P·share⌉ of them. Within a domain the
    classes are drawn uniformly, within a class the images; neither repeats in a batch before each was drawn once. A
    class of two domains counts as a class in each.

    Batches are drawn independently: an epoch is only a number of images, and does not hold each record once.

    >>> groups = ClassGroups(np.array([7, 7, 8, 8, 9, 9]), np.zeros(6, int), np.ones(1), seed=0, images_per_class=2)
    >>> first, second, third, fourth = groups.batch(0, 4) // 2
    >>> bool(first == second != third == fourth), sorted(groups.batch(0, 6).tolist())
    (True, [0, 1, 2, 3, 4, 5])

    Args:
        labels: int64 [N], the class of each record.
        domains: int64 [N], its domain, 0 … D−1.
        shares: float [D], at least 0, of any sum: what share of the slots a domain has. 0: it is never drawn.
        kept: bool [N], which records may be drawn, some of every domain; None: all.
    """

    def __init__(
        self,
        labels: np.ndarray,
        domains: np.ndarray,
        shares: np.ndarray,
        seed: int,
        images_per_class: int,
        kept: np.ndarray | None = None,
    ):
        self.seed, self.images_per_class = seed, images_per_class
        drawn = shares[domains] > 0 if kept is None else kept & (shares[domains] > 0)
        self.entries = np.flatnonzero(drawn)
        if not len(self.entries):
            raise ValueError("expected records to draw from, got none")
        labels, domains = labels[self.entries], domains[self.entries]
        by_class = np.lexsort((labels, domains))
        labels, domains = labels[by_class], domains[by_class]
        begins = np.flatnonzero((np.diff(labels, prepend=labels[0]) != 0) | (np.diff(domains, prepend=-1) != 0))
        self._records = self.entries[by_class]  # by domain and class
        self._begins = np.append(begins, len(labels))  # [C + 1], where a class begins in `_records`
        self._first_class = np.searchsorted(domains[begins], np.arange(len(shares) + 1))  # [D + 1], of a domain
        self._shares = shares

    def __len__(self) -> int:
        """Positions in an epoch: as many as records that may be drawn."""
        return len(self.entries)

    def renewed(self, shares: Shares) -> "ClassGroups":
        """The same order with other shares of the domains; None as weights: the ones that it has."""
        found = copy.copy(self)
        found._shares = self._shares if shares.weights is None else shares.weights
        return found

    def batch(self, step: int, batch_size: int, host: tuple[int, int] = (0, 1)) -> np.ndarray:
        """int64 [batch_size / hosts]: this host's records of global batch `step`; a class may lie on two hosts."""
        places = batch_positions(0, batch_size, host)
        rng = np.random.default_rng([self.seed, step])
        slots, each = -(-batch_size // self.images_per_class), self.images_per_class
        classes, class_of = np.unique(self._draw_classes(rng, slots), return_inverse=True)
        class_of = np.repeat(class_of, each)[:batch_size]  # [B], place in `classes`
        turns = ranks(class_of)  # [B]: a class of several slots goes on where it stopped
        sizes = np.diff(self._begins)[classes]
        wanted = np.minimum(np.bincount(class_of, minlength=len(classes)), sizes)
        images = _distinct(rng, sizes, wanted)[class_of, turns % wanted[class_of]]
        return self._records[self._begins[classes][class_of] + images][places]

    def _draw_classes(self, rng: np.random.Generator, slots: int) -> np.ndarray:
        """int64 [slots]: the class of each slot, in random order, so that no domain has the short one more often."""
        of_domain = allotted(self._shares, slots, rng)
        drawn = []
        for domain in np.flatnonzero(of_domain):
            first, count = self._first_class[domain], self._first_class[domain + 1] - self._first_class[domain]
            times, rest = divmod(of_domain[domain], count)
            drawn += [first + np.tile(np.arange(count), times), first + rng.choice(count, rest, replace=False)]
        return rng.permutation(np.concatenate(drawn))


Order = Positions | ClassGroups | OneDomain


def order(
    labels: np.ndarray,
    domains: np.ndarray,
    seed: int,
    options: Sampling,
    draws: np.ndarray | None = None,
    shards: np.ndarray | None = None,
) -> Order:
    """The order that `options` ask for: `Positions` or `Interleaved` where nothing weighs domains or groups classes.

    Shares by `losses` are not known here: the domains are drawn in turn, or equally, until the order is `renewed`.

    Args:
        labels: int64 [N], the class of each record.
        domains: str [N], its source, see `RecordSet.domains`.
        draws: int64 [N], how often each record is drawn in an epoch (`min_images_per_class`); None: once. Of a capped
            class the records that stay are drawn as often.
        shards: int [N], each record's shard; needed to interleave them.

    Raises:
        BadInput: shares of sources that the records lack, sources without a share, or `draws` with groups; what does
            not go with `interleave`.
    """
    kept = None if options.cap_per_class is None else capped(labels, options.cap_per_class)
    each, given = options.images_per_class, options.domain_shares
    every = each is None and not options.one_domain and options.domains == "size" and not given
    if options.interleave:
        if not every or draws is not None or shards is None:
            others = "min_images_per_class, images_per_class, one_domain, domains and domain_shares"
            raise BadInput(f"sampling.interleave draws every record once an epoch: leave it out, or {others}")
        return Interleaved(shards, seed, options.interleave, kept)
    if every:
        if kept is not None:
            draws = kept.astype(np.int64) if draws is None else np.where(kept, draws, 0)
        return Positions(len(labels), seed, draws)
    if draws is not None and (each is not None or not options.one_domain):
        mend = "leave it out, or images_per_class, domains and domain_shares"
        raise BadInput(f"min_images_per_class goes with cap_per_class and one_domain of sampling alone: {mend}")
    names, numbers = np.unique(domains, return_inverse=True)
    sizes = np.bincount(numbers if kept is None else numbers[kept])  # a cap leaves every class some
    weights = _given_shares(given, names.tolist()) if given else _weights(options.domains, sizes)
    if options.one_domain:
        turns = Shares(None if options.domains in ("round_robin", "losses") else weights)
        return _one_domain(labels, numbers, seed, each, draws, kept, turns)
    if each is None:  # every image is a class: uniform over the images of a domain, none twice in a batch
        labels, each = np.arange(len(labels)), 1
    return ClassGroups(labels, numbers, weights, seed, each, kept)


def _weights(name: str, sizes: np.ndarray) -> np.ndarray:
    """float [D]: the shares of the domains by a name of `sampling.domains`; equal where it takes them in turn."""
    return sizes if name == "size" else np.sqrt(sizes) if name == "sqrt" else np.ones(len(sizes))


def _one_domain(labels, numbers, seed: int, each: int | None, draws, kept, shares: Shares) -> OneDomain:
    """Each domain's records once an epoch of its own, or in its own groups of classes."""
    rows = [np.flatnonzero(numbers == domain) for domain in range(numbers.max() + 1)]
    streams: list[Positions | ClassGroups] = []
    for domain, mine in enumerate(rows):
        own = int(np.random.SeedSequence([seed, domain]).generate_state(1)[0])
        here = None if kept is None else kept[mine]
        if each is None:
            times = np.ones(len(mine), np.int64) if draws is None else draws[mine]
            streams.append(Positions(len(mine), own, times if here is None else np.where(here, times, 0)))
        else:
            streams.append(ClassGroups(labels[mine], np.zeros(len(mine), np.int64), np.ones(1), own, each, here))
    return OneDomain(streams, rows, shares, seed)


def capped(labels: np.ndarray, cap: int) -> np.ndarray:
    """bool [N]: at most `cap` records of each class, spread evenly over the class's records.

    The choice depends on a record's rank in its class alone, not on the run's seed or on other classes: runs of other
    seeds, or that hold out other classes, have the same images, and a smaller cap has some of a larger one's. Record r
    of a class has the rank (r + 1)·φ mod 1, whose lowest values are spread evenly (φ: the golden ratio).
    """
    spread = (ranks(labels).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴·(φ − 1); wraps
    lowest_first = np.lexsort((spread, labels))
    kept = np.empty(len(labels), bool)
    kept[lowest_first] = ranks(labels[lowest_first]) < cap
    return kept


def ranks(groups: np.ndarray) -> np.ndarray:
    """int64 [N]: how many earlier entries are of the same group.

    >>> ranks(np.array([5, 3, 5, 5, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_group = np.argsort(groups, kind="stable")
    begins = np.flatnonzero(np.diff(groups[by_group], prepend=groups[by_group[:1]] - 1))
    found = np.empty(len(groups), np.int64)
    found[by_group] = np.arange(len(groups)) - np.repeat(begins, np.diff(np.append(begins, len(groups))))
    return found


def _given_shares(given: Mapping[str, float], names: list[str]) -> np.ndarray:
    """float64 [D]: the share of each of `names`."""
    found = ", ".join(name or '"" (shards not called SOURCE-SPLIT-NN-COUNT.tfrec)' for name in names)
    if unknown := sorted(set(given) - set(names)):
        raise BadInput(f"sampling.domain_shares: no record is of {', '.join(unknown)}; the records' sources: {found}")
    if without := sorted(set(names) - set(given)):
        raise BadInput(
            f"sampling.domain_shares: expected a share of every source ({found}), none for "
            f"{', '.join(name or repr(name) for name in without)}: 0 leaves a source out"
        )
    shares = np.array([given[name] for name in names], np.float64)
    if not shares.any():
        raise BadInput("sampling.domain_shares: expected a share above 0, all are 0")
    return shares


def _distinct(rng: np.random.Generator, sizes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [C, W]: row c begins with wanted[c] ≤ sizes[c] distinct numbers below sizes[c], all such rows as likely.

    Floyd's algorithm (Bentley, Programming pearls: a sample of brilliance, CACM 30(9), 1987) for all rows at once,
    then a shuffle, since it draws a set and not an order. W: the largest of `wanted`.
    """
    picked = np.full((len(sizes), wanted.max()), -1, np.int64)
    for turn in range(picked.shape[1]):
        rows = np.flatnonzero(turn < wanted)
        last = (sizes - wanted)[rows] + turn
        number = rng.integers(0, last, endpoint=True)
        taken = (picked[rows, :turn] == number[:, None]).any(axis=1)
        picked[rows, turn] = np.where(taken, last, number)
    by = np.where(picked < 0, 2.0, rng.random(picked.shape))
    return np.take_along_axis(picked, np.argsort(by, axis=1), axis=1)
