"""Encoders by name: images → features, with their weights and preprocessing.

`build` takes the config's `encoder:` section. Names are those of `pipeline/models/catalogue.py`, KerasHub's
preset names, or `keras_file:PATH` for any Keras model from images to features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from pipeline import config
from pipeline.data.preprocessing import Preprocess
from pipeline.errors import BadInput, reason
from pipeline.models import backbones, catalogue, vit
from pipeline.models.position_embeddings import PositionTable
from pipeline.models.vit import step_seed
from pipeline.models.weights import load, sources
from pipeline.models.weights.variables import float_variables

__all__ = ["ImageEncoder", "build", "step_seed", "transfer"]

KERAS_FILE = "keras_file:"


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder ready to run."""

    name: str  # as the config names it
    model: keras.Model  # float32 [B, S, S, 3], prepared by `preprocess` → float32 [B, width]
    preprocess: Preprocess
    width: int  # of the features
    # Layers for `last N blocks` and layer decay: the stem's, then each block's; what follows the last block (norm,
    # projection) belongs to it. Empty where the blocks are unknown.
    blocks: list[list[keras.layers.Layer]] = field(default_factory=list)
    taps: dict[str, str] = field(default_factory=dict)  # `block_1` … → the layer whose output [B, T, D] it is
    positions: PositionTable | None = None  # None where there are no position embeddings


def build(encoder: config.Encoder, seed: int = 0, fill: bool = True, train_batch_norm: bool = False) -> ImageEncoder:
    """Builds the encoder that the config names and fills in its weights; random ones depend on `seed` alone.

    Args:
        fill: False leaves the weights random, for a checkpoint that is restored next.
        train_batch_norm: False keeps the statistics of batch normalisation in training too. With a batch's statistics,
            replicas, pieces of a batch and frozen blocks would each train another model.

    Raises:
        BadInput: an unknown name, dimension, pooling or weights; sizes that do not fit; an unusable file.
    """
    from_file = encoder.name.startswith(KERAS_FILE)
    built = _from_keras_file(encoder) if from_file else _catalogued(encoder, seed, fill)
    for layer in built.model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = train_batch_norm
    return built


def _catalogued(encoder: config.Encoder, seed: int, fill: bool) -> ImageEncoder:
    entry = catalogue.find(encoder.name, encoder.architecture)
    family = entry.facts
    size = encoder.image_size_px or entry.image_size_px
    pooling = encoder.pooling or entry.pooling
    if pooling not in family.poolings:
        known = ", ".join(family.poolings)
        raise BadInput(f"encoder.pooling: {entry.family} has {known}; got {pooling!r}")
    _check(entry, encoder, size)
    with backbones.seeded(seed):
        if family.transformer:
            options = encoder.patch_overlap_px, encoder.stochastic_depth, encoder.checkpointing
            network = vit.transformer(entry, size, pooling, *options)
        else:
            network = backbones.convolutional(entry, size)
    metadata: dict[str, Any] = {}
    if encoder.weights != "none" and fill:
        found = sources.read(encoder.weights, entry, network.hub_names)
        load.assign(network.model, found.tensors, network.positions, encoder.weights)
        metadata = found.metadata
    elif encoder.weights != "none":
        metadata = sources.read_metadata(encoder.weights, entry)
    mean = _three(encoder.mean or metadata.get("mean") or family.mean, "mean")
    std = _three(encoder.std or metadata.get("std") or family.std, "std")
    preprocess, width = Preprocess(size, mean, std, family.resize), int(network.model.output_shape[-1])
    inside = network.blocks, network.taps, network.positions
    return ImageEncoder(encoder.name, network.model, preprocess, width, *inside)


def transfer(source: ImageEncoder, target: ImageEncoder) -> None:
    """Copies all weights to an encoder of the same name at another size, overlap or training option.

    Raises BadInput for another architecture or pooling; it names the tensors.
    """
    if target.positions is None and target.name.startswith(KERAS_FILE):
        target.model.set_weights(source.model.get_weights())  # names in a Keras file need not be unique
        return
    tensors = {name: variable.numpy() for name, variable in float_variables(source.model).items()}
    load.assign(target.model, tensors, target.positions, source.name)


def _check(entry: catalogue.Entry, encoder: config.Encoder, size: int) -> None:
    """Raises BadInput where the config's options do not fit the architecture."""
    if not entry.facts.transformer:
        for key in ("patch_overlap_px", "stochastic_depth", "checkpointing"):
            if getattr(encoder, key):
                raise BadInput(f"encoder.{key}: {entry.family} is no transformer; leave it out")
        return
    patch, width, heads = (entry.architecture[key] for key in ("patch_size", "hidden_dim", "num_heads"))
    overlap = encoder.patch_overlap_px
    if width % heads:
        raise BadInput(f"encoder.architecture: hidden_dim {width} is not a multiple of num_heads {heads}")
    if size < patch:
        raise BadInput(f"encoder.image_size_px: expected at least one patch of {patch} px, got {size}")
    if not 0 <= overlap < patch:
        raise BadInput(f"encoder.patch_overlap_px: expected 0 … {patch - 1} with patches of {patch} px, got {overlap}")


def _from_keras_file(encoder: config.Encoder) -> ImageEncoder:
    path = Path(encoder.name.removeprefix(KERAS_FILE))
    if not path.is_file():
        raise BadInput(f"encoder.name: expected a Keras model file, {path} does not exist")
    if encoder.mean is None or encoder.std is None:
        raise BadInput(
            "encoder.mean and encoder.std: a Keras file does not say how it wants its pixels; give both, of "
            "RGB in [0, 1], such as mean=[0.5,0.5,0.5] std=[0.5,0.5,0.5] for pixels in -1 … 1"
        )
    if encoder.architecture or encoder.patch_overlap_px or encoder.stochastic_depth or encoder.checkpointing:
        options = "architecture, patch_overlap_px, stochastic_depth and checkpointing"
        raise BadInput(f"encoder: {options} need an encoder of the catalogue; a Keras file is used as it is")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the broken part raises
        raise BadInput(f"encoder.name: {path} is not a Keras model that loads safely: {reason(error)}") from None
    if not isinstance(model, keras.Model) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(f"encoder.name: expected a Keras model with one input and one output in {path}")
    given, features = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(given) != 4 or given[-1] != 3:
        raise BadInput(f"encoder.name: expected images [B, S, S, 3] as input of {path}, got {list(given)}")
    if len(features) != 2 or features[-1] is None:
        came = f"{list(features)}: end it with a pooling"
        raise BadInput(f"encoder.name: expected features [B, width] from {path}, got {came}")
    size = encoder.image_size_px or given[1]
    if size is None:
        raise BadInput(f"encoder.image_size_px: {path} takes any size; say which")
    if given[1] not in (None, size) or given[2] not in (None, size):
        raise BadInput(f"encoder.image_size_px: {path} takes {given[1]} × {given[2]} px, the config says {size}")
    if model.outputs[0].dtype != "float32":
        features_layer = keras.layers.Activation("linear", dtype="float32", name="float32_features")
        model = keras.Model(model.inputs, features_layer(model.outputs[0]))
    preprocess = Preprocess(size, _three(encoder.mean, "mean"), _three(encoder.std, "std"))
    return ImageEncoder(encoder.name, model, preprocess, int(features[-1]))


def _three(values: Sequence[float], key: str) -> tuple[float, float, float]:
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        above = " above 0" if key == "std" else ""
        raise BadInput(f"encoder.{key}: expected three numbers{above}, got {list(values)}")
    return (float(values[0]), float(values[1]), float(values[2]))
