"""Fills encoders and text towers: tensors of any source → the variables of a Keras model.

`sources.read` finds the tensors behind the config's `weights`; `assign` and `assign_text` assign them.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from pipeline.errors import BadInput
from pipeline.models.catalogue import Entry
from pipeline.models.position_embeddings import PositionTable, resize_table
from pipeline.models.weights import open_clip, sources
from pipeline.models.weights.variables import float_variables, without_prefix

OTHER_POOLINGS = ("projection/", "head/")  # in a file, but not in an encoder of another pooling


def assign(model: keras.Model, tensors: Mapping[str, np.ndarray], table: PositionTable | None, what: str) -> None:
    """Fills an encoder's variables; position embeddings are resized to its grid.

    Raises BadInput for tensors that are missing, left over or of another shape; it names them.
    """
    used = [name for name in tensors if not any(part in name for part in OTHER_POOLINGS)]
    _fill(float_variables(model), tensors, used, what, table)


def assign_text(model: keras.Model, tensors: Mapping[str, np.ndarray], what: str) -> None:
    """Like `assign`, for a text tower whose layers may have a prefix in their names."""
    variables = {without_prefix(path): variable for path, variable in float_variables(model).items()}
    _fill(variables, tensors, list(tensors), what)


def convert_text(state: Mapping[str, np.ndarray], model: keras.Model, family: str, text: Mapping[str, Any]) -> None:
    """Fills a text tower, as `text.encoder.build_tower` makes it of the dimensions `text`, from open_clip's state.

    The image tower may be in `state`, too. Raises BadInput as `assign`.
    """
    rules = open_clip.text_rules(family, text, state)
    assign_text(model, open_clip.convert(rules, state, "", "the text tower"), "the text tower")


def load_text(model: keras.Model, entry: Entry, spec: str) -> tuple[float, float | None]:
    """Fills a text tower from the config's `weights`; raises BadInput as `sources.read` and `assign`.

    Returns (scale, bias) of the logits `scale · cosine + bias`; the bias is None for CLIP. Where the source does not
    have them (KerasHub's files), what training starts from.
    """
    names = [without_prefix(path) for path in float_variables(model)]
    found = sources.read(spec, entry, names, tower="text")
    assign_text(model, found.tensors, spec)
    scale, bias = entry.facts.start_logits
    return found.metadata.get("logit_scale", scale), found.metadata.get("logit_bias", bias)


def _fill(
    variables: Mapping[str, keras.Variable],
    tensors: Mapping[str, np.ndarray],
    used: list[str],
    what: str,
    table: PositionTable | None = None,
) -> None:
    """Assigns to every variable the tensor of its name; `used` are the tensors that must have a variable."""
    missing, left_over = sorted(variables.keys() - tensors.keys()), sorted(set(used) - variables.keys())
    if missing or left_over:
        parts = [f"{verb} {', '.join(n[:4])}" for verb, n in (("lacks", missing), ("has", left_over)) if n]
        counts = f"({len(missing)} missing, {len(left_over)} left over); name the encoder that the weights are of"
        raise BadInput(f"{what}: is of another architecture: {'; '.join(parts)} {counts}")
    for name, variable in variables.items():
        value, shape = np.asarray(tensors[name], np.float32), tuple(variable.shape)
        if table and name in table.names and value.shape != shape:
            try:
                flat = value.reshape(-1, value.shape[-1])
                value = resize_table(flat, table.grid, table.prefix_tokens, table.antialias).reshape(shape)
            except ValueError as error:
                raise BadInput(f"{what}: position embeddings: {error}") from None
        if value.shape != shape:
            raise BadInput(f"{what}: {name} has the shape {list(value.shape)}, the model needs {list(shape)}")
        variable.assign(value)
