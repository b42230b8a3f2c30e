"""KerasHub's image backbones taken apart: the layers and variables of four transformer families under one
set of names.

Two backbones of a family give their variables in the same order, whatever KerasHub called them when they
were made: that is how a preset's weights reach a tower that is built here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import keras_hub
import numpy as np

from pipeline.models.catalogue import Entry


@dataclass
class Parts:
    """
    Attributes:
        embedding: the layer that owns the patch convolution, the tokens and the positions.
        position_table: variable [P + G·G, D] or [1, P + G·G, D].
        before: layers between the embedding and the first block.
        norm: the layer norm after the last block.
        head: attention pooling [B, T, D] → [B, D], where the family has it.
        class_token, registers: variables, where the family has them.
        prefix_tokens: P, tokens with a position of their own before the patches.
        extra_tokens: tokens without a position, between those and the patches.
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
    prefix_tokens: int = 0
    extra_tokens: int = 0
    antialias: bool = True

    @property
    def variables(self) -> list[keras.Variable]:
        """In an order of its own that is the same for every backbone of the family."""
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
        prefix_tokens=1,
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
        embedding.mask_token.trainable = (
            False  # for DINOv2's own training only; it would never get a gradient
        )
    return Parts(
        embedding=embedding,
        patch_convolution=embedding.patch_embeddings.projection,
        position_table=embedding.interpolated_position_embeddings,
        blocks=list(backbone.encoder.layers),
        norm=backbone.layernorm,
        class_token=embedding.cls_token,
        registers=embedding.register_tokens if embedding.num_register_tokens else None,
        prefix_tokens=1,
        extra_tokens=embedding.num_register_tokens,
        antialias=embedding.num_register_tokens > 0,  # the first DINOv2 did not, the one with registers does
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
        prefix_tokens=1,
    )


TRANSFORMERS: dict[str, tuple[Callable[..., keras.Model], Callable[[Any], Parts]]] = {
    "clip": (partial(_language_image, keras_hub.models.CLIPVisionEncoder), _clip_parts),
    "siglip": (partial(_language_image, keras_hub.models.SigLIPVisionEncoder), _siglip_parts),
    "dinov2": (_dinov2, _dinov2_parts),
    "vit": (_vit, _vit_parts),
}


def transformer(entry: Entry, side: int) -> Parts:
    """The parts of a new backbone with random weights, whose plain patches cover `side` × `side` px."""
    make, take_apart = TRANSFORMERS[entry.family]
    return take_apart(make(entry.architecture, side))


def convolutional(entry: Entry, side: int) -> keras.Model:
    """A new convolutional backbone: images [B, side, side, 3] → map [B, h, w, C]."""
    if entry.family == "efficientnet":
        return keras_hub.models.EfficientNetBackbone(**entry.architecture, input_shape=(side, side, 3))
    return keras_hub.models.MobileNetBackbone(**entry.architecture, image_shape=(side, side, 3))
