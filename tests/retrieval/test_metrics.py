"""The metric against its formula, written as slowly and plainly as it reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.retrieval import metrics


def slow_mean_precision_at_5(predictions: dict, solution: dict) -> float:
    """The competition's formula, one query, one rank at a time."""
    total = 0.0
    for query, wanted in solution.items():
        counted = min(len(wanted), 5)  # an id that stands twice counts twice
        if counted == 0:
            continue
        right, seen = 0, []
        for rank in range(counted):
            given_here = predictions.get(query, [])
            if rank >= len(given_here):
                break
            if given_here[rank] in wanted and given_here[rank] not in seen:
                right += 1
            seen.append(given_here[rank])
        total += right / counted
    return total / len(solution)


ids = st.integers(0, 9)


@settings(deadline=None)
@given(st.dictionaries(ids, st.lists(ids, max_size=8), min_size=1), st.dictionaries(ids, st.lists(ids, max_size=8)))
def test_mean_precision_at_5_is_the_competitions_for_any_predictions(solution, predictions):
    hits, matches = metrics.hits_of_predictions(predictions, solution)
    assert metrics.mean_precision_at_5(hits, matches) == pytest.approx(slow_mean_precision_at_5(predictions, solution))


def test_only_the_first_min_of_matches_and_5_predictions_count():
    hits = np.array([[False, True, True, False, False]])
    assert metrics.mean_precision_at_5(hits, np.array([2])) == 0.5  # others say 1.0 and 0.4, see FACTS


def test_a_missing_query_scores_zero_and_counts():
    hits, matches = metrics.hits_of_predictions({"a": ["x"]}, {"a": ["x"], "b": ["y"]})
    assert metrics.mean_precision_at_5(hits, matches) == 0.5


def test_a_repeated_prediction_scores_once_but_uses_its_slot():
    hits, matches = metrics.hits_of_predictions({"a": ["x", "x", "y"]}, {"a": ["x", "y"]})
    assert metrics.mean_precision_at_5(hits, matches) == 0.5


def test_leave_one_out_counts_one_match_fewer_than_the_class_has_images():
    labels = np.array([0, 0, 0, 1])
    hits, matches = metrics.neighbour_hits(np.array([[1, 2], [0, 3], [3, 0], [0, -1]]), labels, labels, True)
    assert matches.tolist() == [2, 2, 2, 0]
    assert hits.tolist() == [[True, True], [True, False], [False, True], [False, False]]


def test_queries_of_a_class_that_the_index_lacks_have_no_match():
    hits, matches = metrics.neighbour_hits(np.array([[0], [1]]), np.array([5, 7]), np.array([6, 9]), False)
    assert matches.tolist() == [0, 0] and not hits.any()


def test_map_at_k_is_its_formula():
    rng = np.random.default_rng(0)
    hits = rng.random((400, 5)) < 0.4
    matches = np.maximum(np.maximum(hits.sum(axis=1), rng.integers(1, 9, 400)), 1)
    assert {1, 2, 3} <= set(matches[hits[:, :3].any(axis=1)])  # queries with fewer matches than ranks, too
    slow = []
    for row, count in zip(hits, matches, strict=True):
        total = sum(row[: j + 1].sum() / (j + 1) for j in range(3) if row[j])
        slow.append(total / min(count, 3))
    assert metrics.map_at_k(hits, matches, 3) == pytest.approx(np.mean(slow))
