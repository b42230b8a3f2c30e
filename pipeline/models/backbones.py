"""KerasHub's image backbones: built, taken apart under one set of names, and the convolutional ones wired.

Two backbones of a family give their variables in the same order, whatever KerasHub called them when they
were made: that is how a preset's weights reach a network that is built here.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np

from pipeline.models.catalogue import Entry
from pipeline.models.perception import ImageTower
from pipeline.models.position_embeddings import PositionTable, Rotary, dinov3_rotary, pe_core_rotary


@dataclass(frozen=True)
class ImageNetwork:
    """A flat Keras model from images to features, and what is known of its inside."""

    model: keras.Model  # float32 [B, S, S, 3] → float32 [B, width]
    blocks: list[list[keras.layers.Layer]]  # the stem's layers, then each block's; the last block has those after it
    taps: dict[str, str]  # `block_1` … → name of the layer whose output it is
    hub_names: list[str]  # the variables' paths in the order of `hub_variables`
    positions: PositionTable | None = None  # None for convolutional networks


@dataclass
class Parts:
    """A transformer backbone, taken apart; what a family does not have is None."""

    embedding: keras.layers.Layer  # has the patch convolution, the tokens and the positions
    patch_convolution: keras.layers.Conv2D
    position_table: Any  # variable [P + G·G, D] or [1, P + G·G, D]; None where places only rotate
    blocks: list[keras.layers.Layer]
    norm: keras.layers.Layer  # after the last block
    before: tuple[keras.layers.Layer, ...] = ()  # between the embedding and the first block
    head: keras.layers.Layer | None = None  # attention pooling [B, T, D] → [B, D]
    class_token: Any = None  # variable [..., D]
    registers: Any = None  # variable [1, R, D]
    antialias: bool = True  # whether the family's reference smooths positions when the grid shrinks
    rotary: Rotary | None = None  # rotations in every block's attention
    rotate: Callable[[Any, int], dict[str, Any]] | None = None  # (angles, tokens that stay) → keywords of a block

    @property
    def prefix_tokens(self) -> int:
        """P, tokens with a position before the patches."""
        return int(self.class_token is not None)

    @property
    def extra_tokens(self) -> int:
        """R, tokens without a position, between those and the patches."""
        return 0 if self.registers is None else int(self.registers.shape[1])

    @property
    def variables(self) -> list[keras.Variable]:
        """In an order that is the same for every backbone of the family."""
        layers = [self.embedding, *self.before, *self.blocks, self.norm, *([self.head] if self.head else [])]
        return [variable for layer in layers for variable in layer.variables]


def _transformer(backbone: Callable[..., keras.Model], a: dict[str, Any], side: int) -> keras.Model:
    """KerasHub's names of some dimensions differ from the catalogue's; `projection_dim` is of no backbone."""
    renamed = {"activation": "intermediate_activation"}
    if backbone is keras_hub.models.ViTBackbone:
        renamed = {"intermediate_dim": "mlp_dim"}
    dims = {renamed.get(key, key): value for key, value in a.items() if key != "projection_dim"}
    return backbone(**dims, image_shape=(side, side, 3))


def _clip_parts(backbone: Any) -> Parts:
    # KerasHub leaves the ids at zero until a preset is loaded: every patch would get the first position.
    backbone.embedding.position_ids.assign(np.arange(backbone.embedding.num_positions)[None])
    return _metaclip2_parts(backbone)


def _metaclip2(a: dict[str, Any], side: int) -> keras.Model:
    encoder = _transformer(keras_hub.models.MetaCLIP2VisionEncoder, a, side)
    encoder.layer_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="layer_norm")  # KerasHub's is outside
    encoder.layer_norm.build((None, None, a["hidden_dim"]))
    return encoder


def _metaclip2_parts(backbone: Any) -> Parts:
    embedding = backbone.embedding
    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embedding,
        position_table=embedding.position_embedding.embeddings,
        before=(backbone.pre_layer_norm,),
        blocks=list(backbone.encoder_layers),
        norm=backbone.layer_norm,
        class_token=embedding.class_embedding,
    )


def _siglip_parts(backbone: Any) -> Parts:
    embedding, head = backbone.embedding, backbone.head
    # KerasHub gives it no name, and Keras then numbers it by what was built before in the process.
    head.probe._name, head.probe._path = "probe", f"{head.name}/probe"
    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embedding,
        position_table=embedding.position_embedding.embeddings,
        blocks=list(backbone.encoder_layers),
        norm=backbone.post_layer_norm,
        head=head,
    )


def _dinov2(a: dict[str, Any], side: int) -> keras.Model:
    shape = (side, side, 3)
    return keras_hub.models.DINOV2Backbone(**a, image_shape=shape, position_embedding_shape=shape)


def _dinov2_parts(backbone: Any) -> Parts:
    embedding = backbone.embeddings
    if embedding.use_mask_token:
        embedding.mask_token.trainable = False  # DINOv2's training alone gives it a gradient
    registers = embedding.num_register_tokens > 0
    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embeddings.projection,
        position_table=embedding.interpolated_position_embeddings,
        blocks=list(backbone.encoder.layers),
        norm=backbone.layernorm,
        class_token=embedding.cls_token,
        registers=embedding.register_tokens if registers else None,
        antialias=registers,  # the first DINOv2 did not, the one with registers does
    )


def _dinov3(a: dict[str, Any], side: int) -> keras.Model:
    activation = "silu" if a["use_gated_mlp"] else "gelu"
    return keras_hub.models.DINOV3Backbone(
        **a, use_key_bias=False, hidden_activation=activation, image_shape=(side, side, 3)
    )


def _dinov3_parts(backbone: Any) -> Parts:
    embedding = backbone.embeddings
    if embedding.use_mask_token:
        embedding.mask_token.trainable = False  # DINOv3's training alone gives it a gradient

    def rotate(angles: Any, prefix_tokens: int) -> dict[str, Any]:
        both = keras.ops.tile(angles, (1, 2))  # the halves of a head make the pairs
        return {"position_embeddings": (keras.ops.cos(both), keras.ops.sin(both)), "num_prefix_tokens": prefix_tokens}

    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embeddings.projection,
        position_table=None,
        blocks=list(backbone.encoder.layers),
        norm=backbone.layernorm,
        class_token=embedding.cls_token,
        registers=embedding.register_tokens,
        rotary=dinov3_rotary(backbone.hidden_dim // backbone.num_heads),
        rotate=rotate,
    )


def _pe_core_parts(tower: ImageTower) -> Parts:
    a, embedding, head = tower.architecture, tower.embedding, tower.head
    head.probe._name, head.probe._path = "probe", f"{head.name}/probe"  # as SigLIP's
    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embedding,
        position_table=embedding.position_embedding,
        before=(tower.pre_layer_norm,),
        blocks=list(tower.blocks),
        norm=tower.layer_norm,
        head=head,
        class_token=embedding.class_embedding,
        rotary=pe_core_rotary(a["hidden_dim"] // a["num_heads"], a["reference_grid"], embedding.has_class_token),
        rotate=lambda angles, prefix_tokens: {"angles": angles, "prefix_tokens": prefix_tokens},
    )


def _vit_parts(backbone: Any) -> Parts:
    embedding, encoder = backbone.get_layer("vit_patching_and_embedding"), backbone.get_layer("vit_encoder")
    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embedding,
        position_table=embedding.position_embedding.embeddings,
        blocks=list(encoder.encoder_layers),
        norm=encoder.layer_norm,
        class_token=embedding.class_token,
    )


class Builders(NamedTuple):
    """How a family's backbone is made and taken apart."""

    make: Callable[[dict[str, Any], int], keras.Model]  # (architecture, side in px) → KerasHub's model
    take_apart: Callable[[Any], Parts] | None  # None for convolutional networks


