"""Fills encoders and text towers: tensors of any source → the variables of a Keras model.

`sources.read` finds the tensors behind the config's `weights`; `assign` puts them in place.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from pipeline.errors import BadInput
from pipeline.models import catalogue, position_embeddings
from pipeline.models.towers import PositionTable
from pipeline.models.weights import open_clip
from pipeline.models.weights.sources import (
    Weights,
    facts,
    float_variables,
    read,
    without_prefix,
)

__all__ = ["Weights", "assign", "convert_text", "facts", "float_variables", "load_text", "read"]

START_LOGITS = {"clip": (1 / 0.07, None), "siglip": (10.0, -10.0)}
WITHOUT = ("projection/", "head/")  # an encoder of another pooling leaves them out of a file that has them


def assign(
    model: keras.Model, tensors: Mapping[str, np.ndarray], table: PositionTable | None, what: str
) -> None:
    """Fills all of the model's variables; positions are brought to its grid.

    Raises:
        BadInput: tensors that are missing, left over or of another shape; it names them.
    """
    variables = float_variables(model)
    missing = sorted(variables.keys() - tensors.keys())
    left_over = sorted(
        name for name in tensors if name not in variables and not any(part in name for part in WITHOUT)
    )
    if missing or left_over:
        parts = [f"{verb} {', '.join(n[:4])}" for verb, n in (("lacks", missing), ("has", left_over)) if n]
        raise BadInput(
            f"{what}: is of another architecture: {'; '.join(parts)} ({len(missing)} missing, "
            f"{len(left_over)} left "
            "over); name the encoder that the weights are of"
        )
    for name, variable in variables.items():
        value, shape = np.asarray(tensors[name], np.float32), tuple(variable.shape)
        if table and name in table.names and value.shape != shape:
            value = _on_grid(value, table, what).reshape(shape)
        if value.shape != shape:
            raise BadInput(
                f"{what}: {name} has the shape {list(value.shape)}, the encoder needs {list(shape)}"
            )
        variable.assign(value)


def convert_text(
    state: Mapping[str, np.ndarray], model: keras.Model, family: str, text: Mapping[str, Any]
) -> None:
    """Fills KerasHub's text tower from open_clip's state.

    Args:
        state: open_clip's name → array; the image tower may be among them.
        model: ends in KerasHub's text encoder and, for CLIP, a dense layer `text_projection`.
        family: clip | siglip.
        text: the dimensions of `catalogue.Entry.text`.

    Raises:
        BadInput: tensors that are missing, left over or of another shape.
    """
    rules = open_clip.text_rules(family, text, state)
    assign_text(model, open_clip.convert(rules, state, "", "the text tower"), "the text tower")


def assign_text(model: keras.Model, tensors: Mapping[str, np.ndarray], what: str) -> None:
    """Like `assign`, for a text tower whose layers may have a prefix in their names."""
    variables = {without_prefix(path): variable for path, variable in float_variables(model).items()}
    missing = sorted(variables.keys() - tensors.keys())
    left_over = sorted(tensors.keys() - variables.keys())
    if missing or left_over:
        raise BadInput(f"{what}: lacks {missing[:4]}, has besides {left_over[:4]}: another architecture")
    for name, variable in variables.items():
        value = np.asarray(tensors[name], np.float32)
        if value.shape != tuple(variable.shape):
            raise BadInput(
                f"{what}: {name} has the shape {list(value.shape)}, the text tower needs "
                f"{list(variable.shape)}"
            )
        variable.assign(value)


def load_text(model: keras.Model, entry: catalogue.Entry, spec: str) -> tuple[float, float | None]:
    """Fills a text tower from the config's `weights`.

    Returns:
        (scale, bias) of the logits `scale · cosine + bias`; the bias is None for CLIP. Where the source
        does not have them (KerasHub's files), what training starts from.

    Raises:
        BadInput: as `read` and `assign_text`; a file without a text tower.
    """
    names = [without_prefix(path) for path in float_variables(model)]
    found = read(spec, entry, names, tower="text")
    assign_text(model, found.tensors, spec)
    scale, bias = START_LOGITS[entry.family]
    return found.facts.get("logit_scale", scale), found.facts.get("logit_bias", bias)


def _on_grid(value: np.ndarray, table: PositionTable, what: str) -> np.ndarray:
    try:
        flat = value.reshape(-1, value.shape[-1])
        return position_embeddings.resize_table(flat, table.grid, table.prefix_tokens, table.antialias)
    except ValueError as error:
        raise BadInput(f"{what}: position embeddings: {error}") from None
