"""The Met's protocol: a kNN classifier over the exhibits, judged by GAP with the distractor queries, GAP- and ACC.

An exhibit scores as its nearest image among the K neighbours, at least 0; the confidence is a softmax at temperature t
over all exhibits, those that are not among the neighbours at 0. K and t are those with the best GAP on the validation
queries. The repository whitens the vectors first (PCA of the exhibits, 512 dimensions); both are shown. Beside it stand
UnED's measures, over the queries that show an exhibit.

Source: Ypsilantis et al., The Met dataset, NeurIPS 2021 Datasets and Benchmarks, and its code, `knn_eval.py`.
"""

from typing import NamedTuple

import numpy as np

from pipeline.benchmarks import results
from pipeline.benchmarks.labels import Labels, hits, matches
from pipeline.benchmarks.protocols import uned
from pipeline.benchmarks.results import Mode, Row
from pipeline.benchmarks.table import Part
from pipeline.benchmarks.work import Changed, Work
from pipeline.errors import BadInput
from pipeline.retrieval import intervals
from pipeline.retrieval.vectors import unit_length

NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TEMPERATURES = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)
WHITENED_DIM = 512
MEASURES = ("GAP", "GAP-", "ACC")


class Predictions(NamedTuple):
    """Of Q queries."""

    classes: np.ndarray  # int64 [Q]
    confidences: np.ndarray  # float64 [Q]


class Nearest(NamedTuple):
    """The exhibits among the neighbours of Q queries."""

    classes: np.ndarray  # int64 [Q, K], each once, rising; -1 for none
    similarities: np.ndarray  # float64 [Q, K], of its nearest image, at least 0; -inf for none


def score(work: Work) -> list[Mode]:
    """The classifier on the vectors as they are and whitened, then UnED's measures."""
    parts = {part.name: part for part in work.parts}
    test, train, val = (parts[name] for name in ("test", "train", "val"))
    changes: dict[str, Changed | None] = {"as they are": None, "PCA-whitened": whitening(work, train)}
    rows: dict[str, Row] = {}
    chosen = []
    for name, changed in changes.items():
        rows[name], k, temperature = _classified(work, (test, train, val), changed, name)
        chosen.append(f"{name}: K {k}, t {temperature:g}")
    note = f"K and t of the best GAP on the validation queries; {', '.join(chosen)}"
    return [Mode("vectors", rows, note=note), _retrieved(work, test, train)]


def _classified(
    work: Work, parts: tuple[Part, Part, Part], changed: Changed | None, name: str
) -> tuple[Row, int, float]:
    test, train, val = parts
    labels = {part.name: _exhibits(work, part) for part in parts}
    exhibits = len(np.unique(labels[train.name]))
    by = "" if changed is None else name

    def near(queries: Part) -> tuple[np.ndarray, np.ndarray]:
        rows, similarities = work.neighbours(queries, [train], max(NEIGHBOURS), changed, by)
        found = labels[train.name][np.maximum(rows, 0)]
        return np.where(rows >= 0, found, -1), similarities

    best, k, temperature = -1.0, NEIGHBOURS[0], TEMPERATURES[0]
    classes, similarities = near(val)
    for few in NEIGHBOURS:
        nearest = grouped(classes[:, :few], similarities[:, :few])
        for each in TEMPERATURES:
            found = gap(predicted(nearest, each, exhibits), labels[val.name])
            if found > best:
                best, k, temperature = found, few, each
    classes, similarities = near(test)
    predictions = predicted(grouped(classes[:, :k], similarities[:, :k]), temperature, exhibits)
    wanted = labels[test.name]
    shown = wanted >= 0
    right = (predictions.classes == wanted)[shown].astype(np.float64)
    shown_alone = Predictions(predictions.classes[shown], predictions.confidences[shown])
    values = dict(
        zip(MEASURES, (gap(predictions, wanted), gap(shown_alone, wanted[shown]), results.mean(right)), strict=True)
    )
    bounds = {
        "GAP": _interval(predictions, wanted),
        "GAP-": _interval(shown_alone, wanted[shown]),
        "ACC": intervals.interval(right),
    }
    return Row(len(wanted), work.store(train).count, values, bounds), k, temperature


def _exhibits(work: Work, part: Part) -> np.ndarray:
    """int64 [N], the exhibit of each image by its own number; -1 of a distractor. Raises BadInput: no number."""
    try:
        return np.array([int(name) for _, _, name, _ in work.store(part).items()], np.int64)
    except ValueError as error:
        raise BadInput(f"met: expected the numbers of exhibits as classes ({error})") from None


