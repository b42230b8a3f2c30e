"""open_clip's tensors → KerasHub's, one rule a tensor, for image and text towers. Pure numpy.

A rule names the tensor that it fills, the one it reads and how: torch keeps dense kernels as [out, in] and
query, key and value in one matrix; Keras keeps [in, out], and attention by head.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.errors import BadInput

Transform = Callable[[Any], Any]  # array → array
Rule = tuple[str, str, Transform]  # KerasHub's name, open_clip's name, how

# In open_clip's state but no weight of a tower: the scale and bias of the logits, and attention masks.
NOT_WEIGHTS = ("logit_scale", "logit_bias", "attn_mask", "text.attn_mask")


def image_rules(family: str, architecture: Mapping[str, Any]) -> list[Rule]:
    """Rules for an image tower; projection and attention pooling are among those of a family that has them."""
    if family in ("siglip", "siglip2", "pe_core"):
        return _timm_rules(family, architecture)
    width, layers, heads = (architecture[key] for key in ("hidden_dim", "num_layers", "num_heads"))
    rules: list[Rule] = [
        ("embedding/class_embedding", "visual.class_embedding", same),
        ("embedding/patch_embedding/kernel", "visual.conv1.weight", convolution),
        ("embedding/position_embedding/embeddings", "visual.positional_embedding", same),
        *norm("pre_layer_norm", "visual.ln_pre"),
        *norm("layer_norm", "visual.ln_post"),
        ("projection/kernel", "visual.proj", same),
    ]
    for i in range(layers):
        rules += _block(f"encoder_block_{i}", f"visual.transformer.resblocks.{i}", width, heads, CLIP_BLOCK)
    return rules


def _timm_rules(family: str, architecture: Mapping[str, Any]) -> list[Rule]:
    """Rules for the towers that open_clip takes from timm: SigLIP's and PE-Core's."""
    trunk, siglip = "visual.trunk", family != "pe_core"
    width, layers, heads = (architecture[key] for key in ("hidden_dim", "num_layers", "num_heads"))
    pooling_heads = architecture.get("pooling_heads", heads)
    table = "embedding/position_embedding" + "/embeddings" * siglip
    rules: list[Rule] = [
        ("embedding/patch_embedding/kernel", f"{trunk}.patch_embed.proj.weight", convolution),
        (table, f"{trunk}.pos_embed", _first),
        *norm("post_layer_norm" if siglip else "layer_norm", f"{trunk}.norm"),
        ("head/probe", f"{trunk}.attn_pool.latent", same),
        *_heads("head/attention/query", f"{trunk}.attn_pool.q", width, pooling_heads, 0, 1),
        *_heads("head/attention/key", f"{trunk}.attn_pool.kv", width, pooling_heads, 0, 2),
        *_heads("head/attention/value", f"{trunk}.attn_pool.kv", width, pooling_heads, 1, 2),
        *_attention_output("head/attention/attention_output", f"{trunk}.attn_pool.proj", width, pooling_heads),
        *norm("head/layernorm", f"{trunk}.attn_pool.norm"),
        *dense("head/mlp/fc1", f"{trunk}.attn_pool.mlp.fc1"),
        *dense("head/mlp/fc2", f"{trunk}.attn_pool.mlp.fc2"),
    ]
    if siglip:
        rules.append(("embedding/patch_embedding/bias", f"{trunk}.patch_embed.proj.bias", same))
    else:
        rules += [*norm("pre_layer_norm", f"{trunk}.norm_pre"), *dense("projection", f"{trunk}.head")]
        if architecture["use_class_token"]:
            rules.append(("embedding/class_embedding", f"{trunk}.cls_token", lambda x: x[0, 0]))
    norm_1, attention, norm_2, dense_1, dense_2 = SIGLIP_BLOCK if siglip else CLIP_BLOCK
    for i in range(layers):
        to, of = f"encoder_block_{i}", f"{trunk}.blocks.{i}"
        rules += [
            *norm(f"{to}/{norm_1}", f"{of}.norm1"),
            *_qkv(f"{to}/{attention}", f"{of}.attn.qkv.weight", f"{of}.attn.qkv.bias", width, heads),
            *_attention_output(f"{to}/{attention}/attention_output", f"{of}.attn.proj", width, heads),
            *norm(f"{to}/{norm_2}", f"{of}.norm2"),
            *dense(f"{to}/{dense_1}", f"{of}.mlp.fc1"),
            *dense(f"{to}/{dense_2}", f"{of}.mlp.fc2"),
        ]
    return rules


def text_rules(family: str, text: Mapping[str, Any], state: Mapping[str, Any]) -> list[Rule]:
    """Rules for a text tower. open_clip keeps CLIP's without a prefix and others below `text.`."""
    width, layers, heads = (text[key] for key in ("hidden_dim", "num_layers", "num_heads"))
    at = "text." if "text.token_embedding.weight" in state else ""
    rules: list[Rule] = [
        ("embedding/token_embedding/embeddings", f"{at}token_embedding.weight", same),
        ("embedding/position_embedding/embeddings", f"{at}positional_embedding", same),
    ]
    siglip = family in ("siglip", "siglip2")
    names, last = (SIGLIP_BLOCK, "post_layer_norm") if siglip else (CLIP_BLOCK, "layer_norm")
    for i in range(layers):
        rules += _block(f"encoder_block_{i}", f"{at}transformer.resblocks.{i}", width, heads, names)
    rules += norm(last, f"{at}ln_final")
    if siglip:
        return [*rules, *dense("head", f"{at}text_projection")]
    return [*rules, ("text_projection/kernel", f"{at}text_projection", same)]


