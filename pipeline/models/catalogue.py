"""What is known of every encoder: its family, dimensions, image size and where its weights come from.

The dimensions stand here because KerasHub fetches a preset's configuration together with its weights: random
and converted weights, tests and plans must build the same network offline. No TensorFlow: `guie plan` reads this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config import Encoder
from pipeline.config.sidecar import KERAS_FILE
from pipeline.errors import BadInput, nearest
from pipeline.models import convnets

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Family:
    """What all encoders of a family share. A new family is an entry of FAMILIES and its builders in `backbones.py`."""

    # The features that can leave the encoder. "projection" is CLIP's embedding, which is compared with text;
    # "class_token" is the token before that projection, after the last layer norm.
    poolings: tuple[str, ...]
    mean: tuple[float, float, float] = HALF  # of RGB in [0, 1]
    std: tuple[float, float, float] = HALF
    resize: str = "bicubic"  # a method of `tf.image.resize`, antialiased
    transformer: bool = True  # has patches, position embeddings and blocks that can drop out; else convolutional
    prefix_tokens: int = 1  # tokens with a position before the patches: 1, the class token, or 0
    stem_norm: bool = False  # the patch convolution has no bias; a layer norm follows the position embeddings
    layer_scales: bool = False  # each block has two learned scales
    joint_pooling: str = ""  # the features that are compared with text; "": the family has no text tower
    fit: str = "squash"  # how images became square in training: squash | crop, see `preprocessing.resize`
    start_logits: tuple[float, float | None] = (1.0, None)  # (scale, bias or None) before training
    tokenizer: str = ""  # a key of `tokenizers.TOKENIZERS`
    pad_with_end: bool = False  # rows of token ids are filled with the end token; False: with 0


_SIGLIP = Family(
    poolings=("attention", "mean"),
    prefix_tokens=0,
    joint_pooling="attention",
    start_logits=(10.0, -10.0),
    tokenizer="sentencepiece",
    pad_with_end=True,
)
_CONVOLUTIONAL = Family(("mean",), IMAGENET_MEAN, IMAGENET_STD, transformer=False)
FAMILIES = {
    "clip": Family(
        poolings=("projection", "class_token", "mean"),
        mean=CLIP_MEAN,
        std=CLIP_STD,
        stem_norm=True,
        joint_pooling="projection",
        fit="crop",
        start_logits=(1 / 0.07, None),
        tokenizer="byte_pair",
    ),
    "siglip": _SIGLIP,
    "siglip2": replace(_SIGLIP, pad_with_end=False),
    "dinov2": Family(("class_token", "mean"), IMAGENET_MEAN, IMAGENET_STD, layer_scales=True),
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
    # use_swiglu_ffn. Convolutional networks: the arguments of KerasHub's class.
    architecture: dict[str, Any]
    image_size_px: int = 224  # side of the square it was trained on
    preset: str = ""  # KerasHub's name; "": none
    open_clip: str = ""  # open_clip's model name with the same architecture; "": none
    text: dict[str, Any] = field(default_factory=dict)  # dimensions of the text tower, empty when there is none
    default_pooling: str = ""  # "": the family's first

    @property
    def facts(self) -> Family:
        return FAMILIES[self.family]

    @property
    def pooling(self) -> str:
        """The features that leave the encoder when the config does not say."""
        return self.default_pooling or self.facts.poolings[0]


def _vit(patch: int, width: int, layers: int, heads: int, mlp: int, **more: Any) -> dict[str, Any]:
    return {"patch_size": patch, **_dims(width, layers, heads, mlp), **more}


def _dims(width: int, layers: int, heads: int, mlp: int) -> dict[str, Any]:
    return {"hidden_dim": width, "num_layers": layers, "num_heads": heads, "intermediate_dim": mlp}


def _clip(
    vision: dict[str, Any], text: tuple[int, int, int], open_clip: str = "", preset: str = "", **more: Any
) -> Entry:
    """`text`: (width, layers, heads). Images are projected to that width; open_clip's name says the activation."""
    width, layers, heads = text
    shared = {"activation": "quick_gelu" if open_clip.endswith("quickgelu") else "gelu", "projection_dim": width}
    of_text = {"vocabulary_size": 49408, **_dims(width, layers, heads, 4 * width), "sequence_length": 77}
    return Entry("clip", {**vision, **shared}, preset=preset, open_clip=open_clip, text={**of_text, **shared}, **more)


