"""What a training depends on beside its keys: records and weights, known by what they hold, wherever they lie."""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.config import Run
from pipeline.data.records import RecordSet
from pipeline.errors import BadInput

OF_FILES = ("keras_file", "file", "preset", "open_clip")  # what stands before a path


def without_paths(encoder: Any) -> dict[str, Any]:
    """The keys of `encoder`, without where its files lie."""
    found = dataclasses.asdict(encoder)
    return {**found, **{key: found[key].partition(":")[0] for key in _paths(encoder)}}


def of(run: Run, records: RecordSet) -> dict[str, str]:
    """Key of the config → 16 hex digits of what it names."""
    named = {f"encoder.{key}": path for key, path in _paths(run.encoder).items()}
    if run.train.init_from:
        named["train.init_from"] = run.train.init_from
    found = {key: files.identity(path) for key, path in named.items()}
    return {"train.records": (records.whole or records).identity, **found}


def expect_same(run: Run, checkpoint: Path, state: dict, records: RecordSet) -> None:
    """Raises BadInput where a checkpoint was trained on other files than the config names now.

    A file that is gone cannot be compared, and is asked for where it is needed.
    """
    then, now = state.get("inputs", {}), of(run, records)
    for key in now:
        if now[key] and then.get(key, now[key]) not in ("", now[key]):
            raise BadInput(
                f"{checkpoint} was trained on another {key}: what it names has changed since; choose another run_dir, "
                f"or remove {checkpoint.parent} to train anew"
            )


def _paths(encoder: Any) -> dict[str, str]:
    """The keys of `encoder` that name a file or a folder, which may be gone → its path."""
    found = {}
    for key in ("name", "weights"):
        kind, _, path = getattr(encoder, key).partition(":")
        if path and kind in OF_FILES and (kind != "open_clip" or Path(path).suffix):
            found[key] = path
    return found
