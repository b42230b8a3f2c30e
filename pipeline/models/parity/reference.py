"""What open_clip makes of pixels, tokens and photographs; of DINOv3, which open_clip does not have, timm.

Weights are random, and every tensor is disturbed: fresh biases are 0 and would hide a mistake.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models.known.entries import Entry
from pipeline.models.text.tokenizers import XLM_V_END
from pipeline.models.weights import files


@dataclass(frozen=True)
class Narrowed:
    """A smaller model: its arguments, and the dimensions that replace the catalogue's."""

    reference: dict[str, Any]  # of open_clip's class; of timm's model
    image: dict[str, Any]
    text: dict[str, Any]
    image_size_px: int = 32


@dataclass(frozen=True)
class Reference:
    """The answers."""

    pixels: np.ndarray  # float32 [B, S, S, 3]
    tokens: np.ndarray  # int32 [B, L]; empty without a text tower
    image: dict[str, np.ndarray]  # name of the output → array: "embedding" and "block_1" …
    text: dict[str, np.ndarray]
    activations: tuple[str, str]  # (image tower's, text tower's) as KerasHub names them
    prepared: np.ndarray = field(default_factory=lambda: np.empty(0))  # photographs by its transform, float32
    photographs: np.ndarray = field(default_factory=lambda: np.empty(0))  # and their embeddings, float32 [N, D]


def ask(
    entry: Entry, images: int, narrowed: Narrowed | None, checkpoint: Path, photographs: Sequence[Path] = ()
) -> Reference:
    """Makes the model, writes its state to `checkpoint`, and runs both towers, and its own transform on photographs."""
    open_clip = files.import_open_clip()
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = (_of_timm(entry, narrowed) if entry.timm else _of_open_clip(open_clip, entry, narrowed)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    encode = model if entry.timm else model.encode_image
    visual = model if entry.timm else model.visual
    random = np.random.default_rng(0)
    side = narrowed.image_size_px if narrowed else entry.image_size_px
    pixels = random.normal(size=(images, side, side, 3)).astype(np.float32)
    trunk = getattr(visual, "trunk", visual)
    image_blocks = trunk.blocks if hasattr(trunk, "blocks") else trunk.transformer.resblocks

    def of_image(channels_last: np.ndarray) -> Any:
        return encode(torch.from_numpy(channels_last.transpose(0, 3, 1, 2).copy()))

    tokens, text, text_activation = np.empty((0, 0), np.int32), {}, ""
    with torch.no_grad():
        image = _with_blocks(image_blocks, lambda: of_image(pixels))
        if not entry.timm:
            words = model.text if hasattr(model, "text") else model
            tokens, text_blocks = _drawn_tokens(entry, words, images, random), words.transformer.resblocks
            text = _with_blocks(text_blocks, lambda: model.encode_text(torch.from_numpy(tokens).long()))
            text_activation = _activation(text_blocks[0].mlp.gelu)
        prepared = _prepared(open_clip, entry, side, photographs)
        embeddings = of_image(prepared).numpy() if len(prepared) else prepared
    mlp = image_blocks[0].mlp
    activation = _activation(mlp.act if hasattr(mlp, "act") else mlp.gelu if hasattr(mlp, "gelu") else None)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, checkpoint)
    return Reference(pixels, tokens, image, text, (activation, text_activation), prepared, embeddings)


def _drawn_tokens(entry: Entry, words: Any, count: int, random: np.random.Generator) -> np.ndarray:
    """int32 [count, L], each with its end token somewhere."""
    first, end = (XLM_V_END + 1, XLM_V_END) if entry.family == "metaclip2" else (1, words.vocab_size - 1)
    tokens = random.integers(first, words.vocab_size - 1, (count, words.context_length)).astype(np.int32)
    tokens[np.arange(count), random.integers(4, words.context_length, count)] = end
    return tokens


def _of_timm(entry: Entry, narrowed: Narrowed | None) -> Any:
    import timm

    return timm.create_model(
        entry.timm, pretrained=False, num_classes=0, global_pool="token", **(narrowed.reference if narrowed else {})
    )


def _of_open_clip(open_clip: Any, entry: Entry, narrowed: Narrowed | None) -> Any:
    if narrowed is None:
        quiet = logging.getLogger()
        level = quiet.level
        quiet.setLevel(logging.ERROR)  # it warns that the weights are random
        try:
            return open_clip.create_model(entry.open_clip, pretrained=None)
        finally:
            quiet.setLevel(level)
    kind = open_clip.CLIP if entry.family in ("clip", "metaclip2") else open_clip.CustomTextCLIP
    return kind(**narrowed.reference)


def _prepared(open_clip: Any, entry: Entry, side: int, photographs: Sequence[Path]) -> np.ndarray:
    """Photographs → float32 [N, S, S, 3], normalised, by the transform that the published weights come with."""
    if not photographs:
        return np.empty(0)
    from PIL import Image

    if entry.timm:  # Meta's: a square by torchvision's default, on Pillow's images
        facts = {"mean": entry.facts.mean, "std": entry.facts.std, "interpolation": "bilinear", "resize_mode": "squash"}
    else:
        tag = next(iter(open_clip.list_pretrained_tags_by_model(entry.open_clip.removesuffix("-quickgelu"))))
        facts = files.known_tag(entry.open_clip, tag)
    known = {key: facts[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    transform = open_clip.transform.image_transform(side, is_train=False, **known)
    return np.stack([transform(Image.open(path)).numpy().transpose(1, 2, 0) for path in photographs])


def _with_blocks(blocks: Any, run: Any) -> dict[str, np.ndarray]:
    """What `run` returns as "embedding", and each block's output [B, T, D] as "block_1" …."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, _block: Any, _input: Any, output: Any) -> None:
        found[name] = output.float().numpy()

    hooks = [block.register_forward_hook(partial(keep, f"block_{i}")) for i, block in enumerate(blocks, 1)]
    try:
        return {"embedding": run().float().numpy(), **found}
    finally:
        for hook in hooks:
            hook.remove()


def _activation(layer: Any) -> str:
    kind = type(layer).__name__
    if kind == "QuickGELU":
        return "quick_gelu"
    tanh = kind == "GELUTanh" or getattr(layer, "approximate", "none") == "tanh"  # timm's, torch's
    return "gelu_approximate" if tanh else "gelu"