def _siglip(architecture: dict[str, Any], image_size_px: int, preset: str, open_clip: str = "") -> Entry:
    second = preset.startswith("siglip2")
    multilingual = "i18n" in preset or "multilingual" in preset
    text = SO14 if "giant" in preset else architecture
    return Entry(
        family="siglip2" if second else "siglip",
        architecture={**architecture, "activation": "gelu_approximate"},
        image_size_px=image_size_px,
        preset=preset,
        open_clip=open_clip,
        text={
            "vocabulary_size": 256000 if second else 250000 if multilingual else 32000,
            **{key: text[key] for key in ("hidden_dim", "num_layers", "num_heads", "intermediate_dim")},
            "activation": "gelu_approximate",
            "projection_dim": architecture["hidden_dim"],
            "sequence_length": 16 if preset == "siglip_so400m_patch14_224" else 64,
        },
    )


B16, B32 = _vit(16, 768, 12, 12, 3072), _vit(32, 768, 12, 12, 3072)
L14, L16 = _vit(14, 1024, 24, 16, 4096), _vit(16, 1024, 24, 16, 4096)
SO14, SO16 = _vit(14, 1152, 27, 16, 4304), _vit(16, 1152, 27, 16, 4304)
H14, G14 = _vit(14, 1280, 32, 16, 5120), _vit(14, 1408, 40, 16, 6144)
BIGG14, GIANT_OPT = _vit(14, 1664, 48, 16, 8192), _vit(16, 1536, 40, 16, 6144)
TEXT_B, TEXT_L, TEXT_H, TEXT_BIGG = (512, 12, 8), (768, 12, 12), (1024, 24, 16), (1280, 32, 20)

CLIP = {
    # Names without a source are LAION's and later open_clip models, which use GELU; OpenAI's use quick-GELU.
    "clip_tiny": _clip(_vit(8, 128, 4, 4, 512), (64, 2, 2), image_size_px=64, default_pooling="class_token"),
    "clip_vit_b_32": _clip(B32, TEXT_B, "ViT-B-32", "clip_vit_b_32_laion2b_s34b_b79k"),
    "clip_vit_b_16": _clip(B16, TEXT_B, "ViT-B-16"),
    "clip_vit_l_14": _clip(L14, TEXT_L, "ViT-L-14"),
    "clip_vit_l_14_336": _clip(L14, TEXT_L, "ViT-L-14-336", image_size_px=336),
    "clip_vit_h_14": _clip(H14, TEXT_H, "ViT-H-14", "clip_vit_h_14_laion2b_s32b_b79k"),
    "clip_vit_h_14_378": _clip(H14, TEXT_H, "ViT-H-14-378", image_size_px=378),
    "clip_vit_g_14": _clip(G14, TEXT_H, "ViT-g-14", "clip_vit_g_14_laion2b_s12b_b42k"),
    "clip_vit_bigg_14": _clip(BIGG14, TEXT_BIGG, "ViT-bigG-14", "clip_vit_bigg_14_laion2b_39b_b160k"),
    "clip_vit_b_32_openai": _clip(B32, TEXT_B, "ViT-B-32-quickgelu", "clip_vit_base_patch32"),
    "clip_vit_b_16_openai": _clip(B16, TEXT_B, "ViT-B-16-quickgelu", "clip_vit_base_patch16"),
    "clip_vit_l_14_openai": _clip(L14, TEXT_L, "ViT-L-14-quickgelu", "clip_vit_large_patch14"),
    "clip_vit_l_14_336_openai": _clip(
        L14, TEXT_L, "ViT-L-14-336-quickgelu", "clip_vit_large_patch14_336", image_size_px=336
    ),
    "clip_vit_h_14_quickgelu": _clip(H14, TEXT_H, "ViT-H-14-quickgelu"),
}

