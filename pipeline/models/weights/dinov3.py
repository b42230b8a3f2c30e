"""DINOv3's tensors as Meta, Hugging Face and timm name them → KerasHub's, one rule a tensor. Pure numpy.

timm's files without biases of queries and values mean zeros: those of the published S to H+ are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.models.weights.open_clip import Rule, Transform, convolution, dense, norm, same

# What only pretraining uses, and what is computed: timm drops it, Meta's files hold it.
UNUSED = ("mask_token", ".bias_mask", "periods")
EMBEDDINGS, BLOCKS = "embeddings", "encoder/layers_{i}"


def is_unused(name: str) -> bool:
    """Whether a tensor of a file is no weight of the features."""
    return name.endswith(UNUSED) or name.startswith("local_cls_norm.")


def rules(architecture: Mapping[str, Any], state: Mapping[str, Any]) -> list[Rule]:
    """Rules for a state of any of the three."""
    if "embeddings.cls_token" in state:
        return _hugging_face(architecture)
    meta, gated = "storage_tokens" in state, architecture["use_gated_mlp"]
    if gated:
        gate, up, down = ("w1", "w2", "w3") if meta else ("fc1_g", "fc1_x", "fc2")
    else:
        gate, up, down = "", "fc1", "fc2"
    found = _ends("cls_token", "storage_tokens" if meta else "reg_token", "patch_embed.proj")
    found += norm("layernorm", "norm")
    for i in range(architecture["num_layers"]):
        to, of = BLOCKS.format(i=i), f"blocks.{i}"
        found += [
            *norm(f"{to}/norm1", f"{of}.norm1"),
            *_stacked(f"{to}/attention", f"{of}.attn", architecture, state),
            *dense(f"{to}/attention/o_proj", f"{of}.attn.proj"),
            (f"{to}/layer_scale1/lambda1", f"{of}.ls1.gamma" if meta else f"{of}.gamma_1", same),
            *norm(f"{to}/norm2", f"{of}.norm2"),
            *(dense(f"{to}/mlp/gate_proj", f"{of}.mlp.{gate}") if gated else ()),
            *dense(f"{to}/mlp/up_proj", f"{of}.mlp.{up}"),
            *dense(f"{to}/mlp/down_proj", f"{of}.mlp.{down}"),
            (f"{to}/layer_scale2/lambda1", f"{of}.ls2.gamma" if meta else f"{of}.gamma_2", same),
        ]
    return found


def _hugging_face(architecture: Mapping[str, Any]) -> list[Rule]:
    at = "embeddings."
    found = _ends(f"{at}cls_token", f"{at}register_tokens", f"{at}patch_embeddings") + norm("layernorm", "norm")
    for i in range(architecture["num_layers"]):
        to, of = BLOCKS.format(i=i), f"layer.{i}"
        for part, biased in zip("qkvo", (*_biased(architecture), True), strict=True):
            both = dense(f"{to}/attention/{part}_proj", f"{of}.attention.{part}_proj")
            found += both if biased else both[:1]
        for part in ("gate", "up", "down") if architecture["use_gated_mlp"] else ("up", "down"):
            found += dense(f"{to}/mlp/{part}_proj", f"{of}.mlp.{part}_proj")
        for part in ("1", "2"):
            found += norm(f"{to}/norm{part}", f"{of}.norm{part}")
            found.append((f"{to}/layer_scale{part}/lambda1", f"{of}.layer_scale{part}.lambda1", same))
    return found


def _ends(class_token: str, registers: str, patches: str) -> list[Rule]:
    return [
        (f"{EMBEDDINGS}/cls_token", class_token, same),
        (f"{EMBEDDINGS}/mask_token", class_token, np.zeros_like),  # pretraining's
        (f"{EMBEDDINGS}/register_tokens", registers, same),
        (f"{EMBEDDINGS}/patch_embeddings/projection/kernel", f"{patches}.weight", convolution),
        (f"{EMBEDDINGS}/patch_embeddings/projection/bias", f"{patches}.bias", same),
    ]


def _biased(architecture: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Whether queries, keys and values have a bias."""
    return architecture["use_query_bias"], False, architecture["use_value_bias"]


def _stacked(to: str, of: str, architecture: Mapping[str, Any], state: Mapping[str, Any]) -> list[Rule]:
    """Query, key and value of one matrix [3D, D]; Meta stacks their biases too, timm keeps two."""
    width: int = architecture["hidden_dim"]
    found: list[Rule] = []

    def part(number: int) -> Transform:  # of [3D] or [3D, D]; a kernel is turned
        return lambda x: x.reshape(3, width, *x.shape[1:])[number].T

    def zeros(x: np.ndarray) -> np.ndarray:
        return np.zeros(width, np.float32)

    for number, (letter, biased) in enumerate(zip("qkv", _biased(architecture), strict=True)):
        name = f"{to}/{letter}_proj"
        found.append((f"{name}/kernel", f"{of}.qkv.weight", part(number)))
        if biased and f"{of}.qkv.bias" in state:
            found.append((f"{name}/bias", f"{of}.qkv.bias", part(number)))
        elif biased and f"{of}.{letter}_bias" in state:
            found.append((f"{name}/bias", f"{of}.{letter}_bias", same))
        elif biased:
            found.append((f"{name}/bias", f"{of}.qkv.weight", zeros))
    return found
