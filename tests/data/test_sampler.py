"""The order of training: whole epochs, or batches of classes whose domains have their shares."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Sampling
from pipeline.data.sampler import BLOCK, ClassGroups, Interleaved, Positions, capped, order
from pipeline.errors import BadInput

# Three sources: 2 classes of 9 and 1 images, 6 classes of 4, 20 classes of 5.
SOURCES = np.repeat(["birds", "goods", "views"], [10, 24, 100])
LABELS = np.concatenate([[0] * 9 + [1], np.repeat(np.arange(2, 8), 4), np.repeat(np.arange(8, 28), 5)])
SHUFFLE = np.random.default_rng(0).permutation(len(LABELS))  # records of a class do not stand together
SOURCES, LABELS = SOURCES[SHUFFLE], LABELS[SHUFFLE]


def as_often(times):
    """Whether counts are those of equal chances: within five standard deviations of a Poisson count."""
    return np.abs(times - times.mean()).max() < 5 * np.sqrt(times.mean())


def drawn(found, steps, batch_size):
    """int64 [steps, batch_size]"""
    return np.stack([found.batch(step, batch_size) for step in range(steps)])


def slow_shares(options):
    """Source → expected share of the images."""
    images = Counter(zip(SOURCES.tolist(), LABELS.tolist(), strict=True))
    sizes = Counter()
    for (source, _), count in images.items():
        sizes[source] += min(options.cap_per_class or count, count)
    weights = {
        name: options.domain_shares[name]
        if options.domain_shares
        else {"size": size, "sqrt": size**0.5, "equal": 1.0}[options.domains]
        for name, size in sizes.items()
    }
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@st.composite
def sets(draw):
    """Labels, domains and shares of a set with small and large classes; records in any order."""
    domains, labels, shares = [], [], []
    for domain in range(draw(st.integers(1, 4))):
        for size in draw(st.lists(st.integers(1, 9), min_size=1, max_size=8)):
            labels += [100 - len(set(labels))] * size
            domains += [domain] * size
        shares.append(draw(st.integers(0, 5)))
    shares[draw(st.integers(0, domain))] += 1
    shuffle = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return np.array(labels)[shuffle], np.array(domains)[shuffle], np.array(shares)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 9), st.integers(0, 2**40))
def test_positions_equal_epochs_laid_end_to_end(count, batch_size, step, seed):
    positions = Positions(count, seed)
    needed = (step + 1) * batch_size
    laid_out = []
    for epoch in range(-(-needed // count)):
        laid_out += np.random.default_rng([seed, epoch]).permutation(count).tolist()
    assert positions.batch(step, batch_size).tolist() == laid_out[step * batch_size : needed]


@settings(max_examples=200, deadline=None)
@given(sets(), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 3))
def test_groups_hold_classes_by_images_and_repeat_none_that_need_not(found, each, batch_size, seed, step):
    labels, domains, shares = found
    kept = np.random.default_rng(seed).random(len(labels)) < 0.8
    for domain in range(len(shares)):  # every domain keeps some
        kept[np.flatnonzero(domains == domain)[0]] = True
    groups = ClassGroups(labels, domains, shares, seed, each, kept)
    batch = groups.batch(step, batch_size)
    assert batch.dtype == np.int64 and batch.shape == (batch_size,)
    assert kept[batch].all() and (shares[domains[batch]] > 0).all()

    # Slots of K images of one class, the last one shorter; images differ within a slot as far as the class has some.
    slots = [batch[start : start + each] for start in range(0, batch_size, each)]
    for slot in slots:
        assert len(set(labels[slot])) == 1
        assert len(set(slot.tolist())) == min(len(slot), (kept & (labels == labels[slot[0]])).sum())

    # A domain's slots: its share of them, rounded down or up; every class once before any twice.
    of_slot = np.array([slot[0] for slot in slots])
    for domain, share in enumerate(shares / shares.sum()):
        taken = Counter(labels[of_slot[domains[of_slot] == domain]].tolist())
        number, classes = sum(taken.values()), len(set(labels[kept & (domains == domain)]))
        assert np.floor(share * len(slots) - 1e-9) <= number <= np.ceil(share * len(slots) + 1e-9)
        assert len(taken) == min(number, classes)
        assert max(taken.values(), default=0) <= -(-number // classes)

    # Over the batch: every image of a class once before any twice.
    for label in set(labels[batch]):
        times = Counter(batch[labels[batch] == label].tolist())
        images, total = (kept & (labels == label)).sum(), sum(times.values())
        assert len(times) == min(total, images) and max(times.values()) <= -(-total // images)


OPTIONS = [
    Sampling(images_per_class=4),
    Sampling(images_per_class=1, domains="sqrt"),
    Sampling(images_per_class=3, domains="equal", cap_per_class=2),
    Sampling(images_per_class=2, cap_per_class=3),
    Sampling(domains="equal"),
    Sampling(domains="sqrt", cap_per_class=3),
    Sampling(images_per_class=5, domain_shares={"birds": 3.0, "goods": 0.0, "views": 5.0}),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_domains_have_their_shares(options):
    """16 images a batch: also where K does not divide that, no domain has the short slot more often."""
    steps, batch_size = 1500, 16
    batches = drawn(order(LABELS, SOURCES, 1, options), steps, batch_size)
    for name, share in slow_shares(options).items():
        # A batch is off by a slot at most, the mean of independent batches by some hundredths of one.
        assert (SOURCES[batches] == name).mean() == pytest.approx(share, abs=0.01), name


def test_classes_and_their_images_are_drawn_uniformly_within_a_domain():
    """Views' classes have 5 images each, birds' 9 and 1: as often, whatever their sizes."""
    found = order(LABELS, SOURCES, 1, Sampling(images_per_class=2, domains="equal"))
    times = np.bincount(drawn(found, 1000, 24).ravel(), minlength=len(LABELS))
    classes = np.unique(LABELS)
    by_class, source_of = np.bincount(LABELS, times), dict(zip(LABELS.tolist(), SOURCES.tolist(), strict=True))
    for source in set(SOURCES.tolist()):
        mine = [label for label in classes.tolist() if source_of[label] == source]
        assert as_often(by_class[mine] / 2)  # groups of 2
    assert all(as_often(times[label == LABELS]) for label in classes)


def test_without_groups_images_are_drawn_uniformly_within_a_domain():
    found = order(LABELS, SOURCES, 1, Sampling(domains="equal"))
    batches = drawn(found, 2000, 24)
    assert all(len(set(batch.tolist())) == 24 for batch in batches)
    times = np.bincount(batches.ravel(), minlength=len(LABELS))
    assert all(as_often(times[source == SOURCES]) for source in set(SOURCES.tolist()))


def test_pairs_of_a_classs_images_are_all_as_likely():
    """3 of 5 images: the 10 sets come equally often."""
    groups = ClassGroups(np.zeros(5, int), np.zeros(5, int), np.ones(1), 0, 3)
    seen = Counter(tuple(sorted(groups.batch(step, 3).tolist())) for step in range(2000))
    assert len(seen) == 10 and as_often(np.array(list(seen.values())))


def test_images_drawn_twice_are_any_of_a_small_class():
    """7 of 5: the two that come again differ from batch to batch."""
    groups = ClassGroups(np.zeros(5, int), np.zeros(5, int), np.ones(1), 0, 7)
    times = sum(np.bincount(groups.batch(step, 7), minlength=5) for step in range(1000))
    assert times.min() > 1300 and as_often(times - 1000)


@pytest.mark.parametrize("options", [Sampling(), Sampling(cap_per_class=2), *OPTIONS], ids=str)
def test_hosts_slices_make_up_the_batch_and_a_batch_needs_no_other(options):
    whole = drawn(order(LABELS, SOURCES, 3, options), 6, 24)
    resumed = order(LABELS, SOURCES, 3, options)
    for step in (4, 5, 2):
        parts = [resumed.batch(step, 24, (host, 3)) for host in range(3)]
        assert np.concatenate(parts).tolist() == whole[step].tolist()
    other = drawn(order(LABELS, SOURCES, 4, options), 6, 24)
    assert (whole != other).any() and (whole[0] != whole[1]).any()
    with pytest.raises(ValueError, match="equal share"):
        resumed.batch(0, 24, (0, 5))


@settings(max_examples=100, deadline=None)
@given(sets(), st.integers(1, 10))
def test_a_cap_keeps_so_many_of_each_class_and_the_same_ones(found, cap):
    labels, _, _ = found
    kept = capped(labels, cap)
    for label in np.unique(labels):
        mine = labels == label
        assert kept[mine].sum() == min(cap, mine.sum())
        # Neither other classes, as folds hold out, nor a larger cap change which.
        assert capped(labels[mine], cap).tolist() == kept[mine].tolist()
        assert not (kept[mine] & ~capped(labels[mine], cap + 1)).any()


def test_a_cap_takes_from_the_whole_class():
    chosen = np.flatnonzero(capped(np.zeros(1000, int), 10))
    assert np.diff(chosen).max() < 250 and chosen[0] < 250 and chosen[-1] >= 750


@pytest.mark.parametrize("options", [Sampling(cap_per_class=2), Sampling(images_per_class=2, cap_per_class=2)])
def test_capped_records_are_the_same_in_each_epoch_and_of_each_seed(options):
    kept = np.flatnonzero(capped(LABELS, 2)).tolist()
    for seed in (0, 1):
        found = order(LABELS, SOURCES, seed, options)
        assert len(found) == len(kept) == 2 * 27 + 1 and sorted(found.entries.tolist()) == kept
        assert set(drawn(found, 60, 27).ravel().tolist()) == set(kept)


def test_capped_epochs_draw_as_often_as_asked():
    draws = 1 + LABELS % 3
    found = order(LABELS, SOURCES, 0, Sampling(cap_per_class=2), draws)
    expected = np.where(capped(LABELS, 2), draws, 0)
    assert np.bincount(found.batch(0, len(found)), minlength=len(LABELS)).tolist() == expected.tolist()


def test_nothing_asked_for_is_every_record_once_an_epoch():
    found = order(LABELS, SOURCES, 5, Sampling())
    assert isinstance(found, Positions) and len(found) == len(LABELS)
    assert found.batch(0, len(LABELS)).tolist() == Positions(len(LABELS), 5).batch(0, len(LABELS)).tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Sampling(domain_shares={"birds": 1.0, "goods": 1.0}), "views"),
        (Sampling(domain_shares={"birds": 1.0, "goods": 1.0, "views": 1.0, "cars": 2.0}), "no record is of cars"),
        (Sampling(domain_shares={"birds": 0.0, "goods": 0.0, "views": 0.0}), "above 0"),
    ],
)
def test_shares_that_do_not_fit_the_records_are_bad_input(options, said):
    with pytest.raises(BadInput, match=said):
        order(LABELS, SOURCES, 0, options)


def test_shards_that_do_not_tell_their_source_are_named_among_those_without_a_share():
    unnamed = np.where(SOURCES == "goods", "", SOURCES)
    shares = {"birds": 1.0, "views": 1.0}
    with pytest.raises(BadInput, match=r'"" \(shards not called'):
        order(LABELS, unnamed, 0, Sampling(domain_shares=shares))
    batch = order(LABELS, unnamed, 0, Sampling(domain_shares={**shares, "": 2.0})).batch(0, 40)
    assert (unnamed[batch] == "").sum() == 20


@pytest.mark.parametrize("options", [Sampling(images_per_class=2), Sampling(domains="equal")])
def test_repeated_small_classes_do_not_go_with_groups(options):
    with pytest.raises(BadInput, match="min_images_per_class"):
        order(LABELS, SOURCES, 0, options, np.ones(len(LABELS), int))


def test_a_class_of_two_sources_counts_in_each():
    """Merged classes (`records.merge_classes`): a slot's images are of one source."""
    labels, sources = np.array([0] * 8), np.repeat(["a", "b"], 4)
    batch = order(labels, sources, 0, Sampling(images_per_class=4, domains="equal")).batch(0, 8)
    assert sorted(batch[:4].tolist()) in ([0, 1, 2, 3], [4, 5, 6, 7]) and sorted(batch.tolist()) == list(range(8))


