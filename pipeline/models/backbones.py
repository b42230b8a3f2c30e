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
from pipeline.models.position_embeddings import PositionTable


@dataclass(frozen=True)
class ImageNetwork:
    """A flat Keras model from images to features, and what is known of its inside.

    Attributes:
        model: float32 [B, S, S, 3] → float32 [B, width].
        blocks: the stem's layers, then each block's; the layers after the last block belong to it.
        taps: `block_1` … → name of the layer whose output it is.
        hub_names: the variables' paths in the order of `hub_variables`.
        positions: None for convolutional networks.
    """

    model: keras.Model
    blocks: list[list[keras.layers.Layer]]
    taps: dict[str, str]
    hub_names: list[str]
    positions: PositionTable | None = None


@dataclass
class Parts:
    """A transformer backbone of KerasHub, taken apart.

    Attributes:
        embedding: the layer that owns the patch convolution, the tokens and the positions.
        position_table: variable [P + G·G, D] or [1, P + G·G, D].
        before: layers between the embedding and the first block.
        norm: the layer norm after the last block.
        head: attention pooling [B, T, D] → [B, D], where the family has it.
        class_token, registers: variables [..., D] and [1, R, D], where the family has them.
        antialias: whether the family's reference smooths positions when the grid shrinks.
    """

    embedding: keras.layers.Layer
    patch_convolution: keras.layers.Conv2D
    position_table: Any
    blocks: list[keras.layers.Layer]
    norm: keras.layers.Layer
    before: tuple[keras.layers.Layer, ...] = ()
    head: keras.layers.Layer | None = None
    class_token: Any = None
    registers: Any = None
    antialias: bool = True

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


def _language_image(backbone: Callable[..., keras.Model], a: dict[str, Any], side: int) -> keras.Model:
    """CLIP's and SigLIP's vision encoders take the same arguments."""
    return backbone(
        patch_size=a["patch_size"],
        hidden_dim=a["hidden_dim"],
        num_layers=a["num_layers"],
        num_heads=a["num_heads"],
        intermediate_dim=a["intermediate_dim"],
        intermediate_activation=a["activation"],
        image_shape=(side, side, 3),
    )


def _clip_parts(backbone: Any) -> Parts:
    embedding = backbone.embedding
    # KerasHub leaves the ids at zero until a preset is loaded: every patch would get the first position.
    embedding.position_ids.assign(np.arange(embedding.num_positions)[None])
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
    return keras_hub.models.DINOV2Backbone(
        patch_size=a["patch_size"],
        hidden_dim=a["hidden_dim"],
        num_layers=a["num_layers"],
        num_heads=a["num_heads"],
        intermediate_dim=a["intermediate_dim"],
        num_register_tokens=a["num_register_tokens"],
        use_mask_token=a["use_mask_token"],
        use_swiglu_ffn=a["use_swiglu_ffn"],
        image_shape=(side, side, 3),
        position_embedding_shape=(side, side, 3),
    )


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


def _vit(a: dict[str, Any], side: int) -> keras.Model:
    return keras_hub.models.ViTBackbone(
        patch_size=a["patch_size"],
        hidden_dim=a["hidden_dim"],
        num_layers=a["num_layers"],
        num_heads=a["num_heads"],
        mlp_dim=a["intermediate_dim"],
        image_shape=(side, side, 3),
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


def _efficientnet(a: dict[str, Any], side: int) -> keras.Model:
    return keras_hub.models.EfficientNetBackbone(**a, input_shape=(side, side, 3))


def _mobilenet(a: dict[str, Any], side: int) -> keras.Model:
    return keras_hub.models.MobileNetBackbone(**a, image_shape=(side, side, 3))


class Builders(NamedTuple):
    """How a family's backbone is made and taken apart.

    Attributes:
        make: (architecture, side in px) → KerasHub's model.
        take_apart: None for convolutional networks.
    """

    make: Callable[[dict[str, Any], int], keras.Model]
    take_apart: Callable[[Any], Parts] | None


BUILDERS = {  # a key for each of catalogue.FAMILIES
    "clip": Builders(partial(_language_image, keras_hub.models.CLIPVisionEncoder), _clip_parts),
    "siglip": Builders(partial(_language_image, keras_hub.models.SigLIPVisionEncoder), _siglip_parts),
    "siglip2": Builders(partial(_language_image, keras_hub.models.SigLIPVisionEncoder), _siglip_parts),
    "dinov2": Builders(_dinov2, _dinov2_parts),
    "vit": Builders(_vit, _vit_parts),
    "efficientnet": Builders(_efficientnet, None),
    "mobilenet": Builders(_mobilenet, None),
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

    Raises:
        AttributeError, ValueError: a backbone of another family.
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
