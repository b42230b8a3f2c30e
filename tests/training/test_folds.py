"""Folds: whole classes or a whole source held out, and features that all folds share."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import config
from pipeline.data import folds
from pipeline.errors import BadInput
from pipeline.training import devices, feature_cache
from tests.training.tiny_runs import pictures, unit


def listed(seed=0):
    """Labels and sources of 23 classes: 12, 7 and 4 of each source; 1 … 5 images each, in any order."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(900)[:23]
    sources = np.repeat(["clothes", "birds", "cars"], [12, 7, 4])
    counts = rng.integers(1, 6, 23)
    order = rng.permutation(counts.sum())
    return np.repeat(classes, counts)[order], np.repeat(sources, counts)[order]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_class_is_held_out_in_exactly_one_fold_and_each_source_in_equal_parts(count):
    labels, domains = listed()
    masks = [folds.held_out(f"classes {number}/{count}", labels, domains) for number in range(1, count + 1)]
    for label in np.unique(labels):
        of_class = [mask[labels == label] for mask in masks]
        assert sorted((mask.all(), mask.any()) for mask in of_class) == [(False, False)] * (count - 1) + [(True, True)]
    for domain in np.unique(domains):
        sizes = [len(np.unique(labels[mask & (domains == domain)])) for mask in masks]
        assert max(sizes) - min(sizes) <= 1


def test_folds_are_the_same_in_any_order_and_of_any_number_of_images():
    labels, domains = listed()
    whole = folds.held_out("classes 2/3", labels, domains)
    order = np.random.default_rng(1).permutation(len(labels))
    np.testing.assert_array_equal(folds.held_out("classes 2/3", labels[order], domains[order]), whole[order])
    twice = folds.held_out("classes 2/3", np.repeat(labels, 2), np.repeat(domains, 2))
    np.testing.assert_array_equal(twice, np.repeat(whole, 2))
    birds = domains == "birds"
    np.testing.assert_array_equal(folds.held_out("classes 2/3", labels[birds], domains[birds]), whole[birds])
    in_order = [np.sort(np.unique(labels[~whole]))[:5], np.sort(np.unique(labels[whole]))[:5]]
    assert in_order[0].min() < in_order[1].max() and in_order[1].min() < in_order[0].max()  # drawn, not cut off


def test_a_class_of_two_sources_is_held_out_once_as_well():
    """`records.merge_classes` makes such classes; it is of the source with more of its images."""
    labels = np.repeat(np.arange(12), 4)
    domains = np.where(np.arange(len(labels)) % 4 == 0, "birds", "cars")
    domains[labels >= 10] = "birds"
    masks = np.array([folds.held_out(f"classes {number}/3", labels, domains) for number in (1, 2, 3)])
    np.testing.assert_array_equal(masks.sum(axis=0), 1)
    counts = [len(np.unique(labels[mask & (labels < 10)])) for mask in masks]
    assert sorted(counts) == [3, 3, 4]


def test_a_source_is_held_out_whole():
    labels, domains = listed()
    np.testing.assert_array_equal(folds.held_out("domain birds", labels, domains), domains == "birds")


def test_classes_and_a_source_are_held_out_at_once_each_in_its_own_part():
    labels, domains = listed()
    found = folds.parts("classes 2/3 + domain birds", labels, domains)
    assert list(found) == ["classes 2/3", "domain birds"]
    birds = domains == "birds"
    np.testing.assert_array_equal(found["domain birds"], birds)
    np.testing.assert_array_equal(found["classes 2/3"], folds.held_out("classes 2/3", labels, domains) & ~birds)
    held = folds.held_out("classes 2/3 + domain birds", labels, domains)
    np.testing.assert_array_equal(held, found["classes 2/3"] | birds)
    two = folds.parts("domain cars+domain birds", labels, domains)
    assert {name: mask.sum() for name, mask in two.items()} == {
        "domain cars": (domains == "cars").sum(),
        "domain birds": birds.sum(),
    }


@pytest.mark.parametrize(
    ("fold", "said"),
    [
        ("classes 0/3", "1 ≤ I ≤ N, got 'classes 0/3'"),
        ("classes 1/3 + classes 2/3 + classes 3/3", "holds out everything"),
        ("domain birds + domain birds", "the same records twice"),
        ("classes 1/3 + classes 1/2", "the same records twice"),
        ("classes 1/3 + ", "both joined by ` + `, got 'classes 1/3 + '"),
        ("domain birds + domain cars + domain clothes", "holds out everything"),
        ("classes 4/3", "1 ≤ I ≤ N"),
        ("classes 1/1", "holds out everything"),
        ("classes 30/40", "holds out nothing"),
        ("classes 1 of 3", "`classes I/N`, `domain NAME` or both joined by ` + `, got 'classes 1 of 3'"),
        ("domain", "`classes I/N`, `domain NAME` or both"),
        ("domain fish", "one of the sources birds, cars, clothes, got 'fish'"),
    ],
)
def test_what_is_no_fold_is_bad_input(fold, said):
    with pytest.raises(BadInput, match="fold") as refused:
        folds.held_out(fold, *listed())
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_the_only_source_cannot_be_left_out():
    with pytest.raises(BadInput, match="holds out everything"):
        folds.held_out("domain cars", np.arange(4), np.array(["cars"] * 4))


def test_a_part_of_the_records_is_those_records(tiny):
    whole = tiny.trained("none").records()
    rows = np.array([30, 2, 17, 3])
    part = whole.part(rows)
    assert len(part) == 4 and [part.image(row) for row in range(4)] == [whole.image(int(row)) for row in rows]
    assert part.labels.tolist() == whole.labels[rows].tolist() and part.domains.tolist() == ["b", "a", "b", "a"]
    assert part.keys == [whole.keys[row] for row in rows]
    assert part.digest == whole.part(rows).digest != whole.digest


def test_features_of_all_folds_are_computed_once(tiny, tmp_path, monkeypatch):
    trained, found = tiny.trained("none", "embedder.sizes_px=[16,24]"), devices.connect(config.Devices())
    run, calls, encode = config.load(config.Run, tiny.config, [f"run_dir={tmp_path}"]), [], feature_cache.Encoding.of
    monkeypatch.setattr(feature_cache.Encoding, "of", lambda *given: calls.append(len(given[1])) or encode(*given))
    whole = trained.records()
    held = folds.held_out("classes 1/2", whole.labels, whole.domains)
    both = trained.embedder(0)
    parts = [whole.part(np.flatnonzero(mask)) for mask in (~held, held)]
    rows = [feature_cache.FeatureCache(run, found, both).of(part, "train") for part in parts]
    everything = feature_cache.FeatureCache(run, found, both).of(whole, "train")
    assert calls == [32, 32]  # every record, at two sizes
    for mask, found_rows in zip((~held, held), rows, strict=True):
        np.testing.assert_array_equal(found_rows, everything[mask])
    slow = trained.features(0, pictures(whole, np.arange(32)), (16, 24))
    np.testing.assert_allclose(everything, slow, atol=1e-5)
    one = feature_cache.FeatureCache(run, found, replace(both, sizes_px=(16,)))
    np.testing.assert_allclose(
        unit(one.of(parts[1], "train")), unit(trained.features(0, pictures(parts[1], np.arange(16)))), atol=1e-5
    )
    assert calls == [32, 32]
