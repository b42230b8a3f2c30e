"""Runs that stand elsewhere: in a folder that was moved, below another run's, or published."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.loading import load
from pipeline.config.schema import Run
from pipeline.errors import BadInput
from pipeline.guards.masked import Masked


def moved_to(folder: Path) -> str:
    """The override by which a run folder's config.yaml is of that folder, wherever it stands today."""
    return f"run_dir={json.dumps(str(folder))}"


def load_from(folder: Path) -> Run:
    """The run of a run folder, as it was run. Raises BadInput as `load`."""
    return load(Run, folder / "config.yaml", [moved_to(folder)])


def below(run: Run, folder: str) -> Run:
    """The run in `folder` of its own run folder, on the same records and features.

    Paths lead out of that folder by `..`, so that the recipe stays the same where the run folder is moved.
    """
    up = "/..".join(["{run_dir}", *[""] * len(Path(folder).parts)])

    def shared(patterns: list[str]) -> list[str]:
        return [pattern.replace("{run_dir}", up) for pattern in patterns]

    train = replace(
        run.train,
        records=shared(run.train.records),
        validation=shared(run.train.validation),
        features_dir=shared([run.train.features_dir])[0],
    )
    score = replace(run.score, index=shared(run.score.index), queries=shared(run.score.queries))
    return replace(run, run_dir=run.run_dir + f"/{folder}", seeds=[], train=train, score=score)


def seeds_of(run: Run) -> list[Run]:
    """The run of each seed, in a folder of its own; without seeds the run. BadInput for a seed that stands twice."""
    if len(set(run.seeds)) < len(run.seeds):
        raise BadInput(f"seeds: expected each once, got {run.seeds}")
    return [_of_seed(run, seed) for seed in run.seeds] or [run]


def _of_seed(run: Run, seed: int) -> Run:
    """On the records and features of the whole."""
    placed = below(run, f"seed-{seed}")
    return replace(placed, name=run.name + f", seed {seed}", train=replace(placed.train, seed=seed))


def published(run: Run) -> Run:
    """The run without this machine's folders: of an absolute path its last name stays, as of `keras_file:` and others.

    Paths below /kaggle/ are of the machine that it is published to.
    """
    return _without_folders(replace(run, run_dir="", data_root=""))


def _without_folders(value: Any) -> Any:
    if is_dataclass(value):
        return replace(value, **{each.name: _without_folders(getattr(value, each.name)) for each in fields(value)})  # type: ignore[type-var]
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if isinstance(value, Masked):
        return Masked(_last_name(value), _last_name(value.shown))
    return _last_name(value) if isinstance(value, str) else value


def _last_name(path: str) -> str:
    """
    >>> [_last_name(path) for path in ("keras_file:/home/me/m.keras", "/kaggle/input/a", "/home/${oc.env:USER,/x}/")]
    ['keras_file:m.keras', '/kaggle/input/a', '${oc.env:USER,/x}']
    """
    return re.sub(r"^(\w+:)?/(?!/|kaggle/).*?((?:\$\{[^}]*\}|[^/])+)/*$", r"\1\2", path)
