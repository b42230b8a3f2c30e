"""The protocol of the metric-learning sets: unseen classes, R@1 and MAP@R, and beside them the competition's mP@5.

Each image of the test split asks for all others; where queries and gallery are apart, each query asks the gallery. A
query without a match is left out, as pytorch-metric-learning leaves out its "lone" queries.

Source: Musgrave et al., A metric learning reality check, ECCV 2020.
"""

import numpy as np

from pipeline.benchmarks import results
from pipeline.benchmarks.labels import hits, joined, matches, without
from pipeline.benchmarks.results import Mode
from pipeline.benchmarks.work import Work
from pipeline.retrieval.metrics import average_precision_at_r, precision_at_5

MEASURES = ("R@1", "MAP@R", "mP@5")


def score(work: Work) -> list[Mode]:
    """One table with one row."""
    (queries,) = [part for part in work.parts if part.queries]
    index = [part for part in work.parts if part.index]
    asked, found = work.labels(queries), joined([work.labels(part) for part in index])
    itself = work.rows_of(queries, index)
    n_q = matches(asked, found) - (itself >= 0)
    kept = np.flatnonzero(n_q > 0)
    k = max(5, int(n_q.max(initial=0)))
    values = {name: np.zeros(len(asked)) for name in MEASURES}
    for lot, near in work.searched(queries, index, k + 1):
        right = hits(without(near.rows, itself[lot]), asked.part(lot), found)
        for name, each in measures(right, n_q[lot]).items():
            values[name][lot] = each
    row = results.row({name: each[kept] for name, each in values.items()}, len(found), len(asked) - len(kept))
    return [Mode(queries.name, {work.benchmark.title: row})]


def measures(right: np.ndarray, n_q: np.ndarray) -> dict[str, np.ndarray]:
    """measure → float64 [Q], of hits bool [Q, ≥max(5, n_q)] without the query itself and n_q int64 [Q]."""
    first = right[:, 0].astype(np.float64)
    return dict(zip(MEASURES, (first, average_precision_at_r(right, n_q), precision_at_5(right, n_q)), strict=True))