def convert(
    rules: list[Rule], state: Mapping[str, Any], prefix: str, what: str, unused: Callable[[str], bool] | None = None
) -> dict[str, np.ndarray]:
    """Applies all rules to `state`; BadInput names the tensors that are missing or left over.

    Names that begin with `prefix` are this tower's: "visual." for the image tower, "" for all others. `unused` tells of
    a name whether it is no weight; without it, those of open_clip.
    """
    unused = unused or NOT_WEIGHTS.__contains__
    sources = {source for _, source, _ in rules}
    missing = sorted(sources - state.keys())
    mine = (key for key in state if key.startswith(prefix) and (prefix or not key.startswith("visual.")))
    left_over = sorted(key for key in mine if key not in sources and not unused(key))
    if missing or left_over:
        found = _listed("lacks", missing) + _listed("has besides", left_over)
        raise BadInput(f"{what}: is of another architecture: {found}; name the encoder it was trained as")
    converted = {}
    for name, source, transform in rules:
        try:
            converted[name] = np.ascontiguousarray(transform(np.asarray(state[source], np.float32)))
        except ValueError:
            shape = f"the shape {list(np.shape(state[source]))}, which does not fit {name}"
            raise BadInput(f"{what}: {source} has {shape}; name the encoder it was trained as") from None
    return converted


def _listed(verb: str, names: list[str], most: int = 4) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{verb} {', '.join(names[:most])}{more} "


# KerasHub's names for the five parts of a block of open_clip's transformer.
CLIP_BLOCK = ("layer_norm_1", "attention", "layer_norm_2", "dense_1", "dense_2")
SIGLIP_BLOCK = ("layer_norm1", "self_attn", "layer_norm2", "mlp/fc1", "mlp/fc2")


def _block(to: str, of: str, width: int, heads: int, names: tuple[str, ...]) -> list[Rule]:
    """A block of open_clip's transformer; `names` are KerasHub's for its five parts, in order."""
    norm_1, attention, norm_2, dense_1, dense_2 = (f"{to}/{name}" for name in names)
    return [
        *norm(norm_1, f"{of}.ln_1"),
        *_qkv(attention, f"{of}.attn.in_proj_weight", f"{of}.attn.in_proj_bias", width, heads),
        *_attention_output(f"{attention}/attention_output", f"{of}.attn.out_proj", width, heads),
        *norm(norm_2, f"{of}.ln_2"),
        *dense(dense_1, f"{of}.mlp.c_fc"),
        *dense(dense_2, f"{of}.mlp.c_proj"),
    ]


def same(x: np.ndarray) -> np.ndarray:
    return x


def _first(x: np.ndarray) -> np.ndarray:  # [1, T, D] → [T, D]
    return x[0]


def transposed(x: np.ndarray) -> np.ndarray:  # [out, in] → [in, out]
    return x.T


def convolution(x: np.ndarray) -> np.ndarray:  # [out, in, h, w] → [h, w, in, out]
    return x.transpose(2, 3, 1, 0)


def norm(to: str, of: str) -> list[Rule]:
    return [(f"{to}/gamma", f"{of}.weight", same), (f"{to}/beta", f"{of}.bias", same)]


def dense(to: str, of: str) -> list[Rule]:
    return [(f"{to}/kernel", f"{of}.weight", transposed), (f"{to}/bias", f"{of}.bias", same)]


def _qkv(to: str, weight: str, bias: str, width: int, heads: int) -> Iterator[Rule]:
    for index, part in enumerate(("query", "key", "value")):
        yield f"{to}/{part}/kernel", weight, _head_kernel(width, heads, index, 3)
        yield f"{to}/{part}/bias", bias, _head_bias(width, heads, index, 3)


def _heads(to: str, of: str, width: int, heads: int, index: int, stacked: int) -> list[Rule]:
    return [
        (f"{to}/kernel", f"{of}.weight", _head_kernel(width, heads, index, stacked)),
        (f"{to}/bias", f"{of}.bias", _head_bias(width, heads, index, stacked)),
    ]


def _head_kernel(width: int, heads: int, index: int, stacked: int) -> Transform:
    """[stacked · D, D] → [D, H, D / H], number `index` of the stacked matrices."""
    return lambda x: x.reshape(stacked, width, width)[index].T.reshape(width, heads, width // heads)


def _head_bias(width: int, heads: int, index: int, stacked: int) -> Transform:
    return lambda x: x.reshape(stacked, heads, width // heads)[index]


def _attention_output(to: str, of: str, width: int, heads: int) -> list[Rule]:
    return [
        (f"{to}/kernel", f"{of}.weight", lambda x: x.T.reshape(heads, width // heads, width)),
        (f"{to}/bias", f"{of}.bias", same),
    ]
