"""Small encoders for tests: open_clip's arguments or timm's, and the same in the catalogue's terms."""

from typing import Any

from pipeline.models.parity.reference import Narrowed
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


def narrow_clip(quick_gelu: bool) -> Narrowed:
    arguments = {"embed_dim": 20, "vision_cfg": VISION_CFG, "text_cfg": TEXT_CFG, "quick_gelu": quick_gelu}
    return Narrowed(arguments, IMAGE, TEXT)


def narrow_metaclip2() -> Narrowed:
    text = {**TEXT_CFG, "pool_type": "eos", "eos_id": 2}
    return Narrowed({"embed_dim": 20, "vision_cfg": VISION_CFG, "text_cfg": text, "quick_gelu": True}, IMAGE, TEXT)


def narrow_siglip(tanh: bool) -> Narrowed:
    files.import_open_clip()  # torchvision, which timm imports, needs its operators declared
    from timm.models.vision_transformer import VisionTransformer

    trunk = {**SIGLIP_TRUNK, "act_layer": "gelu_tanh" if tanh else None}
    vision = {"image_size": 32, "timm_model_name": _registered(VisionTransformer, f"siglip_{int(tanh)}", trunk),
              "timm_pool": "map", "timm_proj": "none"}  # fmt: skip
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
    return Narrowed(arguments, image, {**TEXT, "projection_dim": 48})


def narrow_pe_core(class_token: bool) -> Narrowed:
    files.import_open_clip()
    from timm.models.eva import Eva

    name = _registered(Eva, f"pe_core_{int(class_token)}", pe_core_trunk(class_token))
    vision = {"image_size": 32, "timm_model_name": name, "timm_pool": "map", "timm_proj": None}
    arguments = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": TEXT_CFG}
    pooled = {"pooling_heads": 8, "pooling_dim": 192, "reference_grid": 3, "use_class_token": class_token}
    return Narrowed(arguments, {**IMAGE, **pooled}, TEXT)


def narrow_dinov3(gated: bool) -> Narrowed:
    image = {key: value for key, value in IMAGE.items() if key != "projection_dim"}
    kept = {"num_register_tokens": 4, "use_gated_mlp": gated, "use_query_bias": True, "use_value_bias": True}
    return Narrowed({**SMALL_TRUNK, "img_size": 32}, {**image, **kept}, {})


SMALL_TRUNK: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
SIGLIP_TRUNK = {**SMALL_TRUNK, "class_token": False, "global_pool": "map"}


def pe_core_trunk(class_token: bool) -> dict[str, Any]:
    """Arguments of timm's Eva; its rotations are scaled to another grid than that of 32 px."""
    from functools import partial

    from timm.layers import LayerNorm

    return {
        **SMALL_TRUNK, "global_pool": "map", "attn_type": "rope", "class_token": class_token,
        "use_pre_transformer_norm": True, "use_rot_pos_emb": True, "ref_feat_shape": (3, 3),
        "rope_grid_offset": float(class_token), "rope_grid_indexing": "xy", "attn_pool_num_heads": 8,
        "attn_pool_mlp_ratio": 4.0, "norm_layer": partial(LayerNorm, eps=1e-5),
    }  # fmt: skip


def _registered(kind: Any, name: str, arguments: dict[str, Any]) -> str:
    """The name under which timm makes a small one of 32 px."""
    import timm

    name = f"vit_guie_test_{name}"

    def make(pretrained=False, **kwargs):
        given = {key: value for key, value in kwargs.items() if key in ("img_size", "num_classes")}
        return kind(**arguments, **{"img_size": 32, "num_classes": 0, **given})

    make.__module__ = "timm.models.vision_transformer"
    timm.models._registry._model_entrypoints[name] = make
    return name