SIGLIP = {
    entry.preset: entry
    for entry in (
        _siglip(B16, 224, "siglip_base_patch16_224", "ViT-B-16-SigLIP"),
        _siglip(B16, 256, "siglip_base_patch16_256", "ViT-B-16-SigLIP-256"),
        _siglip(B16, 384, "siglip_base_patch16_384", "ViT-B-16-SigLIP-384"),
        _siglip(B16, 512, "siglip_base_patch16_512", "ViT-B-16-SigLIP-512"),
        _siglip(B16, 256, "siglip_base_patch16_256_multilingual", "ViT-B-16-SigLIP-i18n-256"),
        _siglip(L16, 256, "siglip_large_patch16_256", "ViT-L-16-SigLIP-256"),
        _siglip(L16, 384, "siglip_large_patch16_384", "ViT-L-16-SigLIP-384"),
        _siglip(SO14, 224, "siglip_so400m_patch14_224", "ViT-SO400M-14-SigLIP"),
        _siglip(SO14, 384, "siglip_so400m_patch14_384", "ViT-SO400M-14-SigLIP-384"),
        _siglip(SO16, 256, "siglip_so400m_patch16_256_i18n", "ViT-SO400M-16-SigLIP-i18n-256"),
        _siglip(B16, 224, "siglip2_base_patch16_224", "ViT-B-16-SigLIP2"),
        _siglip(B16, 256, "siglip2_base_patch16_256", "ViT-B-16-SigLIP2-256"),
        _siglip(B32, 256, "siglip2_base_patch32_256", "ViT-B-32-SigLIP2-256"),
        _siglip(B16, 384, "siglip2_base_patch16_384", "ViT-B-16-SigLIP2-384"),
        _siglip(L16, 256, "siglip2_large_patch16_256", "ViT-L-16-SigLIP2-256"),
        _siglip(L16, 384, "siglip2_large_patch16_384", "ViT-L-16-SigLIP2-384"),
        _siglip(L16, 512, "siglip2_large_patch16_512", "ViT-L-16-SigLIP2-512"),
        _siglip(GIANT_OPT, 256, "siglip2_giant_opt_patch16_256", "ViT-gopt-16-SigLIP2-256"),
        _siglip(GIANT_OPT, 384, "siglip2_giant_opt_patch16_384", "ViT-gopt-16-SigLIP2-384"),
        _siglip(SO14, 224, "siglip2_so400m_patch14_224", "ViT-SO400M-14-SigLIP2"),
        _siglip(SO14, 384, "siglip2_so400m_patch14_384", "ViT-SO400M-14-SigLIP2-378"),
        _siglip(SO16, 256, "siglip2_so400m_patch16_256", "ViT-SO400M-16-SigLIP2-256"),
        _siglip(SO16, 384, "siglip2_so400m_patch16_384", "ViT-SO400M-16-SigLIP2-384"),
        _siglip(SO16, 512, "siglip2_so400m_patch16_512", "ViT-SO400M-16-SigLIP2-512"),
    )
}

_DINO_SIZES = {
    "small": _vit(14, 384, 12, 6, 1536),
    "base": _vit(14, 768, 12, 12, 3072),
    "large": _vit(14, 1024, 24, 16, 4096),
    "giant": _vit(14, 1536, 40, 24, 6144, use_swiglu_ffn=True),
}
DINOV2 = {
    f"dinov2_{kind}{size}": Entry(
        "dinov2",
        {"num_register_tokens": registers, "use_mask_token": True, "use_swiglu_ffn": False, **dims},
        preset=f"dinov2_{kind}{size}",
    )
    for kind, registers in (("", 0), ("with_registers_", 4))
    for size, dims in _DINO_SIZES.items()
}

_VIT_SIZES = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096), "huge": (1280, 32, 16, 5120)}
VIT = {
    name: Entry(family="vit", architecture=_vit(patch, *_VIT_SIZES[size]), image_size_px=px, preset=name)
    for name, size, patch, px in (
        ("vit_base_patch16_224_imagenet", "base", 16, 224),
        ("vit_base_patch16_384_imagenet", "base", 16, 384),
        ("vit_base_patch32_384_imagenet", "base", 32, 384),
        ("vit_large_patch16_224_imagenet", "large", 16, 224),
        ("vit_large_patch16_384_imagenet", "large", 16, 384),
        ("vit_large_patch32_384_imagenet", "large", 32, 384),
        ("vit_base_patch16_224_imagenet21k", "base", 16, 224),
        ("vit_base_patch32_224_imagenet21k", "base", 32, 224),
        ("vit_large_patch16_224_imagenet21k", "large", 16, 224),
        ("vit_large_patch32_224_imagenet21k", "large", 32, 224),
        ("vit_huge_patch14_224_imagenet21k", "huge", 14, 224),
    )
}

