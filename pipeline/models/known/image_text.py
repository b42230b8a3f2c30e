"""Encoders with a text tower: CLIP, MetaCLIP 2, PE-Core, SigLIP and SigLIP 2. No TensorFlow."""

from dataclasses import replace
from typing import Any

from pipeline.models.known.entries import Entry, dims, vit


def _clip(
    vision: dict[str, Any], text: tuple[int, int, int], open_clip: str = "", preset: str = "", **more: Any
) -> Entry:
    """`text`: (width, layers, heads). Images are projected to that width; open_clip's name says the activation."""
    width, layers, heads = text
    shared = {"activation": "quick_gelu" if open_clip.endswith("quickgelu") else "gelu", "projection_dim": width}
    of_text = {"vocabulary_size": 49408, **dims(width, layers, heads, 4 * width), "sequence_length": 77}
    return Entry("clip", {**vision, **shared}, preset=preset, open_clip=open_clip, text={**of_text, **shared}, **more)


def _metaclip2(of: Entry, image_size_px: int, preset: str, open_clip: str) -> Entry:
    """MetaCLIP 2 (Chuang et al. 2025): CLIP's towers over XLM-V's 901,629 pieces; at 378 px images are squashed."""
    activation = "quick_gelu" if open_clip.endswith("quickgelu") else "gelu"
    return replace(
        of,
        family="metaclip2",
        architecture={**of.architecture, "activation": activation},
        image_size_px=image_size_px,
        preset=preset,
        open_clip=open_clip,
        text={**of.text, "vocabulary_size": 901_629, "activation": activation},
        differs={"fit": "squash"} if image_size_px == 378 else {},
    )


def _pe_core(
    vision: dict[str, Any], text: tuple[int, int, int], length: int, image_size_px: int, open_clip: str, **more: Any
) -> Entry:
    """PE-Core (Bolya et al. 2025). `text`: (width, layers, heads) over `length` tokens."""
    width, layers, heads = text
    pooled = {"pooling_heads": 8, "pooling_dim": 4 * vision["hidden_dim"], "projection_dim": width}
    rotated = {"reference_grid": image_size_px // vision["patch_size"], "use_class_token": "differs" not in more}
    of_text = {"vocabulary_size": 49408, **dims(width, layers, heads, 4 * width), "sequence_length": length}
    return Entry(
        "pe_core",
        {**vision, "activation": "gelu", **pooled, **rotated},
        image_size_px=image_size_px,
        open_clip=open_clip,
        text={**of_text, "activation": "gelu", "projection_dim": width},
        **more,
    )


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


B16, B32 = vit(16, 768, 12, 12, 3072), vit(32, 768, 12, 12, 3072)
L14, L16 = vit(14, 1024, 24, 16, 4096), vit(16, 1024, 24, 16, 4096)
SO14, SO16 = vit(14, 1152, 27, 16, 4304), vit(16, 1152, 27, 16, 4304)
H14, G14 = vit(14, 1280, 32, 16, 5120), vit(14, 1408, 40, 16, 6144)
BIGG14, GIANT_OPT = vit(14, 1664, 48, 16, 8192), vit(16, 1536, 40, 16, 6144)
TEXT_B, TEXT_L, TEXT_H, TEXT_BIGG = (512, 12, 8), (768, 12, 12), (1024, 24, 16), (1280, 32, 20)

CLIP = {
    # Names without a source are LAION's and later open_clip models, which use GELU; OpenAI's use quick-GELU.
    "clip_tiny": _clip(vit(8, 128, 4, 4, 512), (64, 2, 2), image_size_px=64, default_pooling="class_token"),
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

METACLIP2 = {
    entry.preset: entry
    for entry in (
        _metaclip2(CLIP["clip_vit_h_14"], 224, "metaclip_2_vit_huge_patch14_224", "ViT-H-14-worldwide-quickgelu"),
        _metaclip2(CLIP["clip_vit_h_14"], 378, "metaclip_2_vit_huge_patch14_378", "ViT-H-14-worldwide-378"),
        _metaclip2(CLIP["clip_vit_bigg_14"], 224, "metaclip_2_vit_giant_patch14_224", "ViT-bigG-14-worldwide"),
        _metaclip2(CLIP["clip_vit_bigg_14"], 378, "metaclip_2_vit_giant_patch14_378", "ViT-bigG-14-worldwide-378"),
    )
}

_WITHOUT_CLASS_TOKEN = {"poolings": ("projection", "attention", "mean"), "prefix_tokens": 0}
PE_CORE = {
    "pe_core_t_16_384": _pe_core(vit(16, 192, 12, 3, 768), TEXT_B, 32, 384, "PE-Core-T-16-384"),
    "pe_core_s_16_384": _pe_core(vit(16, 384, 12, 6, 1536), TEXT_B, 32, 384, "PE-Core-S-16-384"),
    "pe_core_b_16_224": _pe_core(B16, TEXT_H, 32, 224, "PE-Core-B-16"),
    "pe_core_l_14_336": _pe_core(L14, TEXT_H, 32, 336, "PE-Core-L-14-336"),
    "pe_core_bigg_14_448": _pe_core(
        vit(14, 1536, 50, 16, 8960), (1280, 24, 20), 72, 448, "PE-Core-bigG-14-448", differs=_WITHOUT_CLASS_TOKEN
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
# KerasHub 0.32 lists it as a comment: it has the name, and no weights to it.
SIGLIP["siglip2_base_patch16_512"] = replace(
    _siglip(B16, 512, "siglip2_base_patch16_512", "ViT-B-16-SigLIP2-512"), preset=""
)

ENTRIES = CLIP | METACLIP2 | PE_CORE | SIGLIP
