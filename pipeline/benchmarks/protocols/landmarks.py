"""GLDv2's retrieval protocol: mAP@100 of the public and of the private queries against the index.

What a query finds is a list of images. Queries that the solution ignores are not asked.

Source: Weyand et al., Google Landmarks Dataset v2, CVPR 2020; its metric is the competition's.
"""

import numpy as np

from pipeline.benchmarks import results
from pipeline.benchmarks.labels import hits, joined, matches
from pipeline.benchmarks.results import Mode, Row
from pipeline.benchmarks.work import Work
from pipeline.retrieval.metrics import average_precision_at_k

K, MEASURE = 100, "mAP@100"


def score(work: Work) -> list[Mode]:
    """One table, a row a part of the queries; the private one first, which papers name."""
    index = [part for part in work.parts if part.index]
    found = joined([work.labels(part) for part in index])
    rows: dict[str, Row] = {}
    for part in sorted((part for part in work.parts if part.queries), key=lambda part: part.name):
        asked = work.labels(part)
        near, _ = work.neighbours(part, index, K)
        n_q = matches(asked, found)
        kept = n_q > 0
        values: np.ndarray = average_precision_at_k(hits(near, asked, found), n_q, K)
        rows[part.name] = results.row({MEASURE: values[kept]}, len(found), int((~kept).sum()))
    return [Mode("queries", rows)]
