"""Image towers as flat Keras models: images → pooled features, with what KerasHub's lack.

KerasHub builds the layers; here they are wired anew, which allows overlapping patches, stochastic depth,
recomputed activations and a choice of pooling. Variables keep their names whatever is switched on, so
weights move between all variants.
"""

import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from pipeline.models import position_embeddings
from pipeline.models.backbones import convolutional, transformer
from pipeline.models.catalogue import Entry
from pipeline.models.vit import Residual, Stem


@dataclass(frozen=True)
class PositionTable:
    """
    Attributes:
        names: paths of the variables that hold it.
        prefix_tokens: its rows before the grid's.
        grid: patches along one side.
        antialias: how it is brought to another grid, see `positions.resize_table`.
    """

    names: tuple[str, ...]
    prefix_tokens: int
    grid: int
    antialias: bool


@dataclass(frozen=True)
class Tower:
    """A wired image tower.

    Attributes:
        model: float32 [B, S, S, 3] → float32 [B, width].
        blocks: the stem's layers, then each transformer block's; the layers after the last block belong to
            it.
        taps: `block_1` … → name of the layer whose output it is.
        hub_names: KerasHub's variables by path, in the order of `hub_parts.Parts.variables`.
        positions: None for convolutional networks.
    """

    model: keras.Model
    blocks: list[list[keras.layers.Layer]]
    taps: dict[str, str]
    hub_names: list[str]
    positions: PositionTable | None = None


def build_transformer(
    entry: Entry,
    image_size_px: int,
    pooling: str,
    overlap_px: int = 0,
    stochastic_depth: float = 0.0,
    recompute: bool = False,
) -> Tower:
    """Wires a tower of random weights; `stochastic_depth` is the last block's rate, the first's is 0."""
    patch = entry.architecture["patch_size"]
    grid = position_embeddings.grid_side(image_size_px, patch, overlap_px)
    parts = transformer(entry, grid * patch)  # the size whose plain grid has as many patches
    images = keras.Input((image_size_px, image_size_px, 3), dtype="float32", name="images")
    stem = Stem(parts, patch - overlap_px, grid)
    x = stem(images)
    for layer in parts.before:
        x = layer(x)
    blocks: list[list[keras.layers.Layer]] = [[stem, *parts.before]]
    taps = {}
    rates = (
        np.linspace(0.0, stochastic_depth, len(parts.blocks))
        if stochastic_depth
        else [0.0] * len(parts.blocks)
    )
    for index, (block, rate) in enumerate(zip(parts.blocks, rates, strict=True)):
        block = Residual(block, index, float(rate), recompute)
        x = block(x)
        blocks.append([block])
        taps[f"block_{index + 1}"] = block.name
    skip = parts.prefix_tokens + parts.extra_tokens
    last = [parts.norm]
    if pooling in ("class_token", "projection"):
        x = parts.norm(x[:, 0])
        if pooling == "projection":
            last.append(
                keras.layers.Dense(entry.architecture["projection_dim"], use_bias=False, name="projection")
            )
            x = last[-1](x)
    elif pooling == "attention" and parts.head is not None:
        last.append(parts.head)
        x = parts.head(parts.norm(x))
    else:
        x = keras.ops.mean(keras.ops.cast(parts.norm(x)[:, skip:], "float32"), axis=1)
    blocks[-1].extend(last)
    table = parts.position_table
    names = tuple(
        variable.path for variable in parts.embedding.variables if tuple(variable.shape) == tuple(table.shape)
    )
    return Tower(
        model=keras.Model(images, _as_float32(x), name=entry.family),
        blocks=blocks,
        taps=taps,
        hub_names=[variable.path for variable in parts.variables],
        positions=PositionTable(names, parts.prefix_tokens, grid, parts.antialias),
    )


def build_convolutional(entry: Entry, image_size_px: int) -> Tower:
    """A convolutional network of random weights, its last map averaged.

    Its blocks are KerasHub's (`block1a_` … or `block_1_0` …); each one's output is a tap.
    """
    backbone = convolutional(entry, image_size_px)
    x = keras.ops.mean(keras.ops.cast(backbone.output, "float32"), axis=(1, 2))
    groups: dict[str, list[keras.layers.Layer]] = {"stem": []}
    for layer in backbone.layers:
        found = re.match(r"block\d+[a-z]|block_\d+(_\d+)?", layer.name)
        name = found[0] if found else next(reversed(groups))  # what follows a block belongs to it
        groups.setdefault(name, []).append(layer)
    return Tower(
        model=keras.Model(backbone.inputs[0], _as_float32(x), name=entry.family),
        blocks=list(groups.values()),
        taps={f"block_{i}": layers[-1].name for i, layers in enumerate(list(groups.values())[1:], 1)},
        hub_names=[variable.path for variable in backbone.variables],
    )


def _as_float32(x: Any) -> Any:
    return keras.layers.Activation("linear", dtype="float32", name="features")(x)