def test_order_needs_no_tensorflow():
    code = "import sys, pipeline.data.sampler; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def shard_numbers(sizes):
    return np.repeat(np.arange(len(sizes)) * 3, sizes)  # any numbers


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=9), st.integers(1, 12), st.integers(0, 9))
def test_interleaved_shards_give_every_record_once_an_epoch(sizes, at_a_time, seed):
    found = Interleaved(shard_numbers(sizes), seed, at_a_time)
    count = sum(sizes)
    for epoch in range(2):
        assert sorted(found.at(np.arange(count) + epoch * count).tolist()) == list(range(count))
    assert Counter(found.blocks.tolist()).most_common(1)[0][1] <= BLOCK
    for block in np.unique(found.blocks):
        items = np.flatnonzero(found.blocks == block)
        assert np.ptp(items) == len(items) - 1 and len(np.unique(shard_numbers(sizes)[items])) == 1


def test_interleaved_windows_are_blocks_of_different_shards_in_a_random_order():
    sizes = [4 * BLOCK] * 12
    found = Interleaved(shard_numbers(sizes), 7, 3)
    assert found.window == 3 * BLOCK
    read_next = {}
    for window in range(sum(sizes) // found.window):
        items = found.at(window * found.window + np.arange(found.window))
        blocks, times = np.unique(found.blocks[items], return_counts=True)
        assert times.tolist() == [BLOCK] * 3 and len(np.unique(blocks // 4)) == 3
        assert (np.diff(found.blocks[items]) != 0).mean() > 0.5  # shuffled, not block after block
        for block in blocks.tolist():  # a shard that is begun is read on, from one end to the other
            assert block % 4 == read_next.get(block // 4, 0)
            read_next[block // 4] = block % 4 + 1
    assert list(read_next.values()) == [4] * 12


def test_interleaved_order_follows_from_seed_and_epoch_and_is_reached_from_anywhere():
    shards = shard_numbers([100, 70, 130, 64, 5])
    first, again, other = Interleaved(shards, 1, 2), Interleaved(shards, 1, 2), Interleaved(shards, 2, 2)
    count = len(first)
    assert again.batch(11, 40).tolist() == drawn(first, 12, 40)[11].tolist()
    assert first.at(np.arange(count)).tolist() != first.at(np.arange(count) + count).tolist()
    assert first.at(np.arange(count)).tolist() != other.at(np.arange(count)).tolist()
    halves = [first.batch(3, 40, (host, 2)) for host in range(2)]
    assert np.concatenate(halves).tolist() == first.batch(3, 40).tolist()


def test_a_cap_goes_with_interleaved_shards_and_what_weighs_records_does_not():
    shards = np.sort(np.random.default_rng(1).integers(0, 4, len(LABELS)))
    found = order(LABELS, SOURCES, 3, Sampling(interleave=2, cap_per_class=3), shards=shards)
    assert isinstance(found, Interleaved)
    assert sorted(drawn(found, 1, len(found))[0].tolist()) == np.flatnonzero(capped(LABELS, 3)).tolist()
    for options in ({"images_per_class": 2}, {"domains": "equal"}, {"domain_shares": {"birds": 1.0}}):
        with pytest.raises(BadInput, match=r"sampling\.interleave draws every record once"):
            order(LABELS, SOURCES, 3, Sampling(interleave=2, **options), shards=shards)
    with pytest.raises(BadInput, match="min_images_per_class"):
        order(LABELS, SOURCES, 3, Sampling(interleave=2), np.ones(len(LABELS), np.int64), shards)
