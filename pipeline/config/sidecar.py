"""The pixels of a Keras file, told by a JSON file beside it: `mobilenet.keras` → `mobilenet.json`.

    {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "image_size_px": 224}

mean and std are of RGB in [0, 1], as the keys of `encoder`; image_size_px may be left out.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import Encoder
from pipeline.errors import BadInput

KERAS_FILE = "keras_file:"  # before the path of a Keras model, in place of a name of the catalogue
KEYS = ("mean", "std", "image_size_px")


def completed(encoder: Encoder) -> Encoder:
    """The encoder with what the file beside its Keras file says of keys that the config leaves out."""
    if not encoder.name.startswith(KERAS_FILE) or not [key for key in KEYS if getattr(encoder, key) is None]:
        return encoder
    told = read(Path(encoder.name.removeprefix(KERAS_FILE)))
    return replace(encoder, **{key: value for key, value in told.items() if getattr(encoder, key) is None})


def read(keras_file: Path) -> dict[str, Any]:
    """The keys that stand beside a Keras file; empty where nothing does.

    Raises BadInput: a file that is no JSON, or holds another key or something else than numbers.
    """
    path = keras_file.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected JSON of mean and std, it is not readable ({error})") from None
    if not isinstance(told, dict) or not set(told) <= set(KEYS):
        raise BadInput(f"{path}: expected a mapping of {', '.join(KEYS)}, got {str(told)[:80]}")
    for key in ("mean", "std"):
        if key in told and not _three(told[key], above=0 if key == "std" else None):
            raise BadInput(f"{path}: {key}: expected three numbers{' above 0' * (key == 'std')}, got {told[key]!r}")
    size = told.get("image_size_px")
    if size is not None and (type(size) is not int or size < 1):
        raise BadInput(f"{path}: image_size_px: expected a whole number of px, got {size!r}")
    return told


def _three(values: Any, above: float | None) -> bool:
    if not isinstance(values, list) or len(values) != 3:
        return False
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return numbers and (above is None or min(values) > above)
