"""Steps that `guie plan`'s arithmetic is held against: each a run of one phase, small enough for XLA on a CPU."""

from dataclasses import dataclass
from typing import Any

from pipeline.config import Embedder, Encoder, Keep, Loss, Optimizer, Phase, Run, Train

SMALL = {"patch_size": 8, "hidden_dim": 96, "num_layers": 2, "num_heads": 4, "intermediate_dim": 384}
WIDE = {**SMALL, "hidden_dim": 64, "num_heads": 2, "intermediate_dim": 128}
DEEP = {**SMALL, "hidden_dim": 64, "num_layers": 6, "num_heads": 4, "intermediate_dim": 256}
FAT = {**SMALL, "hidden_dim": 192, "num_heads": 6, "intermediate_dim": 768}
SIDE = 64


@dataclass(frozen=True)
class Case:
    run: Run
    classes: int = 50
    images: int = 4
    alone: bool = False  # whether the gradients are compiled alone, too


def case(
    encoder: dict[str, Any], phase: dict[str, Any] | None = None, *, images: int = 4, classes: int = 50,
    loss: dict[str, Any] | None = None, optimizer: dict[str, Any] | None = None, alone: bool = False,
) -> Case:  # fmt: skip
    chosen = Phase(**{"name": "p", "trainable": "all", "batch_size": images, **(phase or {})})
    run = Run(
        encoder=Encoder(**{"name": "clip_vit_b_32", "weights": "none", "image_size_px": SIDE, **encoder}),
        embedder=Embedder(),
        train=Train(
            phases=[chosen], loss=Loss(**(loss or {})), optimizer=Optimizer(**{"clip_norm": 1.0, **(optimizer or {})})
        ),
    )
    return Case(run, classes, images, alone)


CLIP = {"architecture": SMALL}
CASES = {
    "clip": case(CLIP, alone=True),
    "checkpointed": case({**CLIP, "checkpointing": True}),
    "deep": case({"architecture": DEEP}, images=8),
    "deep, checkpointed": case({"architecture": DEEP, "checkpointing": True}, images=16, alone=True),
    "last 3 of 6 blocks": case({"architecture": DEEP}, {"trainable": "last 3 blocks"}, images=8),
    "head locked, 48 px": case(
        {**CLIP, "checkpointing": True}, {"trainable": "encoder", "image_size_px": 48}, images=8
    ),
    "head alone": case(CLIP, {"trainable": "head"}),
    "quick-GELU, overlap": case(
        {"name": "clip_vit_b_32_openai", "pooling": "class_token", "architecture": WIDE},
        {"patch_overlap_px": 4}, loss={"subcenters": 3},
    ),
    "siglip": case(
        {"name": "siglip_base_patch16_224", "architecture": WIDE, "checkpointing": True}, loss={"subcenters": 3}
    ),
    "dinov2, gated": case({
        "name": "dinov2_with_registers_small", "architecture": {**WIDE, "use_swiglu_ffn": True}, "checkpointing": True,
    }),
    "dinov3, gated": case({"name": "dinov3_small_plus", "architecture": WIDE, "checkpointing": True}),
    "pe_core": case({"name": "pe_core_b_16_224", "architecture": {**WIDE, "pooling_dim": 256}}),
    "vit": case({"name": "vit_base_patch16_224_imagenet", "architecture": WIDE, "pooling": "mean"}),
    "17,691 classes": case(CLIP, classes=17_691, images=16),
    "1 image, sgd": case({"architecture": FAT}, images=1, optimizer={"name": "sgd", "clip_norm": None}),
    "adafactor": case({"architecture": FAT}, images=16, optimizer={"name": "adafactor"}),
    "kept weights, first moment in bfloat16": case(
        {"architecture": FAT}, {"keep": Keep(weights=0.1)}, optimizer={"moments": "bfloat16"}
    ),
    "in two pieces": case(CLIP, images=8, optimizer={"accumulate_steps": 2}),
}  # fmt: skip
