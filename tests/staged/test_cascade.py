"""The vote, and the cascade's accuracy and time against slow loops."""

import itertools

import numpy as np
import pytest

from pipeline.staged import cascade


def test_vote_counts_and_breaks_ties_by_the_nearest():
    assert cascade.vote(["a", "b", "b"]) == ("b", 2 / 3)
    assert cascade.vote(["b", "a", "b", "a"]) == ("b", 0.5) and cascade.vote(["a", "b", "b", "a"]) == ("a", 0.5)
    assert cascade.vote([]) == ("", 0.0)


def slow_cascade(correct, agreement, cost, skipped, thresholds):
    right = spent = 0.0
    for image in range(correct.shape[1]):
        for stage in range(len(correct)):
            last = stage == len(correct) - 1
            if not last and thresholds[stage] > 1:
                spent += skipped[stage, image]
                continue
            spent += cost[stage, image]
            if last or agreement[stage, image] >= thresholds[stage]:
                right += correct[stage, image]
                break
    return right / correct.shape[1], spent / correct.shape[1]


def test_simulated_cascade_equals_a_loop_for_every_setting_of_thresholds():
    rng = np.random.default_rng(3)
    correct = rng.random((4, 40)) < [[0.3], [0.5], [0.7], [0.8]]
    agreement = rng.integers(0, 11, (4, 40)) / 10
    cost = rng.random((4, 40)) + np.array([[0.1], [1], [2], [3]])
    skipped = cost * 0.6
    for thresholds in itertools.product([0.0, 0.3, 0.7, 1.0, cascade.NEVER], repeat=3):
        point = cascade.simulate(correct, agreement, cost, skipped, thresholds)
        accuracy, spent = slow_cascade(correct, agreement, cost, skipped, thresholds)
        assert point.accuracy == pytest.approx(accuracy) and point.milliseconds == pytest.approx(spent)
        assert sum(point.answered) == pytest.approx(1)


def test_pareto_keeps_what_nothing_beats():
    def point(accuracy, milliseconds):
        return cascade.Point((), accuracy, milliseconds, ())

    points = [point(0.5, 1), point(0.4, 2), point(0.7, 3), point(0.7, 2.5), point(0.9, 9), point(0.6, 1)]
    assert [(p.accuracy, p.milliseconds) for p in cascade.pareto(points)] == [(0.6, 1), (0.7, 2.5), (0.9, 9)]
    coarse = cascade.pareto([*points, point(0.95, 12)], gain=0.15)
    assert [p.accuracy for p in coarse] == [0.6, 0.9, 0.95]


def test_curve_measures_on_images_that_did_not_choose_the_thresholds():
    """Even places say that stage 0 is always right; odd places, which are reported, that it never is."""
    correct = np.array([[1, 0] * 10, [1, 1] * 10], bool)
    agreement, cost = np.ones((2, 20)), np.array([[1.0] * 20, [5.0] * 20])
    points = cascade.curve(correct, agreement, cost, np.zeros((2, 20)), [1.0])
    assert [(p.accuracy, p.milliseconds) for p in points] == [(0.0, 1.0)]
