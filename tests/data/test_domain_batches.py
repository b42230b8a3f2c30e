"""Batches of one domain: which domain is next, which of its records, and that any of it follows from numbers alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Sampling
from pipeline.data.domain_batches import WINDOW, OneDomain, Shares, allotted
from pipeline.data.sampler import ClassGroups, Positions, order
from pipeline.errors import BadInput

# Three sources of 10, 24 and 100 records, of 2, 6 and 20 classes; records of a source do not stand together.
SHUFFLE = np.random.default_rng(0).permutation(134)
SOURCES = np.repeat(["birds", "goods", "views"], [10, 24, 100])[SHUFFLE]
LABELS = np.concatenate([[0] * 9 + [1], np.repeat(np.arange(2, 8), 4), np.repeat(np.arange(8, 28), 5)])[SHUFFLE]
NAMES = ["birds", "goods", "views"]


def ordered(seed=3, **options):
    return order(LABELS, SOURCES, seed, Sampling(one_domain=True, **options))


def sources_of(found, steps, size=8):
    """The one source of each batch."""
    batches = [set(SOURCES[found.batch(step, size)]) for step in steps]
    assert all(len(each) == 1 for each in batches)
    return [each.pop() for each in batches]


def test_in_turn_each_source_has_every_third_batch():
    assert sources_of(ordered(domains="round_robin"), range(1200, 1207)) == (NAMES * 3)[:7]


def test_each_source_is_drawn_whole_before_any_of_it_again():
    """Its batches one after another are epochs of its own."""
    found = ordered(domains="round_robin")
    for number, name in enumerate(NAMES):
        drawn = np.concatenate([found.batch(step, 8) for step in range(number, 120, 3)])
        records = np.flatnonzero(name == SOURCES)
        whole = len(drawn) // len(records) * len(records)
        assert whole
        for epoch in drawn[:whole].reshape(-1, len(records)):
            assert sorted(epoch) == records.tolist()


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"domains": "size"}, [10, 24, 100]),
        ({"domains": "sqrt"}, [10**0.5, 24**0.5, 10.0]),
        ({"domains": "equal"}, [1, 1, 1]),
        ({"domain_shares": {"birds": 66_696, "goods": 539, "views": 4_564}}, [66_696, 539, 4_564]),  # given as steps
    ],
)
def test_a_source_has_its_share_of_every_window_spread_over_it(options, weights):
    found = ordered(**options)
    domains = np.array([NAMES.index(name) for name in sources_of(found, range(2 * WINDOW), 2)])
    share = np.array(weights) / sum(weights)
    for window in domains.reshape(2, WINDOW):
        assert (np.abs(np.bincount(window, minlength=3) - WINDOW * share) < 1).all()
        for stop in range(100, WINDOW, 100):  # a phase may end anywhere
            assert (np.abs(np.bincount(window[:stop], minlength=3) - stop * share) <= 2).all()
    assert domains[:WINDOW].tolist() != domains[WINDOW:].tolist()


def test_a_source_whose_share_is_0_is_never_drawn_and_counts_no_epoch():
    found = ordered(domain_shares={"birds": 1, "goods": 0, "views": 1})
    assert Counter(sources_of(found, range(40))) == {"birds": 20, "views": 20}
    assert len(found) == 110 and "goods" not in SOURCES[found.entries]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), st.integers(0, 2**32), st.integers(0, 2500))
def test_any_batch_is_the_same_however_it_is_reached(weights, seed, step):
    """Asked for alone, after others, by hosts in parts, and in an order whose shares began where a window did."""
    rows = [np.arange(7 * domain, 7 * domain + 7) for domain in range(len(weights))]

    def made(shares):
        return OneDomain([Positions(7, seed + domain) for domain in range(len(weights))], rows, shares, seed)

    first = made(Shares(np.array(weights)))
    expected = first.batch(step, 6)
    again = made(Shares(np.array(weights)))
    assert [again.batch(each, 6).tolist() for each in (2600, 0, step)][-1] == expected.tolist()
    assert np.concatenate([first.batch(step, 6, (host, 3)) for host in range(3)]).tolist() == expected.tolist()
    begins = step // WINDOW * WINDOW
    later = first.renewed(Shares(np.array(weights), begins, first.batches_before(begins)))
    assert later.batch(step, 6).tolist() == expected.tolist()


def test_new_shares_go_on_in_the_epochs_of_their_sources():
    """What came before is counted: the records that a source draws next are those that it has not drawn yet."""
    first = ordered(domains="losses")
    before = [first.batch(step, 4) for step in range(30)]
    later = first.renewed(Shares(np.array([0.0, 0.0, 1.0]), 30, first.batches_before(30)))
    views = np.concatenate([batch for batch in before if SOURCES[batch[0]] == "views"])
    views = np.concatenate([views, *(later.batch(step, 4) for step in range(30, 45))])
    assert sorted(views) == np.flatnonzero(SOURCES == "views").tolist()


def test_groups_of_classes_caps_and_small_classes_hold_within_a_source():
    grouped = ordered(domains="round_robin", images_per_class=4)
    for step in range(9):
        counts = Counter(LABELS[grouped.batch(step, 8)])
        assert set(counts.values()) == {4} or step % 3 == 0  # birds have a class of one image
    capped = ordered(domains="round_robin", cap_per_class=2)
    assert len(capped) == 3 + 12 + 40 and Counter(LABELS[capped.entries]).most_common(1)[0][1] == 2
    draws = np.where(LABELS == 1, 5, 1)
    more = order(LABELS, SOURCES, 3, Sampling(one_domain=True, domains="round_robin"), draws)
    birds = np.concatenate([more.batch(step, 7) for step in range(0, 6, 3)])
    assert Counter(LABELS[birds]) == {0: 9, 1: 5}


def test_mixed_batches_take_new_shares_too():
    mixed = order(LABELS, SOURCES, 3, Sampling(domains="losses"))
    assert isinstance(mixed, ClassGroups)
    assert Counter(SOURCES[mixed.batch(0, 30)]) == {"birds": 10, "goods": 10, "views": 10}
    renewed = mixed.renewed(Shares(np.array([0.0, 0.5, 0.5])))
    assert Counter(SOURCES[renewed.batch(0, 30)]) == {"goods": 15, "views": 15}
    assert mixed.renewed(Shares(None)).batch(5, 30).tolist() == mixed.batch(5, 30).tolist()


def test_allotted_is_within_one_of_each_share():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        weights = rng.random(6) * (rng.random(6) < 0.7) + 1e-9
        found = allotted(weights, 101, rng)
        assert found.sum() == 101 and (np.abs(found - 101 * weights / weights.sum()) < 1).all()


def test_what_does_not_go_together_is_refused():
    def wrong(**options):
        return [key for key, _ in Sampling(**options).rules()]

    assert wrong(domains="round_robin") == ["domains"] and not wrong(domains="round_robin", one_domain=True)
    assert wrong(one_domain=True, interleave=2) == ["interleave"]
    assert wrong(one_domain=True, domains="losses", domain_shares={"a": 1.0}) == ["domain_shares"]
    with pytest.raises(BadInput, match="one_domain"):
        order(LABELS, SOURCES, 0, Sampling(domains="equal"), draws=np.ones(len(LABELS), np.int64))
