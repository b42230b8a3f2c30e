"""What is known of every encoder: architecture, pixels, pooling, width and where its weights come from.

The dimensions stand here because KerasHub fetches a preset's configuration together with its weights: random
and converted weights, tests and plans must build the same network offline.
"""

import difflib
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import BadInput
from pipeline.models import convnets

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

POOLINGS = {  # family: its poolings, what each gives
    "clip": ("projection", "class_token", "mean"),
    "siglip": ("attention", "mean"),
    "dinov2": ("class_token", "mean"),
    "vit": ("class_token", "mean"),
    "efficientnet": ("mean",),
    "mobilenet": ("mean",),
}


@dataclass(frozen=True)
class Entry:
    """One encoder.

    Attributes:
        family: a key of POOLINGS; it decides which KerasHub class is built.
        architecture: dimensions. Transformers: patch_size, hidden_dim, num_layers, num_heads,
            intermediate_dim and, where the family has them, activation (quick_gelu | gelu |
            gelu_approximate), projection_dim, num_register_tokens, use_swiglu_ffn. Convolutional networks:
            the arguments of KerasHub's class.
        image_size_px: side of the square it was trained on.
        pooling: features that leave it when the config does not say: CLIP's "projection" is what is
            compared with text; "class_token" is the token before that projection, after the last layer norm.
        mean, std: of RGB in [0, 1].
        resize: a method of `tf.image.resize`, antialiased.
        preset: KerasHub's name, empty when there is none.
        open_clip: open_clip's model name with the same architecture, empty when there is none.
    """

    family: str
    architecture: dict[str, Any]
    image_size_px: int = 224
    pooling: str = "class_token"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    resize: str = "bicubic"
    preset: str = ""
    open_clip: str = ""
    text: dict[str, Any] = field(
        default_factory=dict
    )  # the text tower beside it, see pipeline/models/weights/load.py

    def width(self, pooling: str) -> int:
        """Numbers that leave the encoder; transformers only."""
        key = "projection_dim" if pooling == "projection" else "hidden_dim"
        return int(self.architecture[key])


def _vit(patch: int, width: int, layers: int, heads: int, mlp: int, **more: Any) -> dict[str, Any]:
    return {
        "patch_size": patch,
        "hidden_dim": width,
        "num_layers": layers,
        "num_heads": heads,
        "intermediate_dim": mlp,
        **more,
    }


def _clip(
    architecture: dict[str, Any], activation: str, projection: int, text: tuple[int, int, int], **more: Any
) -> Entry:
    width, layers, heads = text
    return Entry(
        family="clip",
        architecture={**architecture, "activation": activation, "projection_dim": projection},
        pooling=more.pop("pooling", "projection"),
        mean=CLIP_MEAN,
        std=CLIP_STD,
        text={
            "vocabulary_size": 49408,
            "hidden_dim": width,
            "num_layers": layers,
            "num_heads": heads,
            "intermediate_dim": 4 * width,
            "activation": activation,
            "projection_dim": projection,
            "sequence_length": 77,
        },
        **more,
    )


def _siglip(architecture: dict[str, Any], image_size_px: int, preset: str, open_clip: str = "") -> Entry:
    second = preset.startswith("siglip2")
    multilingual = second or "i18n" in preset or "multilingual" in preset
    giant = "giant" in preset
    so400m = _vit(0, 1152, 27, 16, 4304)
    text = so400m if giant else architecture
    return Entry(
        family="siglip",
        architecture={**architecture, "activation": "gelu_approximate"},
        image_size_px=image_size_px,
        pooling="attention",
        preset=preset,
        open_clip=open_clip,
        text={
            "vocabulary_size": 256000 if second else 250000 if multilingual else 32000,
            **{key: text[key] for key in ("hidden_dim", "num_layers", "num_heads", "intermediate_dim")},
            "activation": "gelu_approximate",
            "projection_dim": architecture["hidden_dim"],
            "sequence_length": 16 if preset in ("siglip_so400m_patch14_224",) else 64,
        },
    )


def _dinov2(architecture: dict[str, Any], preset: str) -> Entry:
    plain = {"num_register_tokens": 0, "use_mask_token": True, "use_swiglu_ffn": False}
    return Entry(
        family="dinov2",
        architecture={**plain, **architecture},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        preset=preset,
    )


B16, B32 = _vit(16, 768, 12, 12, 3072), _vit(32, 768, 12, 12, 3072)
L14, L16 = _vit(14, 1024, 24, 16, 4096), _vit(16, 1024, 24, 16, 4096)
SO14, SO16 = _vit(14, 1152, 27, 16, 4304), _vit(16, 1152, 27, 16, 4304)
GIANT_OPT = _vit(16, 1536, 40, 16, 6144)
TEXT_B, TEXT_L, TEXT_H, TEXT_BIGG = (512, 12, 8), (768, 12, 12), (1024, 24, 16), (1280, 32, 20)

