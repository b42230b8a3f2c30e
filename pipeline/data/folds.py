"""Folds of the training records: whole classes, a whole source or both, held out and validated on."""

import hashlib
import re
from typing import NamedTuple

import numpy as np

from pipeline.data.records import RecordSet
from pipeline.errors import BadInput

FORM = re.compile(r"classes (\d+)/(\d+)|domain .+")


class Split(NamedTuple):
    """Records without a fold, and the fold's."""

    left: RecordSet
    held: RecordSet
    indexes: tuple[np.ndarray, ...]  # of each part, rows of `held`, int64: an index of its own


def held_out(fold: str, labels: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """bool [N]: which records `train.fold` holds out: all of its `parts`; arguments and errors are theirs."""
    return np.logical_or.reduce(list(parts(fold, labels, domains).values()))


def parts(fold: str, labels: np.ndarray, domains: np.ndarray) -> dict[str, np.ndarray]:
    """What `train.fold` holds out: part → bool [N], no record in two.

    `classes I/N`: the I-th of N parts of each source's classes, in an order that the labels alone decide, so that
    every class is held out in exactly one. A class of several sources is that of `class_sources`. `domain NAME`: all
    of that source. `classes I/N + domain NAME`: both at once, for the price of one training; the source is whole in
    its own part. Each part is an index of its own.

    Args:
        labels: int64 [N]. domains: str [N], each record's source.

    Raises:
        BadInput: another form, a source that the records lack, a fold that holds out nothing or everything.
    """
    asked = terms(fold)
    sources = {part: _of_source(part, domains) for part in asked if part.startswith("domain ")}
    of_sources = np.logical_or.reduce([np.zeros(len(labels), bool), *sources.values()])
    found = {
        part: sources[part] if part in sources else _of_classes(part, labels, domains) & ~of_sources for part in asked
    }
    everything = np.sum(list(found.values()), axis=0)
    if len(found) < len(asked) or everything.max() > 1:
        mend = "name each source once, and one part of the classes"
        raise BadInput(f"train.fold: {fold!r} holds out the same records twice: {mend}")
    if everything.all() or not all(each.any() for each in found.values()):
        what = "everything" if everything.all() else "nothing"
        raise BadInput(f"train.fold: {fold!r} holds out {what} of the training records")
    return found


def terms(fold: str) -> list[str]:
    """The parts that `train.fold` joins; BadInput for another form."""
    asked = [part.strip() for part in fold.split("+")]
    if not all(FORM.fullmatch(part) for part in asked):
        forms = "`classes I/N`, `domain NAME` or both joined by ` + `"
        raise BadInput(f"train.fold: expected {forms}, got {fold!r}")
    for part in asked:
        if part.startswith("classes "):
            number, count = map(int, part.removeprefix("classes ").split("/"))
            if not 1 <= number <= count:
                raise BadInput(f"train.fold: expected `classes I/N` with 1 ≤ I ≤ N, got {part!r}")
    return asked


def _of_source(part: str, domains: np.ndarray) -> np.ndarray:
    name = part.removeprefix("domain ").strip()
    if name not in domains:
        raise BadInput(f"train.fold: expected one of the sources {', '.join(np.unique(domains))}, got {name!r}")
    return domains == name


def _of_classes(part: str, labels: np.ndarray, domains: np.ndarray) -> np.ndarray:
    number, count = map(int, part.removeprefix("classes ").split("/"))
    found = np.zeros(len(labels), bool)
    classes, of_records = np.unique(labels, return_inverse=True)
    sources = class_sources(of_records, np.unique(domains, return_inverse=True)[1])
    for source in np.unique(sources):
        of_source = classes[sources == source].tolist()
        ordered = sorted(of_source, key=lambda label: hashlib.sha256(f"fold {label}".encode()).digest())
        found |= np.isin(labels, ordered[number - 1 :: count])
    return found


def split(fold: str, records: RecordSet) -> Split:
    """Takes `fold` out of the records; raises BadInput as `parts`."""
    found = parts(fold, records.labels, records.domains).values()
    held = np.logical_or.reduce(list(found))
    indexes = tuple(np.flatnonzero(part[held]) for part in found)
    return Split(records.part(np.flatnonzero(~held)), records.part(np.flatnonzero(held)), indexes)


def class_sources(classes: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Each class's source: a class of several (records.merge_classes) is of the one with most of its images.

    >>> class_sources(np.array([0, 0, 0, 1]), np.array([2, 1, 2, 0])).tolist()
    [2, 0]

    Args:
        classes: int [N], each record's, 0 … C−1. sources: int [N], each record's, 0 … S−1.

    Returns:
        int64 [C]; the first of sources with as many.
    """
    counts = np.zeros((classes.max() + 1, sources.max() + 1), np.int64)
    np.add.at(counts, (classes, sources), 1)
    return counts.argmax(axis=1)
