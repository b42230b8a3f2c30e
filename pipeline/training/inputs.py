"""What a training depends on: its keys; records and weights, known by what they hold, wherever they lie."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import files, marks
from pipeline.config import Run
from pipeline.data.records import RecordSet, open_records
from pipeline.errors import BadInput
from pipeline.marks import Input

OF_FILES = ("keras_file", "file", "preset", "open_clip")  # what stands before a path
FORMAT = 1  # of the training: raise it with any change of what a recipe trains, so that old and new never mix


def recipe(run: Run) -> dict[str, Any]:
    """Every key that decides the weights; not how often is logged or saved, nor where files lie (`of`)."""
    kept = ("phases", "loss", "teachers", "optimizer", "seed", "fold")
    train = {key: value for key, value in dataclasses.asdict(run.train).items() if key in kept}
    train |= {"init_from": bool(run.train.init_from), "validation": bool(run.train.validation)}
    for loss in (train["loss"], *(phase["loss"] for phase in train["phases"] if phase["loss"])):
        loss["sharded"] = False  # checkpoints hold the classes whole
    keys = {"train": train, "encoder": without_paths(run.encoder), "embedder": dataclasses.asdict(run.embedder)}
    found = {key: value for name, section in keys.items() for key, value in marks.flat(section, name).items()}
    return {"the training's format": FORMAT, **found, "devices.precision": run.devices.precision}


def without_paths(encoder: Any) -> dict[str, Any]:
    """The keys of `encoder`, without where its files lie."""
    found = dataclasses.asdict(encoder)
    return {**found, **{key: found[key].partition(":")[0] for key in _paths(encoder)}}


def of_weights(run: Run) -> dict[str, Input]:
    """Key of the config → the files of weights that it names."""
    named = {f"encoder.{key}": path for key, path in _paths(run.encoder).items()}
    if run.train.init_from:
        named["train.init_from"] = run.train.init_from
    return {key: marks.Files.below(Path(path), may_go=True) for key, path in named.items()}


def of(run: Run, records: RecordSet | None = None) -> dict[str, Input]:
    """Key of the config → what it names. `records`: of `train.records`, where they are open already."""
    found = {"train.records": Shards(tuple(run.in_run_dir(run.train.records)), records), **of_weights(run)}
    if not run.train.fold:
        found["train.validation"] = Shards(tuple(run.in_run_dir(run.train.validation)))
    return found


def held(run: Run, records: RecordSet, before: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """What a checkpoint's header holds of `of`, see `marks.known`; of what is gone now, what an earlier one held."""
    found = {key: marks.known(now) for key, now in of(run, records).items()}
    return {key: known if known["content"] else before.get(key, known) for key, known in found.items()}


@dataclass(frozen=True)
class Shards:
    """The records that globs match; "" where there are none."""

    patterns: tuple[str, ...]
    opened: RecordSet | None = None
    may_go: bool = True

    @cached_property
    def _files(self) -> list[Any]:
        return list(dict.fromkeys(path for pattern in self.patterns for path in files.matching(pattern)))

    def quick(self) -> str:
        return marks.Files([(path.name, path) for path in self._files]).quick() if self._files else ""

    def content(self) -> str:
        if not self._files:
            return ""
        records = self.opened or open_records([str(path) for path in self._files])
        return (records.whole or records).identity


def changed(state: dict, run: Run, records: RecordSet | None = None) -> list[str]:
    """Keys of the config that name other files than a checkpoint was trained on.

    A file that is gone cannot be compared, and is asked for where it is needed.
    """
    then = state.get("inputs", {})
    return [
        key
        for key, now in of(run, records).items()
        if (held := then.get(key)) and held["content"] and not marks.same(held, now)
    ]


def expect_same(run: Run, checkpoint: Path, state: dict, records: RecordSet) -> None:
    """Raises BadInput where a checkpoint was trained on other files than the config names now."""
    if names := changed(state, run, records):
        raise BadInput(
            f"{checkpoint} was trained on another {' and another '.join(names)}: what it names has changed since; "
            f"{marks.MEND}"
        )


def _paths(encoder: Any) -> dict[str, str]:
    """The keys of `encoder` that name a file or a folder, which may be gone → its path."""
    found = {}
    for key in ("name", "weights"):
        kind, _, path = getattr(encoder, key).partition(":")
        if path and kind in OF_FILES and (kind != "open_clip" or Path(path).suffix):
            found[key] = path
    return found
