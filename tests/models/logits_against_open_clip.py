"""Logits of images and texts, ours and open_clip's, with the same random weights.

`python -m tests.models.logits_against_open_clip` compares a whole ViT-B/32; the suite narrowed models.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pipeline.config import Encoder, ImageTextModel
from pipeline.data.preprocessing import normalize
from pipeline.models import catalogue
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.weights import files

TEXTS = [
    "",
    "a photo of a cat",
    "A photo of a DOG!",
    "two  men\ton a beach",
    "“quotes” 'here'",
    "emoji 😀",
    "שלום עולם",
    "word " * 10_000,
]
NARROW_TEXT = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2, "intermediate_dim": 128}


def narrow_clip(open_clip: Any) -> tuple[Any, ImageTextModel]:
    """(open_clip's model, ours without weights) with two blocks a tower."""
    image = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    sizes = {"patch_size": 8, "hidden_dim": 64, "num_layers": 2, "num_heads": 2, "intermediate_dim": 256}
    ours = ImageTextModel(
        Encoder(name="clip_vit_b_32", image_size_px=32, architecture={**sizes, "projection_dim": 48}),
        text_architecture={**NARROW_TEXT, "projection_dim": 48},
    )
    return open_clip.CLIP(embed_dim=48, vision_cfg=image, text_cfg=text), ours


def narrow_siglip(open_clip: Any, vocabulary: Path) -> tuple[Any, ImageTextModel]:
    """Likewise; both text towers with the activation that SigLIP was trained with."""
    import timm

    text = {
        "context_length": 64,
        "vocab_size": 64,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    }
    image = {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    model = open_clip.CustomTextCLIP(embed_dim=64, vision_cfg=image, text_cfg=text, init_logit_bias=-10)
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32}
    model.visual.trunk = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, **sizes)
    ours: dict[str, Any] = {"patch_size": 8, "hidden_dim": 64, "num_layers": 2, "num_heads": 2}
    # timm has the exact GELU where the model was trained with the approximate one; here both must have the same.
    ours |= {"intermediate_dim": 256, "activation": "gelu"}
    narrow = ImageTextModel(
        Encoder(name="siglip_base_patch16_224", image_size_px=32, architecture=ours),
        vocabulary=str(vocabulary),
        text_architecture={**NARROW_TEXT, "vocabulary_size": 64, "projection_dim": 64},
    )
    return model, narrow


def whole_clip(open_clip: Any, name: str) -> tuple[Any, ImageTextModel]:
    return open_clip.create_model(catalogue.find(name).open_clip, pretrained=None), ImageTextModel(Encoder(name=name))


def imported(peer: Any, ours: ImageTextModel, folder: Path) -> DualEncoder:
    """Ours with open_clip's weights, random to the last bias, through the import of a checkpoint."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in peer.parameters():  # fresh biases are 0 and would hide a mistake
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    checkpoint = folder / "open_clip.safetensors"
    save_file({key: value.contiguous() for key, value in peer.state_dict().items()}, checkpoint)
    encoder = dataclasses.replace(ours.encoder, weights=f"open_clip:{checkpoint}")
    return DualEncoder(dataclasses.replace(ours, encoder=encoder))


def compare(peer: Any, ours: ImageTextModel, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ours, open_clip's) logits float32 [images, texts]; ours come through the import of a checkpoint."""
    import torch

    dual = imported(peer, ours, folder)
    side = dual.preprocess.image_size_px
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    tokens = open_clip_tokens(ours)
    pixels = normalize(images, dual.preprocess).numpy().transpose(0, 3, 1, 2).copy()
    peer.eval()
    with torch.no_grad():
        image = peer.encode_image(torch.from_numpy(pixels), normalize=True)
        text = peer.encode_text(torch.from_numpy(tokens).long(), normalize=True)
        theirs = peer.logit_scale.exp() * image @ text.T
        theirs = theirs + (peer.logit_bias if peer.logit_bias is not None else 0.0)
    return dual.logits(dual.encode_images(images) @ dual.encode_texts(TEXTS).T), theirs.numpy()


def open_clip_tokens(ours: ImageTextModel) -> np.ndarray:
    """int [N, L] of TEXTS, by open_clip's tokenizer, or by SentencePiece and its rule for SigLIP."""
    open_clip = files.import_open_clip()
    if not ours.vocabulary:
        return open_clip.tokenizer.SimpleTokenizer()(TEXTS).numpy()
    pieces = sentencepiece.SentencePieceProcessor(model_file=ours.vocabulary)
    clean = open_clip.tokenizer.get_clean_fn("canonicalize")
    rows = [[*pieces.encode(clean(text))[:63], pieces.eos_id()] for text in TEXTS]
    return np.array([row + [1] * (64 - len(row)) for row in rows])


def main(name: str = "clip_vit_b_32") -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = compare(*whole_clip(files.import_open_clip(), name), Path(folder))
    print(f"{name}: {ours.shape[0]} images × {ours.shape[1]} texts, logits {theirs.min():.3f} … {theirs.max():.3f}")
    print(f"{name}: largest difference of a logit {np.abs(ours - theirs).max():.2e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
