"""Encoders of images alone: DINOv2, DINOv3, ViT and the convolutional ones. No TensorFlow."""

from pipeline.models.known import convnets
from pipeline.models.known.entries import Entry, vit

_DINO_SIZES = {
    "small": vit(14, 384, 12, 6, 1536),
    "base": vit(14, 768, 12, 12, 3072),
    "large": vit(14, 1024, 24, 16, 4096),
    "giant": vit(14, 1536, 40, 24, 6144, use_swiglu_ffn=True),
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

_SAT = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}  # of satellite images
_DINOV3_SIZES = {
    "small": vit(16, 384, 12, 6, 1536),
    "small_plus": vit(16, 384, 12, 6, 1536, use_gated_mlp=True),
    "base": vit(16, 768, 12, 12, 3072),
    "large": vit(16, 1024, 24, 16, 4096),
    "huge_plus": vit(16, 1280, 32, 20, 5120, use_gated_mlp=True),
    "7b": vit(16, 4096, 40, 32, 8192, use_gated_mlp=True, use_query_bias=False, use_value_bias=False),
}
DINOV3 = {
    f"dinov3_{size}{'_sat493m' * (trained_on == 'sat493m')}": Entry(
        "dinov3",
        {"num_register_tokens": 4, "use_gated_mlp": False, "use_query_bias": True, "use_value_bias": True}
        | _DINOV3_SIZES[size],
        image_size_px=256,
        preset=f"dinov3_vit_{size}_{trained_on}",
        timm=f"vit_{size}_patch16_dinov3{'_qkvb' * (size != '7b')}",
        differs=_SAT if trained_on == "sat493m" else {},
    )
    for trained_on, sizes in (("lvd1689m", _DINOV3_SIZES), ("sat493m", ("large", "7b")))
    for size in sizes
}

_VIT_SIZES = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096), "huge": (1280, 32, 16, 5120)}
VIT = {
    name: Entry(family="vit", architecture=vit(patch, *_VIT_SIZES[size]), image_size_px=px, preset=name)
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

ENTRIES: dict[str, Entry] = DINOV2 | DINOV3 | VIT | CONVOLUTIONAL