CLIP = {
    # Names without a source are LAION's and later open_clip models, which use GELU; OpenAI's use quick-GELU.
    "clip_tiny": _clip(
        _vit(8, 128, 4, 4, 512), "gelu", 64, (64, 2, 2), image_size_px=64, pooling="class_token"
    ),
    "clip_vit_b_32": _clip(
        B32, "gelu", 512, TEXT_B, preset="clip_vit_b_32_laion2b_s34b_b79k", open_clip="ViT-B-32"
    ),
    "clip_vit_b_16": _clip(B16, "gelu", 512, TEXT_B, open_clip="ViT-B-16"),
    "clip_vit_l_14": _clip(L14, "gelu", 768, TEXT_L, open_clip="ViT-L-14"),
    "clip_vit_l_14_336": _clip(L14, "gelu", 768, TEXT_L, image_size_px=336, open_clip="ViT-L-14-336"),
    "clip_vit_h_14": _clip(
        _vit(14, 1280, 32, 16, 5120),
        "gelu",
        1024,
        TEXT_H,
        preset="clip_vit_h_14_laion2b_s32b_b79k",
        open_clip="ViT-H-14",
    ),
    "clip_vit_h_14_378": _clip(
        _vit(14, 1280, 32, 16, 5120), "gelu", 1024, TEXT_H, image_size_px=378, open_clip="ViT-H-14-378"
    ),
    "clip_vit_g_14": _clip(
        _vit(14, 1408, 40, 16, 6144),
        "gelu",
        1024,
        TEXT_H,
        preset="clip_vit_g_14_laion2b_s12b_b42k",
        open_clip="ViT-g-14",
    ),
    "clip_vit_bigg_14": _clip(
        _vit(14, 1664, 48, 16, 8192),
        "gelu",
        1280,
        TEXT_BIGG,
        preset="clip_vit_bigg_14_laion2b_39b_b160k",
        open_clip="ViT-bigG-14",
    ),
    "clip_vit_b_32_openai": _clip(
        B32, "quick_gelu", 512, TEXT_B, preset="clip_vit_base_patch32", open_clip="ViT-B-32-quickgelu"
    ),
    "clip_vit_b_16_openai": _clip(
        B16, "quick_gelu", 512, TEXT_B, preset="clip_vit_base_patch16", open_clip="ViT-B-16-quickgelu"
    ),
    "clip_vit_l_14_openai": _clip(
        L14, "quick_gelu", 768, TEXT_L, preset="clip_vit_large_patch14", open_clip="ViT-L-14-quickgelu"
    ),
    "clip_vit_l_14_336_openai": _clip(
        L14,
        "quick_gelu",
        768,
        TEXT_L,
        image_size_px=336,
        preset="clip_vit_large_patch14_336",
        open_clip="ViT-L-14-336-quickgelu",
    ),
    "clip_vit_h_14_quickgelu": _clip(
        _vit(14, 1280, 32, 16, 5120), "quick_gelu", 1024, TEXT_H, open_clip="ViT-H-14-quickgelu"
    ),
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
DINOV2 = {f"dinov2_{size}": _dinov2(dims, f"dinov2_{size}") for size, dims in _DINO_SIZES.items()} | {
    f"dinov2_with_registers_{size}": _dinov2(
        {**dims, "num_register_tokens": 4}, f"dinov2_with_registers_{size}"
    )
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
    name: Entry(
        family=family,
        architecture=architecture,
        image_size_px=px,
        pooling="mean",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        preset=preset,
    )
    for name, (family, architecture, px, preset) in convnets.NETWORKS.items()
}

CATALOGUE: dict[str, Entry] = CLIP | SIGLIP | DINOV2 | VIT | CONVOLUTIONAL


def find(name: str, architecture: dict[str, Any] | None = None) -> Entry:
    """The entry of a catalogue name or of KerasHub's preset name, with some dimensions replaced.

    Raises:
        BadInput: an unknown name, or a dimension that the family does not have (the nearest are named).
    """
    by_preset = {entry.preset: entry for entry in CATALOGUE.values() if entry.preset}
    entry = CATALOGUE.get(name) or by_preset.get(name)
    if entry is None:
        known = sorted(CATALOGUE)
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.3) or known
        raise BadInput(
            f"encoder.name: expected keras_file:PATH or a name of the catalogue, got {name!r}; "
            f"nearest: {', '.join(near)}"
        )
    extra = {"projection_dim"} if entry.family == "clip" else set()
    for key in architecture or {}:
        if key not in entry.architecture.keys() | extra:
            known = list(entry.architecture)
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known
            raise BadInput(f"encoder.architecture: {entry.family} has no {key!r}; nearest: {', '.join(near)}")
    return replace(entry, architecture={**entry.architecture, **(architecture or {})})