CONVOLUTIONAL = {
    name: Entry(family, architecture, px, preset)
    for name, (family, architecture, px, preset) in convnets.NETWORKS.items()
}

CATALOGUE: dict[str, Entry] = CLIP | SIGLIP | DINOV2 | VIT | CONVOLUTIONAL


def find(name: str, architecture: Mapping[str, Any] | None = None) -> Entry:
    """The entry of a catalogue name or of KerasHub's preset name, with some dimensions replaced.

    Raises BadInput for an unknown name, or a dimension that the family does not have; the nearest are named.
    """
    by_preset = {entry.preset: entry for entry in CATALOGUE.values() if entry.preset}
    entry = CATALOGUE.get(name) or by_preset.get(name)
    if entry is None:
        expected = f"expected keras_file:PATH or a name of the catalogue, got {name!r}"
        raise BadInput(f"encoder.name: {expected}; nearest: {nearest(name, CATALOGUE)}")
    for key in architecture or {}:
        if key not in entry.architecture:
            close = nearest(key, entry.architecture)
            raise BadInput(f"encoder.architecture: {entry.family} has no {key!r}; nearest: {close}")
    return replace(entry, architecture={**entry.architecture, **(architecture or {})})


def expect(encoder: Encoder) -> Entry | None:
    """The entry of the config's encoder; None of a Keras file. Nothing is built and no file is opened.

    Raises BadInput: an unknown name, dimension or pooling; options that do not fit the architecture or the image size;
    mean or std that are not of RGB; a Keras file without them.
    """
    for key in ("mean", "std"):
        if getattr(encoder, key) is not None:
            three(getattr(encoder, key), key)
    if encoder.name.startswith(KERAS_FILE):
        _expect_of_keras_file(encoder)
        return None
    entry = find(encoder.name, encoder.architecture)
    if encoder.pooling is not None and encoder.pooling not in entry.facts.poolings:
        known = ", ".join(entry.facts.poolings)
        raise BadInput(f"encoder.pooling: {entry.family} has {known}; got {encoder.pooling!r}")
    if not entry.facts.transformer:
        for key in ("patch_overlap_px", "stochastic_depth", "checkpointing"):
            if getattr(encoder, key):
                raise BadInput(f"encoder.{key}: {entry.family} is no transformer; leave it out")
        return entry
    patch, width, heads = (entry.architecture[key] for key in ("patch_size", "hidden_dim", "num_heads"))
    size, overlap = encoder.image_size_px or entry.image_size_px, encoder.patch_overlap_px
    if width % heads:
        raise BadInput(f"encoder.architecture: hidden_dim {width} is not a multiple of num_heads {heads}")
    if size < patch:
        raise BadInput(f"encoder.image_size_px: expected at least one patch of {patch} px, got {size}")
    if not 0 <= overlap < patch:
        raise BadInput(f"encoder.patch_overlap_px: expected 0 … {patch - 1} with patches of {patch} px, got {overlap}")
    return entry


def three(values: Sequence[float], key: str) -> tuple[float, float, float]:
    """`encoder.mean` or `encoder.std` as a tuple; BadInput where it is not of three numbers, those of std above 0."""
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        above = " above 0" if key == "std" else ""
        raise BadInput(f"encoder.{key}: expected three numbers{above}, got {list(values)}")
    return (float(values[0]), float(values[1]), float(values[2]))


def _expect_of_keras_file(encoder: Encoder) -> None:
    if encoder.mean is None or encoder.std is None:
        raise BadInput(
            "encoder.mean and encoder.std: a Keras file does not say how it wants its pixels; give both, of "
            "RGB in [0, 1], such as mean=[0.5,0.5,0.5] std=[0.5,0.5,0.5] for pixels in -1 … 1, here or in a JSON file "
            "of the same name beside it"
        )
    if encoder.architecture or encoder.patch_overlap_px or encoder.stochastic_depth or encoder.checkpointing:
        options = "architecture, patch_overlap_px, stochastic_depth and checkpointing"
        raise BadInput(f"encoder: {options} need an encoder of the catalogue; a Keras file is used as it is")