def grouped(classes: np.ndarray, similarities: np.ndarray) -> Nearest:
    """The exhibits among K neighbours, int64 [Q, K] and float [Q, K]; class -1 is no neighbour.

    >>> found = grouped(np.array([[7, 7, 3]]), np.array([[0.9, 0.2, -0.1]]))
    >>> found.classes.tolist(), found.similarities.tolist()
    ([[3, 7, -1]], [[0.0, 0.9, -inf]])
    """
    found = Nearest(np.full(classes.shape, -1, np.int64), np.full(classes.shape, -np.inf))
    for row, (names, near) in enumerate(zip(classes, similarities, strict=True)):
        held = names >= 0
        unique, place = np.unique(names[held], return_inverse=True)
        most = np.zeros(len(unique))
        np.maximum.at(most, place, near[held])
        found.classes[row, : len(unique)], found.similarities[row, : len(unique)] = unique, most
    return found


def predicted(nearest: Nearest, temperature: float, exhibits: int) -> Predictions:
    """The most confident exhibit of each query, the smaller number where two are; `exhibits`: how many there are.

    >>> found = predicted(Nearest(np.array([[3, 7]]), np.array([[0.0, 1.0]])), 1.0, 4)
    >>> found.classes.tolist(), found.confidences.round(4).tolist()
    ([7], [0.4754])
    """
    logits = temperature * nearest.similarities  # [Q, K]
    most = logits.max(axis=1, keepdims=True).clip(min=0)  # of long vectors, whose exponents would overflow
    weights = np.exp(logits - most)
    others = exhibits - (nearest.classes >= 0).sum(axis=1, keepdims=True)
    shares = weights / (weights.sum(axis=1, keepdims=True) + others * np.exp(-most))
    best = shares.argmax(axis=1)
    rows = np.arange(len(best))
    return Predictions(nearest.classes[rows, best], shares[rows, best])


def gap(predictions: Predictions, wanted: np.ndarray) -> float:
    """Global average precision: over all queries in order of falling confidence, ties in their order.

        GAP = (1 / queries that show an exhibit) · Σ_i rel(i) · (Σ_{j≤i} rel(j)) / i

    >>> gap(Predictions(np.array([5, 6, 7]), np.array([0.9, 0.8, 0.7])), np.array([5, -1, 7])).__round__(4)
    0.8333

    Args:
        wanted: int64 [Q], -1 for a distractor, which is never right.
    """
    order = np.argsort(-predictions.confidences, kind="stable")
    return _gap_of((predictions.classes == wanted)[order], int((wanted >= 0).sum()))


def _gap_of(right: np.ndarray, shown: int) -> float:
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float((precision * right).sum() / shown) if shown else 0.0


def _interval(predictions: Predictions, wanted: np.ndarray) -> tuple[float, float]:
    """95 % interval of GAP: it is no mean over queries, so each draw counts it anew."""
    if not len(wanted):
        return 0.0, 0.0
    order = np.argsort(-predictions.confidences, kind="stable")
    right, shown = (predictions.classes == wanted)[order], (wanted >= 0)[order]
    random = np.random.default_rng(intervals.SEED)
    drawn = []
    for _ in range(intervals.DRAWS):
        rows = np.sort(random.integers(0, len(right), len(right)))
        drawn.append(_gap_of(right[rows], int(shown[rows].sum())))
    low, high = np.quantile(drawn, intervals.SHARES)
    return float(low), float(high)


def whitening(work: Work, part: Part, most: int = WHITENED_DIM) -> Changed:
    """PCA-whitening fitted on a part, in one pass of bounded memory; the result is of unit length.

    Directions without variance are left out: the repository would divide by zero.
    """
    store = work.store(part)
    total, products = np.zeros(store.dim), np.zeros((store.dim, store.dim))
    for _, block in store.blocks():
        exact = block.astype(np.float64)
        total += exact.sum(axis=0)
        products += exact.T @ exact
    mean = total / max(store.count, 1)
    values, directions = np.linalg.eigh(products / max(store.count, 1) - np.outer(mean, mean))
    kept = [at for at in np.argsort(values)[::-1][:most] if values[at] > 1e-10 * max(values[-1], 1e-30)]
    kernel = directions[:, kept] / np.sqrt(values[kept])

    def changed(vectors: np.ndarray) -> np.ndarray:
        return unit_length(((vectors - mean) @ kernel).astype(np.float32))

    return changed


def _retrieved(work: Work, test: Part, train: Part) -> Mode:
    """UnED's measures of the queries that show an exhibit, in the exhibits alone."""
    every, found = work.labels(test), work.labels(train)
    rows, _ = work.neighbours(test, [train], max(NEIGHBOURS))
    n_q = matches(every, found)
    kept = n_q > 0
    asked = Labels(every.first[kept], {})
    values = uned.measures(hits(rows[kept, : uned.K], asked, found), n_q[kept])
    row = results.row(values, len(found), int((~kept).sum()))
    return Mode("UnED's measures", {"queries that show an exhibit": row})
