"""The precision of every query, by group of domains and by row of the table: what the scores are computed from.

A group is a domain (searched in its own index), the unseen classes of the domains that were trained on, or the whole
(both searched in a merged index). No TensorFlow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import atomic_path
from pipeline.retrieval import intervals

FORMAT = 2  # of metrics.json: scores of an earlier one are computed again
EMBEDDER = "embedder"  # the row that is scored; the others are references
UNSEEN, WHOLE = "unseen", "whole"
CLASSES = ("classes", "index_classes")
Classes = dict[str, tuple[int, int]]  # group → classes of its queries and of its index
# group → row → float64, [Q] of one run or [S, Q] of S seeds
Precisions = dict[str, dict[str, np.ndarray]]


def of_domain(name: str) -> str:
    """The group of one domain; no domain's name can be taken for `unseen` or `whole`."""
    return f"domain {name}"


def scores(
    precisions: Precisions, index_sizes: dict[str, int], left_out: Sequence[str], classes: Classes
) -> dict[str, Any]:
    """What metrics.json says of the scores.

    Args:
        precisions: of each domain, of the whole and, where some of the domains are left out, of the unseen classes.
        index_sizes: domain → images of its index.
        left_out: domains that were left out of training whole.
        classes: of each group.

    Returns:
        {"mP@5", "interval", "references", "differences", "classes" of the queries, "index_classes"} of the whole;
        "domains": the same of each, with "queries", "index" and "left_out"; "unseen": the same of the trained domains,
        where domains are left out.
    """

    def group(name: str, domains: list[str]) -> dict[str, Any]:
        queries = precisions[name][EMBEDDER].shape[-1]
        return {**of(name), "queries": queries, "index": sum(index_sizes[each] for each in domains)}

    def of(name: str) -> dict[str, Any]:
        return {**_of_rows(precisions[name]), **dict(zip(CLASSES, classes[name], strict=True))}

    found = of(WHOLE)
    if UNSEEN in precisions:
        found["unseen"] = group(UNSEEN, [name for name in index_sizes if name not in left_out])
    found["domains"] = {name: {**group(of_domain(name), [name]), "left_out": name in left_out} for name in index_sizes}
    return found


def classes_of(result: dict[str, Any]) -> Classes:
    """The classes of each group, from what `scores` returned."""
    groups = {WHOLE: result, **{of_domain(name): each for name, each in result["domains"].items()}}
    groups |= {UNSEEN: result["unseen"]} if "unseen" in result else {}
    return {name: (each[CLASSES[0]], each[CLASSES[1]]) for name, each in groups.items()}


def stack(runs: Sequence[Precisions]) -> Precisions:
    """The precisions [Q] of S runs on the same queries → [S, Q]."""
    return {
        group: {row: np.stack([run[group][row] for run in runs]) for row in rows} for group, rows in runs[0].items()
    }


def save(path: Path, precisions: Precisions) -> None:
    """Writes an .npz of arrays `row/group`, whole or not at all."""
    arrays = {f"{row}/{group}": values for group, rows in precisions.items() for row, values in rows.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes names for its options


def read(path: Path) -> Precisions:
    found: Precisions = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            row, group = name.split("/", 1)
            found.setdefault(group, {})[row] = arrays[name]
    return found


def _of_rows(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    embedder = np.atleast_2d(rows[EMBEDDER])
    references = {row: np.atleast_2d(values) for row, values in rows.items() if row != EMBEDDER}
    return {
        "mP@5": _mean(embedder),
        "interval": list(intervals.over_seeds(embedder)),
        "references": {row: _mean(values) for row, values in references.items()},
        "differences": {
            row: {"mean": _mean(embedder) - _mean(values), "interval": list(intervals.paired(embedder, values))}
            for row, values in references.items()
        },
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
