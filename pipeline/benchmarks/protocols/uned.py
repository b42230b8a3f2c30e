"""UnED's protocol: each domain's queries against the index of all domains, and against their own.

A hit has the query's domain and one of its labels. n_q counts the hits that there are, in the query's domain. Of a
domain whose images ask for each other, the official code throws the first neighbour away without a look at it, and
takes one hit off; where a duplicate comes before the query itself, that is another image. "By identity" leaves out the
query itself. The official index joins the domains in the order of a Python set, which decides between ties; here it is
the order of their numbers.

Source: Ypsilantis et al., Towards universal image embeddings, ICCV 2023, and its code, `knn_utils.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.benchmarks import descriptors, results
from pipeline.benchmarks.labels import hits, joined, matches, without
from pipeline.benchmarks.results import Measures, Mode, Row
from pipeline.benchmarks.table import UNED_DOMAINS, Part
from pipeline.benchmarks.work import Work
from pipeline.retrieval.metrics import average_precision_at_k, precision_at_5

K, DECIMALS = 5, 3
OFFICIAL = ("mMP@5", "R@1", "MAP@5")
ROUNDED = dict.fromkeys(OFFICIAL, DECIMALS)


def score(work: Work) -> list[Mode]:
    """Both indexes, the merged one first; official measures beside those by identity."""
    index = [part for part in work.parts if part.index]
    domains = list(dict.fromkeys(part.domain for part in work.parts))
    merged = "merged index" if len(domains) == len(UNED_DOMAINS) else f"merged index of {len(domains)}"
    if len(domains) < len(UNED_DOMAINS):
        work.notes.append(
            f"{len(domains)} of {len(UNED_DOMAINS)} domains: a smaller merged index, no figure of UnED's tables"
        )
    own = {domain: [part for part in index if part.domain == domain] for domain in domains}
    modes = [_mode(work, merged, dict.fromkeys(domains, index))] if len(domains) > 1 else []
    return [*modes, _mode(work, "separate indexes", own)]


def export(path: Path, work: Work) -> None:
    """Writes the vectors as UnED's descriptors, which its code reads."""

    def blocks(part: Part) -> Iterator[np.ndarray]:
        return (block for _, block in work.store(part).blocks())

    found: dict[str, dict[str, Callable[[], Iterator[np.ndarray]]]] = {}
    for part in work.parts:
        found.setdefault(part.domain, {})[str(part.options["split"])] = partial(blocks, part)
    descriptors.write(path, found)
    print(f"bench: {path}: UnED's descriptors of {', '.join(found)}")


def _mode(work: Work, title: str, index: dict[str, list[Part]]) -> Mode:
    """`index`: domain → the parts that its queries search in."""
    rows: dict[str, Row] = {}
    per_query: dict[str, Measures] = {}
    for part in work.parts:
        if not part.queries:
            continue
        searched = index[part.domain]
        per_query[part.domain], left_out = _measures(work, part, searched)
        rows[part.domain] = results.row(per_query[part.domain], work.count(searched), left_out, ROUNDED)
    shared = len({id(each) for each in index.values()}) == 1
    return Mode(title, rows, results.unweighted(rows, per_query, ROUNDED, shared), decimals=DECIMALS)


def _measures(work: Work, queries: Part, index: Sequence[Part]) -> tuple[Measures, int]:
    """Measures of the queries that have a match, and how many have none: the official code would divide by zero."""
    asked, found = work.labels(queries), joined([work.labels(part) for part in index])
    itself = work.rows_of(queries, index)
    near, _ = work.neighbours(queries, index, K + 1)
    thrown = queries.index
    every = matches(asked, found)
    there = (itself >= 0).astype(np.int64)
    kept = every - there > 0
    right = hits(near, asked, found)
    others = hits(without(near, itself), asked, found)
    official = by_position(right, every) if thrown else measures(right[:, :K], every)
    ours = {f"{name} by identity": each for name, each in measures(others, every - there).items() if name != "MAP@5"}
    return {name: each[kept] for name, each in {**official, **ours}.items()}, int((~kept).sum())


def measures(right: np.ndarray, n_q: np.ndarray) -> dict[str, np.ndarray]:
    """measure → float64 [Q], of hits bool [Q, 5] and n_q int64 [Q]."""
    return dict(
        zip(OFFICIAL, (precision_at_5(right, n_q, K), right[:, 0].astype(np.float64), _ap(right, n_q)), strict=True)
    )


def by_position(right: np.ndarray, every: np.ndarray) -> dict[str, np.ndarray]:
    """measure → float64 [Q], as the official code has it where the queries are their own index.

        mMP@5 = (Σ_{j=1..min(6, n_q + 1)} rel_q(j) − 1) / min(5, n_q)

    It may be below 0: where more than five duplicates of other labels come first.

    >>> by_position(np.array([[False, True, True, False, False, False]]), np.array([3]))["mMP@5"].tolist()
    [0.5]

    Args:
        right: bool [Q, 6], of the first six neighbours, the query itself among them where it is found.
        every: int64 [Q], n_q + 1: the query itself counts, too.
    """
    within = np.arange(K + 1)[None, :] < every[:, None]
    n_q = np.maximum(every - 1, 1)
    precision = ((right & within).sum(axis=1) - 1) / np.minimum(n_q, K)
    return dict(zip(OFFICIAL, (precision, right[:, 1].astype(np.float64), _ap(right[:, 1:], n_q)), strict=True))


def _ap(right: np.ndarray, n_q: np.ndarray) -> np.ndarray:
    return average_precision_at_k(right, n_q, K)
