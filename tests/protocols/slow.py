"""The protocols a second time, written from the published rules as plain loops: no NumPy but its rounding."""

import math

import numpy as np


def ranked(query, index):
    """Rows of the index by falling inner product, ties by the smaller row."""
    products = [
        float(np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, row, strict=True)))) for row in index
    ]
    return sorted(range(len(index)), key=lambda row: (-products[row], row)), products


def ap(relevant, most):
    """Average precision of a list of 0 and 1, divided by `most`."""
    found, total = 0, 0.0
    for rank, one in enumerate(relevant, 1):
        found += one
        total += one * found / rank
    return total / most


def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def uned(lists, vectors, index_of, merged):
    """domain → measure → value, of all eight or some domains.

    lists: (domain, split) → [(path, label or labels)]; vectors: the same → [vector]; index_of: domain → split.
    """
    found = {}
    for domain in index_of:
        rows = []
        for other, split in index_of.items():
            if merged or other == domain:
                for place, (_, label) in enumerate(lists[other, split]):
                    rows.append((other, _labels(label), split, place, vectors[other, split][place]))
        values = {name: [] for name in ("mMP@5", "R@1", "MAP@5", "mMP@5 by identity", "R@1 by identity")}
        for place, (_, label) in enumerate(lists[domain, "test"]):
            wanted = _labels(label)
            order, _ = ranked(vectors[domain, "test"][place], [row[4] for row in rows])
            hit = [int(rows[at][0] == domain and bool(wanted & rows[at][1])) for at in order]
            every = sum(hit)
            itself = [(rows[at][0], rows[at][2], rows[at][3]) == (domain, "test", place) for at in order]
            n_q = every - sum(itself)
            if n_q == 0:
                continue
            others = [one for one, own in zip(hit, itself, strict=True) if not own]
            if index_of[domain] == "test":  # the first is thrown away by its position
                values["mMP@5"].append((sum(hit[: min(6, every)]) - 1) / min(5, n_q))
                thrown = hit[1:]
            else:
                values["mMP@5"].append(sum(hit[: min(5, n_q)]) / min(5, n_q))
                thrown = hit
            values["R@1"].append(float(thrown[0]))
            values["MAP@5"].append(ap(thrown[:5], min(5, n_q)))
            values["mMP@5 by identity"].append(sum(others[: min(5, n_q)]) / min(5, n_q))
            values["R@1 by identity"].append(float(others[0]))
        found[domain] = {
            name: mean(each) if "identity" in name else float(np.round(mean(each), 3)) for name, each in values.items()
        }
    return found


def _labels(label):
    return {label} if isinstance(label, int) else set(label)


def metric_learning(queries, index):
    """R@1, MAP@R, mP@5; queries and index: [(key, class, vector)], a query does not find its own key."""
    first, at_r, at_5 = [], [], []
    for key, wanted, vector in queries:
        order, _ = ranked(vector, [row[2] for row in index])
        hit = [int(index[at][1] == wanted) for at in order if index[at][0] != key]
        if sum(hit):
            first.append(float(hit[0]))
            at_r.append(ap(hit[: sum(hit)], sum(hit)))
            m = min(5, sum(hit))
            at_5.append(sum(hit[:m]) / m)
    return {"R@1": mean(first), "MAP@R": mean(at_r), "mP@5": mean(at_5)}


def gpr1200(rows, chosen):
    """mAP with and without the query; rows: [(class, vector)], chosen: places that ask."""
    left_in, left_out = [], []
    for place in chosen:
        order, _ = ranked(rows[place][1], [row[1] for row in rows])
        hit = [int(rows[at][0] == rows[place][0]) for at in order]
        others = [one for one, at in zip(hit, order, strict=True) if at != place]
        left_in.append(ap(hit, sum(hit)))
        if sum(others):
            left_out.append(ap(others, sum(others)))
    return {"mAP": float(np.round(mean(left_in), 4)), "mAP without the query": mean(left_out)}


def landmarks(queries, index, answers):
    """mAP@100; queries, index: id → vector, answers: query → ids of the index."""
    values = []
    for query, vector in queries.items():
        ids = list(index)
        wanted = [each for each in answers[query] if each in index]
        if wanted:
            order, _ = ranked(vector, list(index.values()))
            hit = [int(ids[at] in wanted) for at in order[:100]]
            values.append(ap(hit, min(len(wanted), 100)))
    return mean(values)


NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TEMPERATURES = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)


def met(train, val, test):
    """GAP, GAP-, ACC of the kNN classifier that is tuned on val; each: [(exhibit or None, vector)]."""
    best = (-1.0, 0, 0.0)
    for k in NEIGHBOURS:
        for temperature in TEMPERATURES:
            found = _gap(_predicted(val, train, k, temperature), [label for label, _ in val])
            if found > best[0]:
                best = (found, k, temperature)
    predictions = _predicted(test, train, *best[1:])
    labels = [label for label, _ in test]
    shown = [row for row, label in enumerate(labels) if label is not None]
    return {
        "GAP": _gap(predictions, labels),
        "GAP-": _gap([predictions[row] for row in shown], [labels[row] for row in shown]),
        "ACC": mean([float(predictions[row][0] == labels[row]) for row in shown]),
    }


def _predicted(queries, train, k, temperature):
    exhibits = len({label for label, _ in train})
    found = []
    for _, vector in queries:
        order, products = ranked(vector, [row[1] for row in train])
        most = {}
        for at in order[:k]:
            label = train[at][0]
            most[label] = max(most.get(label, 0.0), products[at])
        weights = {label: math.exp(temperature * value) for label, value in sorted(most.items())}
        total = sum(weights.values()) + (exhibits - len(weights))
        label = max(weights, key=lambda each: (weights[each], -each))
        found.append((label, weights[label] / total))
    return found


def _gap(predictions, labels):
    order = sorted(range(len(labels)), key=lambda row: -predictions[row][1])  # stable: ties in their order
    hit = [int(predictions[row][0] == labels[row]) for row in order]
    return ap(hit, sum(label is not None for label in labels))
