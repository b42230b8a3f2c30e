"""Answering early: the neighbours' vote, the cascade of stages, its accuracy against its time. Pure functions."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.staged.config import NEVER


@dataclass(frozen=True)
class Point:
    """One setting of the cascade and what it gave."""

    thresholds: tuple[float, ...]  # of all stages but the last; NEVER skips a stage
    accuracy: float
    milliseconds: float  # mean of an image
    answered: tuple[float, ...]  # share of the images that each stage answered


def vote(class_names: Sequence[str]) -> tuple[str, float]:
    """The class most neighbours have, and their share, ("", 0.0) of none. Ties go to the class whose member is nearest.

    >>> vote(["cat", "dog", "dog", "cat", "owl"])
    ('cat', 0.4)
    """
    if not class_names:
        return "", 0.0
    winner, count = Counter(class_names).most_common(1)[0]  # equal counts stay in order of appearance
    return winner, count / len(class_names)


def simulate(
    correct: np.ndarray,
    agreement: np.ndarray,
    milliseconds: np.ndarray,
    skipped_milliseconds: np.ndarray,
    thresholds: Sequence[float],
) -> Point:
    """What a cascade would have done, from what every stage measured on every image.

    An image is answered by the first stage whose agreement reaches its threshold, by the last one in any case.

    Args:
        correct: bool [S, N]. agreement: float [S, N], share of neighbours for the winner.
        milliseconds: float [S, N], what each stage adds (prepare, encode on from the stage before, query).
        skipped_milliseconds: float [S, N], what a skipped stage still costs: its part of the encoder.
        thresholds: S − 1 numbers; NEVER skips a stage, its neighbours are not looked up.
    """
    stages, images = correct.shape
    limits = np.array([*thresholds, -1.0])[:, None]
    answering = np.argmax(agreement >= limits, axis=0)  # [N], the first stage that answers
    reached = np.arange(stages)[:, None] <= answering  # [S, N]
    cost = np.where(limits >= NEVER, skipped_milliseconds, milliseconds)
    return Point(
        tuple(float(value) for value in thresholds),
        float(correct[answering, np.arange(images)].mean()),
        float((cost * reached).sum(axis=0).mean()),
        tuple(float(share) for share in np.bincount(answering, minlength=stages) / images),
    )


def pareto(points: Sequence[Point], gain: float = 0.0) -> list[Point]:
    """The points that no other beats in both accuracy and time, fastest first.

    `gain`: a slower point must be more accurate by this much; the most accurate one stays in any case.
    """
    front: list[Point] = []
    last: Point | None = None
    for point in sorted(points, key=lambda point: (point.milliseconds, -point.accuracy)):
        if last is None or point.accuracy > last.accuracy:
            last = point
            if not front or point.accuracy >= front[-1].accuracy + gain:
                front.append(point)
    return front if last is None or front[-1] is last else [*front, last]


def curve(
    correct: np.ndarray,
    agreement: np.ndarray,
    milliseconds: np.ndarray,
    skipped_milliseconds: np.ndarray,
    levels: Sequence[float],
    gain: float = 0.02,
) -> list[Point]:
    """The cascade's accuracy against its time: thresholds chosen on one half of the images, measured on the other.

    Args:
        correct, agreement, milliseconds, skipped_milliseconds: see `simulate`.
        levels: thresholds to try at every stage; NEVER is tried too.
        gain: accuracy that a slower setting must add, or it is left out.

    Returns points of the images at odd indices, in the order of the Pareto front of those at even ones.
    """

    def simulated(half: slice, thresholds: Sequence[float]) -> Point:
        arrays = (correct, agreement, milliseconds, skipped_milliseconds)
        right, agreed, cost, skipped_cost = (array[:, half] for array in arrays)
        return simulate(right, agreed, cost, skipped_cost, thresholds)

    even, odd = slice(0, None, 2), slice(1, None, 2)
    settings = itertools.product([*levels, NEVER], repeat=len(correct) - 1)
    front = pareto([simulated(even, thresholds) for thresholds in settings], gain)
    return [simulated(odd, point.thresholds) for point in front]
