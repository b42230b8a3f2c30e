"""ILIAS's metric a second time, slow and obvious: by the paper's words and the definition of average precision."""

import numpy as np


def mean_average_precision(queries, database, positives, k):
    """mAP@k and each query's AP.

    queries: id → vector. database: [(id, vector)], as it stands in the files. positives: ids, whether or not they are
    in the database.
    """
    scores = {}
    for query, asked in queries.items():
        near = [(float(np.float32(np.dot(asked.astype(float), v.astype(float)))), key) for key, v in database]
        ranked = sorted(near, key=lambda pair: -pair[0])[:k]  # Python's sort keeps the order of ties
        answers = {key for key in positives if key.split("/")[0] == query.split("/")[0]}
        scores[query] = of_a_query(ranked, answers, k)
    return sum(scores.values()) / len(scores), scores


def of_a_query(ranked, answers, k):
    """AP = Σ over thresholds of (recall's step) · (precision there), recall within what was retrieved."""
    found = sum(key in answers for _, key in ranked)
    if not found:
        return 0.0
    average = recall_before = 0.0
    for threshold in sorted({similarity for similarity, _ in ranked}, reverse=True):
        above = [key for similarity, key in ranked if similarity >= threshold]
        hits = sum(key in answers for key in above)
        average += (hits / found - recall_before) * hits / len(above)
        recall_before = hits / found
    return average * found / min(k, len(answers))
