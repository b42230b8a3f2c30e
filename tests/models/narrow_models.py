"""Small CLIPs and SigLIPs for tests: open_clip's arguments, and the same in the catalogue's terms."""

from pipeline.models import parity
from pipeline.models.weights import files

IMAGE = {
    "patch_size": 8,
    "hidden_dim": 48,
    "num_layers": 3,
    "num_heads": 3,
    "intermediate_dim": 96,
    "projection_dim": 20,
}
TEXT = {"vocabulary_size": 60, "hidden_dim": 32, "num_layers": 2, "num_heads": 4, "intermediate_dim": 128,
        "projection_dim": 20, "sequence_length": 9}  # fmt: skip
VISION_CFG = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0}
TEXT_CFG = {"context_length": 9, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2}


def narrow_clip(quick_gelu: bool) -> parity.Narrowed:
    arguments = {"embed_dim": 20, "vision_cfg": VISION_CFG, "text_cfg": TEXT_CFG, "quick_gelu": quick_gelu}
    return parity.Narrowed(arguments, IMAGE, TEXT)


def narrow_siglip(tanh: bool) -> parity.Narrowed:
    files.import_open_clip()  # torchvision, which timm imports, needs its operators declared
    import timm
    from timm.models.vision_transformer import VisionTransformer

    name = f"vit_guie_test_siglip_{int(tanh)}"

    def vit_guie_test_siglip(pretrained=False, **kwargs):
        kwargs = {key: value for key, value in kwargs.items() if key in ("img_size", "num_classes")}
        return VisionTransformer(
            patch_size=8, embed_dim=48, depth=3, num_heads=3, mlp_ratio=2.0, class_token=False, global_pool="map",
            act_layer="gelu_tanh" if tanh else None, **{"img_size": 32, "num_classes": 0, **kwargs},
        )  # fmt: skip

    vit_guie_test_siglip.__module__ = "timm.models.vision_transformer"
    timm.models._registry._model_entrypoints[name] = vit_guie_test_siglip
    vision = {"image_size": 32, "timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
    text_cfg = {
        **TEXT_CFG,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    }
    if tanh:
        text_cfg["act_kwargs"] = {"approximate": "tanh"}
    arguments = {"embed_dim": 48, "init_logit_bias": -10.0, "vision_cfg": vision, "text_cfg": text_cfg}
    image = {key: value for key, value in IMAGE.items() if key != "projection_dim"}
    return parity.Narrowed(arguments, image, {**TEXT, "projection_dim": 48})
