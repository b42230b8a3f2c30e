"""What is trained and validated on: records, classes, and the distributed stream of batches."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.config import Run
from pipeline.data import folds
from pipeline.data.batches import RecordSet, train_batches
from pipeline.data.records import open_any
from pipeline.errors import BadInput
from pipeline.retrieval import intervals
from pipeline.training import checkpoints
from pipeline.training.devices import Found
from pipeline.training.distillation import source_shares
from pipeline.training.feature_cache import FeatureCache, feature_batches
from pipeline.training.phases import Classes, Phase, State


@dataclass(frozen=True)
class Data:
    """What is trained and validated on."""

    records: RecordSet
    classes: Classes
    validation: RecordSet | None
    seen_before: bool = False  # whether train.init_from may have been trained on the classes that are validated on
    indexes: tuple[np.ndarray, ...] = ()  # rows of `validation`, each an index of its own; empty: all are one

    @cached_property
    def validated(self) -> tuple[int, int]:
        """Classes that are validated on, and how many of them are trained on, too."""
        found = np.unique(self.validation.labels if self.validation else np.zeros(0, np.int64))
        return len(found), int(np.isin(found, self.classes.labels).sum())

    def validation_row(self, precisions: np.ndarray) -> dict[str, float]:
        """Of metrics.jsonl; `precisions`: float [Q] of the validation records."""
        low, high = intervals.interval(precisions)
        classes, trained = self.validated
        found = {"mP@5": float(precisions.mean()), "mP@5_low": low, "mP@5_high": high}
        found |= {"classes": classes, "classes_trained_on": trained}
        return {f"validation/{name}": value for name, value in found.items()}

    def said(self, precisions: np.ndarray) -> str:
        """The same, for a line."""
        classes, trained = self.validated
        unseen = "classes that train.init_from may know" if self.seen_before else "unseen classes"
        where = f"{trained:,} of {classes:,} classes trained on" if trained else unseen
        mean = intervals.text(precisions.mean(), intervals.interval(precisions), ".3f")
        caveat = intervals.caveat(classes, len(precisions), alone=True)
        return f"mP@5 on {where} {mean}" + (f" ({caveat})" if caveat else "")


def open_data(run: Run, records: RecordSet) -> Data:
    """Opens the records of validation, and says what both hold; BadInput for a shard of both."""
    validation: RecordSet | None
    indexes: tuple[np.ndarray, ...] = ()
    if run.train.fold:
        records, validation, indexes = folds.split(run.train.fold, records)
    else:
        validation = open_any(run.in_run_dir(run.train.validation))
    classes = Classes.of(records)
    said = "no validation"
    if validation is not None:
        trained = set() if run.train.fold else {path.resolve() for path in records.shards}
        if shared := sorted({path.resolve() for path in validation.shards} & trained, key=str):
            what = f"{shared[0].name} is among train.records, too ({len(shared)} shard(s))"
            raise BadInput(f"train.validation: {what}: validation must be of classes that are never trained on")
    data = Data(records, classes, validation, bool(run.train.init_from), indexes)
    if validation is not None:
        held, known = data.validated
        never = "classes that train.init_from may know" if data.seen_before else "classes never trained on"
        what = f"classes, {known:,} of them trained on" if known else never
        said = f"validation {len(validation):,} images of {held:,} {what}"
    count = len(classes.labels)
    print(f"train: {len(records):,} images of {count:,} classes; {said} → {checkpoints.folder_of(run.run_dir)}")
    return data


def batches(
    run: Run, found: Found, data: Data, phase: Phase, state: State, features: FeatureCache | None,
    teacher: np.ndarray | None, step: int,
) -> Any:  # fmt: skip
    """The distributed stream from global batch `step` on, without end; by losses, up to where shares are set anew.

    Each replica gets {"images": [b, S, S, 3] in 0…255, or "features": float32 [b, width]} and "labels": int32 [b];
    with `teacher`, float32 [N, width] of every record, also "teacher": float32 [b, width].
    """
    size, seed, labels = phase.options.batch_size, run.train.seed + phase.number, data.classes.labels
    order = phase.order
    if state.teachers and source_shares.by_losses(phase.options.sampling):
        order = source_shares.order_from(order, state.teachers, phase.options.sampling, step)
    # Not in `of_host`, which is called in the scope of the host's processor: the encoder would run there.
    rows = features.of(data.records, "train") if features else None

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # One pipeline a host, also where one process feeds all hosts of a TPU pod.
        host = (context.input_pipeline_id, context.num_input_pipelines)
        if rows is not None:
            dataset = feature_batches(rows, data.classes.of_records, order, size, step, host)
        else:
            # Label in the records → trained class.
            to_class = np.full(int(labels.max()) + 1, -1, np.int64)
            to_class[labels] = np.arange(len(labels))
            dataset = train_batches(
                *(data.records, order, state.embedder.preprocess, phase.options.augment, size, seed, step, host),
                label_map=to_class,
                teacher=teacher,
            )
        each = size // found.strategy.num_replicas_in_sync
        return dataset.rebatch(each, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    return found.strategy.distribute_datasets_from_function(of_host)
