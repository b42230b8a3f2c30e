"""Intervals against a bootstrap that draws query by query, and against the normal law where that holds."""

import random

import numpy as np
import pytest

from pipeline.retrieval import intervals


def slow_bootstrap(values: list[list[float]], draws: int = 3000) -> tuple[float, float]:
    """Draws seeds and queries one at a time, and sorts the means of what they cross in."""
    generator, means = random.Random(11), []
    seeds, queries = len(values), len(values[0])
    for _ in range(draws):
        drawn_seeds = [generator.randrange(seeds) for _ in range(seeds)]
        drawn_queries = [generator.randrange(queries) for _ in range(queries)]
        total = sum(values[seed][query] for seed in drawn_seeds for query in drawn_queries)
        means.append(total / (seeds * queries))
    means.sort()
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


def precisions(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Values that precision@5 takes: 0, 1/5 … 1, with a query's part and a seed's part in them."""
    *_, queries = shape
    parts = random.normal(0.6, 0.4, queries) + random.normal(0.0, 0.1, shape)
    if len(shape) == 2:
        parts += np.array([0.15, -0.1, 0.05])[: shape[0], None]
    return np.round(np.clip(parts, 0, 1) * 5) / 5


def assert_alike(found: tuple[float, float], expected: tuple[float, float]) -> None:
    """Bounds within a tenth of the interval's width: what 1,000 draws leave to chance."""
    assert np.abs(np.subtract(found, expected)).max() < 0.1 * (expected[1] - expected[0])


@pytest.mark.parametrize("queries", [12, 150])
def test_the_interval_of_a_mean_is_the_bootstraps_over_queries(queries):
    values = precisions(np.random.default_rng(queries), (queries,))
    assert_alike(intervals.interval(values), slow_bootstrap([values.tolist()]))


def test_many_queries_make_it_the_normal_laws():
    values = precisions(np.random.default_rng(0), (5000,))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert_alike(intervals.interval(values), (values.mean() - half, values.mean() + half))


def test_a_paired_interval_resamples_both_rows_alike_and_is_narrower():
    generator = np.random.default_rng(1)
    first = precisions(generator, (150,))
    second = np.clip(first - 0.2 * generator.integers(0, 2, 150), 0, 1)
    found = intervals.paired(first, second)
    assert_alike(found, slow_bootstrap([(first - second).tolist()]))
    alone = [high - low for low, high in map(intervals.interval, (first, second))]
    assert found[1] - found[0] < 0.6 * min(alone)


def test_over_seeds_both_seeds_and_queries_are_resampled():
    values = precisions(np.random.default_rng(2), (3, 120))
    found = intervals.over_seeds(values)
    assert_alike(found, slow_bootstrap(values.tolist()))
    of_queries = intervals.interval(values.mean(axis=0))  # as though these seeds were all there are
    assert found[1] - found[0] > 1.3 * (of_queries[1] - of_queries[0])


def test_one_seed_is_the_interval_over_queries_and_no_query_has_no_width():
    values = precisions(np.random.default_rng(3), (40,))
    assert intervals.over_seeds(values[None]) == intervals.interval(values) == intervals.interval(values[::-1])
    assert intervals.interval(np.zeros(0)) == (0.0, 0.0)
