"""STAGE import-weights: an open_clip checkpoint → a local weights file under KerasHub's names.

guie import-weights CHECKPOINT|TAG --encoder NAME --out FILE.safetensors
guie import-weights --parity [NAME …]

A run then names the file: `encoder: {name: NAME, weights: file:FILE.safetensors}`. `--parity` makes random
weights with open_clip, converts them, and prints how far the two implementations differ on the same pixels
and tokens.

The module also fills encoders: `read` finds the tensors behind the config's `weights`, `assign` puts them
    in place.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline import catalogue, conversion, positions, weight_files
from pipeline.towers import PositionTable
from pipeline.weight_sources import Weights, facts, float_variables, from_open_clip, read, without_prefix
from tfrecords.errors import BadInput

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
    rules = conversion.text_rules(family, text, state)
    assign_text(model, conversion.convert(rules, state, "", "the text tower"), "the text tower")


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
        return positions.resize_table(flat, table.grid, table.prefix_tokens, table.antialias)
    except ValueError as error:
        raise BadInput(f"{what}: position embeddings: {error}") from None


@dataclass(frozen=True)
class Config:
    """
    Attributes:
        checkpoint: a file, or an open_clip tag of the encoder.
        encoder: a name of the catalogue.
        out: the file to write.
        parity: names to compare instead; empty together with `checkpoint` empty means the usual four.
    """

    checkpoint: str
    encoder: str
    out: str
    parity: tuple[str, ...]
    compare: bool


def parse(argv: list[str]) -> Config:
    parser = argparse.ArgumentParser(
        prog="guie import-weights",
        description="An open_clip checkpoint → a local weights file (weights: file:FILE).",
    )
    parser.add_argument(
        "checkpoint", nargs="?", default="", help="safetensors or torch file, or a tag of open_clip"
    )
    parser.add_argument("--encoder", default="", help="name in the catalogue, such as clip_vit_h_14")
    parser.add_argument("--out", default="", help="file to write, .safetensors")
    parser.add_argument(
        "--parity",
        nargs="*",
        metavar="NAME",
        help="compare with open_clip on random weights instead; some minutes",
    )
    options = parser.parse_args(argv)
    if options.parity is None:
        if not options.checkpoint or not options.encoder or not options.out:
            parser.error("expected CHECKPOINT --encoder NAME --out FILE, or --parity")
        if Path(options.out).suffix != ".safetensors":
            raise BadInput(f"--out: expected a .safetensors file, got {options.out}")
    return Config(
        options.checkpoint,
        options.encoder,
        options.out,
        tuple(options.parity or ()),
        options.parity is not None,
    )


def main(config: Config) -> None:
    if config.compare:
        from pipeline import parity

        parity.main(config.parity)
        return
    entry = catalogue.find(config.encoder)
    if not entry.text:
        raise BadInput(
            f"--encoder: expected a CLIP or SigLIP of the catalogue, {config.encoder} is {entry.family}'s"
        )
    print(f"import-weights: reads {config.checkpoint} as {config.encoder}; writes {config.out}", flush=True)
    image = from_open_clip(config.checkpoint, entry, "image")
    text = from_open_clip(config.checkpoint, entry, "text")
    about = {
        "encoder": config.encoder,
        "activation": entry.architecture["activation"],
        "num_heads": entry.architecture["num_heads"],
        "mean": list(entry.mean),
        "std": list(entry.std),
        **image.facts,
    }
    tensors = {f"image/{name}": value for name, value in image.tensors.items()}
    tensors |= {f"text/{name}": value for name, value in text.tensors.items()}
    weight_files.write(Path(config.out), tensors, about)
    numbers = sum(value.size for value in tensors.values())
    print(f"import-weights: {config.out}: {len(tensors)} tensors, {numbers / 1e6:.1f} million numbers")
