"""GPR1200's protocol: each image asks for all, average precision over the whole ranking, its mean over all images.

The repository's code leaves the query in the ranking, nearly always at rank 1, where it counts as a hit; beside that
stands the same without it. The six domains are the categories in order, 200 each.

Source: Schall et al., GPR1200, MMM 2022, and its code, `eval/utils.py`. It sorts ties by an unstable sort; here the
smaller row is first.
"""

import numpy as np

from pipeline.benchmarks import results
from pipeline.benchmarks.labels import without
from pipeline.benchmarks.results import Measures, Mode, Row
from pipeline.benchmarks.work import Work
from pipeline.retrieval.metrics import average_precision_at_k
from tfrecords.benchmarks import gpr1200 as layout

WITH, WITHOUT = "mAP", "mAP without the query"
AT_A_TIME = 1 << 22  # similarities that are held at a time
DECIMALS = 4


def score(work: Work) -> list[Mode]:
    """One table: the domains, searched in the whole, and all images."""
    (part,) = work.parts
    store = work.store(part)
    names = [name for _, _, name, _ in store.items()]
    domain_of = layout.domain_of(list(dict.fromkeys(names)))
    domains, categories = np.array([domain_of[name] for name in names]), work.labels(part).first
    vectors = np.concatenate([block for _, block in store.blocks()]) if store.count else np.zeros((0, store.dim))
    every = average_precisions(vectors, categories)
    rows = {name: _row(every, of) for name in layout.DOMAINS if (of := domains == name).any()}
    return [Mode("domain", {**rows, "all": _row(every, np.ones(len(categories), bool))}, decimals=DECIMALS)]


def _row(every: Measures, of: np.ndarray) -> Row:
    alone = np.isnan(every[WITHOUT])  # no other image of its category: the official code scores it, ours does not
    chosen = {WITH: every[WITH][of], WITHOUT: every[WITHOUT][of & ~alone]}
    return results.row(chosen, len(of), int((of & alone).sum()), {WITH: DECIMALS})


def average_precisions(vectors: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """WITH and WITHOUT the query in its ranking → float64 [N]; NaN where no other image has its class.

        AP(q) = (1 / n_q) · Σ over its n_q hits of (hits up to its rank) / rank

    Args:
        vectors: float32 [N, D]. classes: int64 [N].
    """
    count = len(classes)
    found = {WITH: np.zeros(count), WITHOUT: np.zeros(count)}
    step = max(1, AT_A_TIME // max(count, 1))
    exact = vectors.astype(np.float64)
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))  # [Q]
        ranked = np.argsort(-(exact[rows] @ exact.T).astype(np.float32), axis=1, kind="stable")  # [Q, N]
        for name, near in ((WITH, ranked), (WITHOUT, without(ranked, rows))):
            right = classes[near] == classes[rows, None]
            n_q = right.sum(axis=1)
            found[name][rows] = np.where(n_q > 0, average_precision_at_k(right, n_q, count), np.nan)
    return found
