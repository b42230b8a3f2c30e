"""How far towers with converted weights are from open_clip's, on the same pixels and tokens, and on photographs.

open_clip's state (of DINOv3 timm's) goes to a file, and the file through the same import as a user's checkpoint.
"""

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from pipeline import config
from pipeline.console import Progress, table
from pipeline.data.preprocessing import normalize, resize_to_square
from pipeline.errors import BadInput
from pipeline.models import catalogue, encoders
from pipeline.models.parity.reference import Narrowed, Reference, ask
from pipeline.models.text import encoder as text_encoder
from pipeline.models.weights import files, load
from pipeline.models.weights.variables import float_variables

USUAL = ("clip_vit_b_32", "clip_vit_b_32_openai", "clip_vit_l_14", "siglip_base_patch16_224", "clip_vit_h_14")
LARGEST_ERROR = 1e-4
PHOTOGRAPHS = 8  # at most


@dataclass(frozen=True)
class Row:
    """One tower of one model, compared."""

    model: str
    tower: str  # image | text | photographs: the image tower on what each implementation prepares by itself
    tensors: int  # how many were converted
    blocks: int  # how many intermediate outputs were compared
    error: float  # largest |ours − theirs| over the largest |theirs|, worst of embedding and blocks
    where: str  # the output that the error is of
    differing: float | None = None  # of photographs: share of the prepared pixels that differ, all by one level


def main(names: Sequence[str], images: str = "") -> None:
    """Prints the table, of the usual models without names; BadInput for a difference above the limit.

    `images`: a folder of JPEGs, of which some are prepared and embedded by both; "": none.
    """
    names = names or USUAL
    found = (
        sorted(path for path in Path(images).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")) if images else []
    )
    photographs = found[:: max(len(found) // PHOTOGRAPHS, 1)][:PHOTOGRAPHS]
    if images and not photographs:
        raise BadInput(f"--images {images}: expected a folder of JPEGs, there is none below it")
    print(f"import-weights: compares {', '.join(names)} with open_clip on random weights", flush=True)
    progress = Progress("import-weights", len(names), "models")
    rows: list[Row] = []
    for name in names:
        rows += compare(name, photographs=photographs)
        progress.add(1)
    header = ["model", "tower", "tensors", "blocks", "worst relative error", "at", "pixels that differ"]
    cells = [
        (row.model, row.tower, row.tensors, row.blocks, f"{row.error:.2e}", row.where, _percent(row.differing))
        for row in rows
    ]
    print(table(header, cells, left=2))
    worst = max(row.error for row in rows)
    if worst > LARGEST_ERROR:
        raise BadInput(f"parity: expected at most {LARGEST_ERROR:g}, the worst is {worst:.2e}")
    print(f"import-weights: {len(names)} models agree with open_clip, worst relative error {worst:.2e}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.4%}"


def compare(
    name: str, images: int = 2, narrowed: Narrowed | None = None, photographs: Sequence[Path] = ()
) -> list[Row]:
    """The towers of one model of the catalogue, or of a smaller one; BadInput where neither open_clip nor timm has it.

    With photographs also what each makes of these by its own transform.
    """
    entry = catalogue.find(name)
    if not entry.open_clip and not entry.timm:
        raise BadInput(f"parity: neither open_clip nor timm has {name}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "reference.safetensors"
        reference = ask(entry, images, narrowed, checkpoint, photographs)
        gc.collect()  # torch's model goes before Keras' comes: ViT-H/14 is 4 GB
        image_activation, text_activation = reference.activations
        sizes = dict(narrowed.image if narrowed else entry.architecture)
        if "activation" in entry.architecture:
            sizes["activation"] = image_activation
        rows = _compare_image(name, entry, f"open_clip:{checkpoint}", sizes, reference, photographs)
        gc.collect()
        if entry.text:
            text_sizes = {**entry.text, **(narrowed.text if narrowed else {}), "activation": text_activation}
            rows.append(_compare_text(name, entry, checkpoint, text_sizes, reference))
        return rows


def _compare_image(
    name: str,
    entry: catalogue.Entry,
    spec: str,
    sizes: dict[str, Any],
    reference: Reference,
    photographs: Sequence[Path],
) -> list[Row]:
    side, family = reference.pixels.shape[1], entry.facts
    pooling = family.joint_pooling or None
    section = config.Encoder(name, spec, image_size_px=side, pooling=pooling, architecture=sizes, fit=family.fit)
    encoder = encoders.build(section)
    layers = [encoder.model.get_layer(layer).output for layer in encoder.taps.values()]
    outputs = keras.Model(encoder.model.inputs[0], [encoder.model.outputs[0], *layers])(reference.pixels)
    ours = {name: value.numpy() for name, value in zip(["embedding", *encoder.taps], outputs, strict=True)}
    tensors = len(float_variables(encoder.model))
    rows = [_row(name, "image", tensors, ours, reference.image)]
    if photographs:
        loaded = [np.asarray(Image.open(path).convert("RGB")) for path in photographs]
        levels = np.stack([resize_to_square(image, encoder.preprocess) for image in loaded])
        prepared = normalize(levels, encoder.preprocess).numpy()
        apart = np.abs(prepared - reference.prepared) * 255 * np.array(encoder.preprocess.std)  # in levels
        found = {"embedding": encoder.model(prepared).numpy()}
        error = relative_error(found["embedding"], reference.photographs) if apart.max() < 1.01 else float("inf")
        rows.append(Row(name, "photographs", tensors, 0, error, "embedding", float((apart > 0.01).mean())))
    return rows


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
