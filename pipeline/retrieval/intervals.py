"""95 % intervals of means over queries and over training seeds, as pure NumPy functions: the percentile bootstrap.

The bootstrap and not mean ± 1.96 standard errors: it is the same rule for queries alone, for seeds and queries
together and for a dozen queries, and it stays between the least and the largest value. It costs little, because a
query's precision takes few values: how often each is drawn is a multinomial, so a draw is as long as the list of values
that occur, not as the list of queries.

Queries are resampled one by one. The interval says how far the mean would move with other queries of these classes;
other classes or domains would move it further.
"""

from collections.abc import Sequence

import numpy as np

DRAWS = 1000
SHARES = (0.025, 0.975)
SEED = 0  # the same values, the same interval
FEWEST_CLASSES, FEWEST_QUERIES = 5, 50  # that a number is given for without a caveat

Interval = Sequence[float]  # low, high


def text(mean: float, bounds: Interval | None, form: str = ".4f", half: str = ".3f") -> str:
    """A mean and half the width of its interval, as every table and line has them; None: the mean alone.

    >>> text(0.72731, (0.7143, 0.7401)), text(0.031, [0.02, 0.04], "+.3f"), text(0.5, None)
    ('0.7273 ±0.013', '+0.031 ±0.010', '0.5000')
    """
    return f"{mean:{form}}" + ("" if bounds is None else f" ±{(bounds[1] - bounds[0]) / 2:{half}}")


def caveat(classes: int, queries: int, alone: bool = False) -> str:
    """What a line says of a mean over few classes or queries, whose interval does not show it; "" of many.

    >>> caveat(3, 900), caveat(1, 9), caveat(24, 40), caveat(24, 900)
    ('3 classes: too few for an estimate', '1 class, 9 queries: too few for an estimate', '40 queries: too few for an \
estimate', '')
    >>> caveat(1, 900, alone=True)
    'one class: every neighbour is right'

    Args:
        classes, queries: of the queries. alone: the index holds no other class.
    """
    if alone and classes == 1:
        return "one class: every neighbour is right"
    few = [f"{classes} class{'es' * (classes != 1)}"] * (classes < FEWEST_CLASSES)
    few += [f"{queries} quer{'ies' if queries != 1 else 'y'}"] * (queries < FEWEST_QUERIES)
    return f"{', '.join(few)}: too few for an estimate" if few else ""


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of one value a query, float [Q].

    >>> interval(np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)

    Returns:
        (low, high); (0.0, 0.0) for no queries, as their mean is 0.

    Source: Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 1979.
    """
    return over_seeds(np.asarray(values)[None])


def paired(values_a: np.ndarray, values_b: np.ndarray) -> tuple[float, float]:
    """95 % interval of mean(a) − mean(b) over the same queries: float [Q] each, or [S, Q] over seeds, too.

    A query that is hard for both moves neither bound, so the interval is narrower than those of the two means.

    >>> paired(np.array([0.25, 1.0]), np.array([0.0, 0.75]))
    (0.25, 0.25)
    """
    return over_seeds(np.atleast_2d(np.asarray(values_a) - np.asarray(values_b)))


def of_groups(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the unweighted mean of several groups' means; queries are drawn within their group.

    >>> of_groups([np.array([1.0, 1.0]), np.array([0.0, 0.0, 0.0])])
    (0.5, 0.5)

    Args:
        groups: float [Q] each, such as the queries of a domain; an empty one has the mean 0.
    """
    random = np.random.default_rng(SEED)
    total = np.zeros(DRAWS)
    for values in groups:
        found, counts = np.unique(np.asarray(values), return_counts=True)
        if len(found):
            total += random.multinomial(len(values), counts / len(values), DRAWS) / len(values) @ found
    low, high = np.quantile(total / len(groups), SHARES)
    return float(low), float(high)


def over_seeds(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over training seeds and queries, float [S, Q]; row s are the queries under seed s.

    Each draw takes S of the seeds and Q of the queries, with replacement, and the mean of their crossing. Of few seeds
    the bootstrap finds their variance (S − 1) / S times too small.

    >>> over_seeds(np.array([[0.5, 0.5], [0.5, 0.5]]))
    (0.5, 0.5)

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007.
    """
    seeds, queries = np.shape(values)
    if not queries:
        return 0.0, 0.0
    found, counts = np.unique(values, axis=1, return_counts=True)  # [S, K] columns that occur, int [K]
    random = np.random.default_rng(SEED)
    of_queries = random.multinomial(queries, counts / queries, DRAWS) / queries  # [B, K]
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds  # [B, S]
    means = ((of_queries @ found.T) * of_seeds).sum(axis=1)
    low, high = np.quantile(means, SHARES)
    return float(low), float(high)
