"""How far KerasHub's towers with converted weights are from open_clip's, on the same pixels and tokens.

open_clip makes the model with random weights (every tensor is disturbed: fresh biases are 0 and would hide a mistake).
Its state goes to a file, and the file through the same import as a user's checkpoint.
"""

import gc
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline import config
from pipeline.console import Progress, table
from pipeline.errors import BadInput
from pipeline.models import catalogue, encoders
from pipeline.models.text import encoder as text_encoder
from pipeline.models.weights import files, load
from pipeline.models.weights.variables import float_variables

USUAL = ("clip_vit_b_32", "clip_vit_b_32_openai", "clip_vit_l_14", "siglip_base_patch16_224", "clip_vit_h_14")
LARGEST_ERROR = 1e-4


@dataclass(frozen=True)
class Row:
    """One tower of one model, compared."""

    model: str
    tower: str  # image | text
    tensors: int  # how many were converted
    blocks: int  # how many intermediate outputs were compared
    error: float  # largest |ours − open_clip's| over the largest |open_clip's|, worst of embedding and blocks
    where: str  # the output that the error is of


@dataclass(frozen=True)
class Narrowed:
    """A smaller model: open_clip's arguments, and the dimensions that replace the catalogue's."""

    open_clip: dict[str, Any]
    image: dict[str, Any]
    text: dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """open_clip's answers."""

    pixels: np.ndarray  # float32 [B, S, S, 3]
    tokens: np.ndarray  # int32 [B, L]
    image: dict[str, np.ndarray]  # name of the output → array: "embedding" and "block_1" …
    text: dict[str, np.ndarray]
    activations: tuple[str, str]  # (image tower's, text tower's) as KerasHub names them


def main(names: Sequence[str]) -> None:
    """Prints the table, of the usual models without names; BadInput for a difference above the limit."""
    names = names or USUAL
    print(f"import-weights: compares {', '.join(names)} with open_clip on random weights", flush=True)
    progress = Progress("import-weights", len(names), "models")
    rows: list[Row] = []
    for name in names:
        rows += compare(name)
        progress.add(1)
    header = ["model", "tower", "tensors", "blocks", "worst relative error", "at"]
    cells = [(row.model, row.tower, row.tensors, row.blocks, f"{row.error:.2e}", row.where) for row in rows]
    print(table(header, cells, left=2))
    worst = max(row.error for row in rows)
    if worst > LARGEST_ERROR:
        raise BadInput(f"parity: expected at most {LARGEST_ERROR:g}, the worst is {worst:.2e}")
    print(f"import-weights: {len(names)} models agree with open_clip, worst relative error {worst:.2e}")


def compare(name: str, images: int = 2, narrowed: Narrowed | None = None) -> list[Row]:
    """Both towers of one model of the catalogue, or of a smaller one; BadInput where open_clip has no such model."""
    entry = catalogue.find(name)
    if not entry.open_clip:
        raise BadInput(f"parity: open_clip has no {name}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "open_clip.safetensors"
        reference = _run_open_clip(entry, images, narrowed, checkpoint)
        gc.collect()  # torch's model goes before Keras' comes: ViT-H/14 is 4 GB
        image_activation, text_activation = reference.activations
        image_sizes = {**(narrowed.image if narrowed else entry.architecture), "activation": image_activation}
        image = _compare_image(name, entry, f"open_clip:{checkpoint}", image_sizes, reference)
        gc.collect()
        text_sizes = {**entry.text, **(narrowed.text if narrowed else {}), "activation": text_activation}
        return [image, _compare_text(name, entry, checkpoint, text_sizes, reference)]


def _compare_image(name: str, entry: catalogue.Entry, spec: str, sizes: dict[str, Any], reference: Reference) -> Row:
    side, pooling = reference.pixels.shape[1], entry.facts.joint_pooling
    encoder = encoders.build(config.Encoder(name, spec, image_size_px=side, pooling=pooling, architecture=sizes))
    layers = [encoder.model.get_layer(layer).output for layer in encoder.taps.values()]
    outputs = keras.Model(encoder.model.inputs[0], [encoder.model.outputs[0], *layers])(reference.pixels)
    ours = {name: value.numpy() for name, value in zip(["embedding", *encoder.taps], outputs, strict=True)}
    return _row(name, "image", len(float_variables(encoder.model)), ours, reference.image)


def _compare_text(
    name: str, entry: catalogue.Entry, checkpoint: Path, sizes: dict[str, Any], reference: Reference
) -> Row:
    tower = text_encoder.build_tower(entry.family, sizes)
    load.convert_text(files.read_checkpoint(checkpoint), tower, entry.family, sizes)
    inside = tower.get_layer("text_encoder")
    blocks = keras.Model(inside.inputs, [block.output for block in inside.encoder_layers])
    found = blocks({"token_ids": reference.tokens})
    ours = {"embedding": tower(reference.tokens).numpy()}
    ours |= {f"block_{i}": value.numpy() for i, value in enumerate(found, 1)}
    return _row(name, "text", len(float_variables(tower)), ours, reference.text)


def _row(name: str, tower: str, tensors: int, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Row:
    errors = {key: relative_error(ours[key], theirs[key]) for key in theirs}
    where = max(errors, key=lambda key: errors[key])
    return Row(name, tower, tensors, len(theirs) - 1, errors[where], where)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest value; infinite where shapes differ or something is not finite."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _run_open_clip(entry: catalogue.Entry, images: int, narrowed: Narrowed | None, checkpoint: Path) -> Reference:
    open_clip = files.import_open_clip()
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = _make(open_clip, entry, narrowed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    random = np.random.default_rng(0)
    side = model.visual.image_size
    side = side[0] if isinstance(side, tuple) else side
    pixels = random.normal(size=(images, side, side, 3)).astype(np.float32)
    words = model.text if hasattr(model, "text") else model
    tokens = random.integers(1, words.vocab_size - 1, (images, words.context_length)).astype(np.int32)
    ends = random.integers(4, words.context_length, images)
    tokens[np.arange(images), ends] = words.vocab_size - 1
    visual, text_blocks = model.visual, words.transformer.resblocks
    image_blocks = visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks
    with torch.no_grad():
        channels_first = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        image = _with_blocks(image_blocks, lambda: model.encode_image(channels_first))
        text = _with_blocks(text_blocks, lambda: model.encode_text(torch.from_numpy(tokens).long()))
    mlp = image_blocks[0].mlp
    image_activation = _activation(mlp.act if hasattr(mlp, "act") else mlp.gelu)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, checkpoint)
    return Reference(pixels, tokens, image, text, (image_activation, _activation(text_blocks[0].mlp.gelu)))


def _make(open_clip: Any, entry: catalogue.Entry, narrowed: Narrowed | None) -> Any:
    if narrowed is None:
        quiet = logging.getLogger()
        level = quiet.level
        quiet.setLevel(logging.ERROR)  # it warns that the weights are random
        try:
            return open_clip.create_model(entry.open_clip, pretrained=None)
        finally:
            quiet.setLevel(level)
    kind = open_clip.CLIP if entry.family == "clip" else open_clip.CustomTextCLIP
    return kind(**narrowed.open_clip)


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
