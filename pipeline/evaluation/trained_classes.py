"""How many of the classes that a run is scored on it was trained on. No TensorFlow."""

from collections.abc import Sequence

from pipeline.config import Run
from pipeline.data import folds
from pipeline.data.records import RecordSet, open_records
from pipeline.errors import BadInput
from pipeline.files import matching
from pipeline.reading import File


def count(run: Run) -> int | None:
    """Classes of both `train.records` and `score.index`; None where the records do not tell.

    Labels of two folders need not be of the same classes, folders of images have none, and what the run of
    `train.init_from` was trained on is not known.
    """
    if run.train.init_from:
        return None
    trained, scored = (run.in_run_dir(patterns) for patterns in (run.train.records, run.score.index))
    try:
        if not (trained and scored) or len({*_folders(trained), *_folders(scored)}) != 1:
            return None
        records = open_records(trained)
        if run.train.fold:
            records = folds.split(run.train.fold, records).left
        return len(_labels(records) & _labels(open_records(scored)))
    except (BadInput, ValueError):  # gone since, or no shards
        return None


def _folders(patterns: Sequence[str]) -> set[File]:
    return {path.parent.resolve() for pattern in patterns for path in matching(pattern)}


def _labels(records: RecordSet) -> set[int]:
    return set(records.labels.tolist())
