"""Encoders by name: images → features, with their weights and preprocessing.

`build` takes the config's `encoder:` section. Names are those of `pipeline/models/catalogue.py`, KerasHub's
preset names, or `keras_file:PATH` for any Keras model from images to features.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import keras

from pipeline import config
from pipeline.data.preprocessing import Preprocess
from pipeline.errors import BadInput, reason
from pipeline.models import backbones, catalogue, keras_files, vit
from pipeline.models.catalogue import KERAS_FILE
from pipeline.models.position_embeddings import PositionTable
from pipeline.models.vit import step_seed
from pipeline.models.weights import load, sources
from pipeline.models.weights.variables import float_variables

__all__ = ["KERAS_FILE", "ImageEncoder", "build", "step_seed", "transfer"]


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder ready to run."""

    name: str  # as the config names it
    model: keras.Model  # float32 [B, S, S, 3] (`fit: aspect`: any size), prepared by `preprocess` → float32 [B, width]
    preprocess: Preprocess
    width: int  # of the features
    # Layers for `last N blocks` and layer decay: the stem's, then each block's; what follows the last block (norm,
    # projection) belongs to it. Of a Keras file by depth, see `keras_files.blocks_by_depth`.
    blocks: list[list[keras.layers.Layer]] = field(default_factory=list)
    taps: dict[str, str] = field(default_factory=dict)  # `block_1` … → the layer whose output [B, T, D] it is
    positions: PositionTable | None = None  # None where there are no position embeddings


def build(encoder: config.Encoder, seed: int = 0, fill: bool = True, train_batch_norm: bool = False) -> ImageEncoder:
    """Builds the encoder that the config names and fills in its weights; random ones depend on `seed` alone.

    Args:
        fill: False leaves the weights random, for a checkpoint that is restored next.
        train_batch_norm: False keeps the statistics of batch normalisation in training too, and folds it into the
            kernels of a Keras file. With a batch's statistics, replicas, pieces of a batch and frozen blocks would
            each train another model.

    Raises:
        BadInput: an unknown name, dimension, pooling or weights; sizes that do not fit; an unusable file.
    """
    from_file = encoder.name.startswith(KERAS_FILE)
    built = _from_keras_file(encoder, not train_batch_norm) if from_file else _catalogued(encoder, seed, fill)
    if encoder.fit == "aspect":
        built = of_any_size(built)
    for layer in built.model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = train_batch_norm
    return built


def _catalogued(encoder: config.Encoder, seed: int, fill: bool) -> ImageEncoder:
    entry = catalogue.expect(encoder)
    assert entry is not None
    family, size, pooling = entry.facts, encoder.image_size_px or entry.image_size_px, encoder.pooling or entry.pooling
    aspect = encoder.fit == "aspect"
    # Positions are resized once, from the grid of the weights to an image's.
    built_px = family.table_px or entry.image_size_px if aspect else size
    with backbones.seeded(seed):
        if family.transformer:
            options = encoder.patch_overlap_px, encoder.stochastic_depth, encoder.checkpointing
            network = vit.transformer(entry, built_px, pooling, *options)
        else:
            network = backbones.convolutional(entry, built_px)
    metadata: dict[str, Any] = {}
    if encoder.weights != "none" and fill:
        found = sources.read(encoder.weights, entry, network.hub_names)
        load.assign(network.model, found.tensors, network.positions, encoder.weights)
        metadata = found.metadata
    elif encoder.weights != "none":
        metadata = sources.read_metadata(encoder.weights, entry)
    mean = catalogue.three(encoder.mean or metadata.get("mean") or family.mean, "mean")
    std = catalogue.three(encoder.std or metadata.get("std") or family.std, "std")
    preprocess = Preprocess(size, mean, std, family.resize, fit=encoder.fit or "squash")
    if aspect:  # ILIAS's transform resizes by Pillow's default whatever the encoder
        patch = entry.architecture["patch_size"] if family.transformer else 1
        preprocess = replace(preprocess, resize="bicubic", multiple_px=patch)
    inside = int(network.model.output_shape[-1]), network.blocks, network.taps, network.positions
    return ImageEncoder(encoder.name, network.model, preprocess, *inside)


def of_any_size(encoder: ImageEncoder) -> ImageEncoder:
    """The encoder for images of any height and width: the same layers, so the same weights.

    Raises BadInput for a graph that takes one size alone.
    """
    if encoder.model.input_shape[1] is None:
        return encoder
    try:
        return replace(encoder, model=vit.of_any_size(encoder.model))
    except (ValueError, TypeError) as error:
        fixed = encoder.preprocess.image_size_px
        raise BadInput(
            f"{encoder.name} takes {fixed} × {fixed} px alone, no image with its aspect kept ({reason(error)}): use "
            "encoder.fit squash, crop or pad"
        ) from None


def transfer(source: ImageEncoder, target: ImageEncoder) -> None:
    """Copies all weights to an encoder of the same name at another size, overlap or training option.

    Raises BadInput for another architecture or pooling; it names the tensors.
    """
    if target.positions is None and target.name.startswith(KERAS_FILE):
        target.model.set_weights(source.model.get_weights())  # names in a Keras file need not be unique
        return
    tensors = {name: variable.numpy() for name, variable in float_variables(source.model).items()}
    load.assign(target.model, tensors, target.positions, source.name)


def _from_keras_file(encoder: config.Encoder, fold_batch_norm: bool) -> ImageEncoder:
    model, blocks = keras_files.read(encoder, fold_batch_norm)
    mean, std = catalogue.three(encoder.mean or [], "mean"), catalogue.three(encoder.std or [], "std")
    preprocess = Preprocess(int(model.input_shape[1]), mean, std, fit=encoder.fit or "squash")
    return ImageEncoder(encoder.name, model, preprocess, int(model.output_shape[-1]), blocks)