BUILDERS = {  # a key for each of catalogue.FAMILIES
    "clip": Builders(partial(_transformer, keras_hub.models.CLIPVisionEncoder), _clip_parts),
    "metaclip2": Builders(_metaclip2, _metaclip2_parts),
    "pe_core": Builders(ImageTower, _pe_core_parts),
    "siglip": Builders(partial(_transformer, keras_hub.models.SigLIPVisionEncoder), _siglip_parts),
    "siglip2": Builders(partial(_transformer, keras_hub.models.SigLIPVisionEncoder), _siglip_parts),
    "dinov2": Builders(_dinov2, _dinov2_parts),
    "dinov3": Builders(_dinov3, _dinov3_parts),
    "vit": Builders(partial(_transformer, keras_hub.models.ViTBackbone), _vit_parts),
    "efficientnet": Builders(lambda a, px: keras_hub.models.EfficientNetBackbone(**a, input_shape=(px, px, 3)), None),
    "mobilenet": Builders(lambda a, px: keras_hub.models.MobileNetBackbone(**a, image_shape=(px, px, 3)), None),
}


def make(entry: Entry, side: int) -> keras.Model:
    """KerasHub's backbone with random weights; a transformer's plain patches cover `side` × `side` px."""
    return BUILDERS[entry.family].make(entry.architecture, side)


def transformer_parts(entry: Entry, side: int) -> Parts:
    """A new transformer backbone, taken apart."""
    take_apart = BUILDERS[entry.family].take_apart
    assert take_apart is not None, entry.family
    return take_apart(make(entry, side))


def hub_variables(entry: Entry, backbone: keras.Model) -> list[keras.Variable]:
    """All variables, in an order that is the same for every backbone of the family.

    Raises AttributeError or ValueError for a backbone of another family.
    """
    take_apart = BUILDERS[entry.family].take_apart
    return take_apart(backbone).variables if take_apart else list(backbone.variables)


def convolutional(entry: Entry, image_size_px: int) -> ImageNetwork:
    """A convolutional network of random weights, its last map averaged.

    Its blocks are KerasHub's (`block1a_` … or `block_1_0` …); each one's output is a tap.
    """
    backbone = make(entry, image_size_px)
    x = keras.ops.mean(keras.ops.cast(backbone.output, "float32"), axis=(1, 2))
    groups: dict[str, list[keras.layers.Layer]] = {"stem": []}
    for layer in backbone.layers:
        found = re.match(r"block\d+[a-z]|block_\d+(_\d+)?", layer.name)
        name = found[0] if found else next(reversed(groups))  # what follows a block belongs to it
        groups.setdefault(name, []).append(layer)
    return ImageNetwork(
        model=keras.Model(backbone.inputs[0], as_float32(x, "features"), name=entry.family),
        blocks=list(groups.values()),
        taps={f"block_{i}": layers[-1].name for i, layers in enumerate(list(groups.values())[1:], 1)},
        hub_names=[variable.path for variable in hub_variables(entry, backbone)],
    )


def as_float32(x: Any, name: str) -> Any:
    """The last layer of a model: its output is float32, whatever the compute dtype."""
    return keras.layers.Activation("linear", dtype="float32", name=name)(x)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights that depend on `seed` alone: Keras draws its initialisers' seeds from Python's `random`."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
