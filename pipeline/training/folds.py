"""Folds of the training records: whole classes, or a whole source, held out and validated on."""

import hashlib
import re

import numpy as np

from pipeline.data.records import RecordSet
from pipeline.errors import BadInput


def held_out(fold: str, labels: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """bool [N]: which records `train.fold` holds out.

    `classes I/N`: the I-th of N parts of each source's classes, in an order that the labels alone decide, so that
    every class is held out in exactly one. A class of several sources is that of `class_sources`. `domain NAME`: all
    of that source.

    Args:
        labels: int64 [N]. domains: str [N], each record's source.

    Raises:
        BadInput: another form, a source that the records lack, a fold that holds out nothing or everything.
    """
    if part := re.fullmatch(r"classes (\d+)/(\d+)", fold):
        number, count = int(part[1]), int(part[2])
        if not 1 <= number <= count:
            raise BadInput(f"train.fold: expected `classes I/N` with 1 ≤ I ≤ N, got {fold!r}")
        found = np.zeros(len(labels), bool)
        classes, of_records = np.unique(labels, return_inverse=True)
        sources = class_sources(of_records, np.unique(domains, return_inverse=True)[1])
        for source in np.unique(sources):
            of_source = classes[sources == source].tolist()
            ordered = sorted(of_source, key=lambda label: hashlib.sha256(f"fold {label}".encode()).digest())
            found |= np.isin(labels, ordered[number - 1 :: count])
    elif fold.startswith("domain "):
        name = fold.removeprefix("domain ").strip()
        if name not in domains:
            raise BadInput(f"train.fold: expected one of the sources {', '.join(np.unique(domains))}, got {name!r}")
        found = domains == name
    else:
        raise BadInput(f"train.fold: expected `classes I/N` or `domain NAME`, got {fold!r}")
    if found.all() or not found.any():
        what = "nothing" if not found.any() else "everything"
        raise BadInput(f"train.fold: {fold!r} holds out {what} of the training records")
    return found


def split(fold: str, records: RecordSet) -> tuple[RecordSet, RecordSet]:
    """(what is trained on, what `fold` holds out); raises BadInput as `held_out`."""
    held = held_out(fold, records.labels, records.domains)
    return records.part(np.flatnonzero(~held)), records.part(np.flatnonzero(held))


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
