"""What is said of an encoder, and of a family of encoders. No TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Family:
    """What all encoders of a family share. A new family is an entry of FAMILIES and its builders in `backbones.py`."""

    # The features that can leave the encoder. "projection" is CLIP's embedding, which is compared with text;
    # "class_token" is the token before that projection, after the last layer norm; of PE-Core "attention" is what its
    # projection takes.
    poolings: tuple[str, ...]
    mean: tuple[float, float, float] = HALF  # of RGB in [0, 1]
    std: tuple[float, float, float] = HALF
    resize: str = "bicubic"  # a method of `tf.image.resize`, antialiased
    transformer: bool = True  # has patches, position embeddings and blocks that can drop out; else convolutional
    prefix_tokens: int = 1  # class tokens before the patches, 1 or 0
    position_table: bool = True  # positions are learned and added; False: only rotations in the attention, DINOv3's
    table_px: int | None = None  # side that the table of the published weights is of; None: the encoder's image size
    stem_norm: bool = False  # the patch convolution has no bias; a layer norm follows the position embeddings
    layer_scales: bool = False  # each block has two learned scales
    joint_pooling: str = ""  # the features that are compared with text; "": the family has no text tower
    fit: str = "squash"  # how images became square in training: squash | crop, see `preprocessing.resize`
    start_logits: tuple[float, float | None] = (1.0, None)  # (scale, bias or None) before training
    tokenizer: str = ""  # a key of `tokenizers.TOKENIZERS`
    pad_with_end: bool = False  # rows of token ids are filled with the end token; False: with 0


_CLIP = Family(
    poolings=("projection", "class_token", "mean"),
    mean=CLIP_MEAN,
    std=CLIP_STD,
    stem_norm=True,
    joint_pooling="projection",
    fit="crop",
    start_logits=(1 / 0.07, None),
    tokenizer="byte_pair",
)
_SIGLIP = Family(
    poolings=("attention", "mean"),
    prefix_tokens=0,
    joint_pooling="attention",
    start_logits=(10.0, -10.0),
    tokenizer="sentencepiece",
    pad_with_end=True,
)
_CONVOLUTIONAL = Family(("mean",), IMAGENET_MEAN, IMAGENET_STD, transformer=False)
_DINO = Family(("class_token", "mean"), IMAGENET_MEAN, IMAGENET_STD, layer_scales=True)
FAMILIES = {
    "clip": _CLIP,
    "metaclip2": replace(_CLIP, tokenizer="xlm_v"),
    "pe_core": replace(
        _CLIP,
        poolings=("projection", "attention", "class_token", "mean"),
        mean=HALF,
        std=HALF,
        resize="bilinear",
        fit="squash",
    ),
    "siglip": _SIGLIP,
    "siglip2": replace(_SIGLIP, pad_with_end=False),
    "dinov2": replace(_DINO, table_px=518),
    "dinov3": replace(_DINO, resize="bilinear", position_table=False),
    "vit": Family(("class_token", "mean")),
    "efficientnet": _CONVOLUTIONAL,
    "mobilenet": _CONVOLUTIONAL,
}


@dataclass(frozen=True)
class Entry:
    """One encoder."""

    family: str  # a key of FAMILIES
    # Transformers: patch_size, hidden_dim, num_layers, num_heads, intermediate_dim and, where the family has them,
    # activation (quick_gelu | gelu | gelu_approximate), projection_dim, num_register_tokens, use_mask_token,
    # use_swiglu_ffn, use_gated_mlp, use_query_bias, use_value_bias; of PE-Core also use_class_token, pooling_heads and
    # pooling_dim (of the attention pooling), reference_grid (patches along one side that rotations are scaled to).
    # Convolutional networks: the arguments of KerasHub's class.
    architecture: dict[str, Any]
    image_size_px: int = 224  # side of the square it was trained on
    preset: str = ""  # KerasHub's name; "": none
    open_clip: str = ""  # open_clip's model name with the same architecture; "": none
    timm: str = ""  # timm's, of an encoder that open_clip does not have; "": none
    text: dict[str, Any] = field(default_factory=dict)  # dimensions of the text tower, empty when there is none
    default_pooling: str = ""  # "": the family's first
    differs: Mapping[str, Any] = field(default_factory=dict)  # where this one departs from its family

    @property
    def facts(self) -> Family:
        return replace(FAMILIES[self.family], **self.differs)

    @property
    def pooling(self) -> str:
        """The features that leave the encoder when the config does not say."""
        return self.default_pooling or self.facts.poolings[0]


def vit(patch: int, width: int, layers: int, heads: int, mlp: int, **more: Any) -> dict[str, Any]:
    return {"patch_size": patch, **dims(width, layers, heads, mlp), **more}


def dims(width: int, layers: int, heads: int, mlp: int) -> dict[str, Any]:
    return {"hidden_dim": width, "num_layers": layers, "num_heads": heads, "intermediate_dim": mlp}
