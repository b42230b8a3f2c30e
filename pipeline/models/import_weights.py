"""COMMAND import-weights: a checkpoint of torch's → a local weights file under KerasHub's names.

guie import-weights CHECKPOINT|TAG --encoder NAME --out FILE.safetensors
guie import-weights --parity [NAME …] [--images FOLDER]

CHECKPOINT is open_clip's; of a DINOv3 Meta's, Hugging Face's or timm's. A run then names the file:
`encoder: {name: NAME, weights: file:FILE.safetensors}`. `--parity` makes random weights with open_clip (of a DINOv3
with timm), converts them, and prints how far the two implementations differ on the same pixels and tokens; with
`--images` also on photographs that each prepares by itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput
from pipeline.models import catalogue
from pipeline.models.parity import towers
from pipeline.models.weights import files
from pipeline.models.weights.sources import from_open_clip


@dataclass(frozen=True)
class Config:
    checkpoint: str  # a file, or an open_clip tag of the encoder
    encoder: str  # a name of the catalogue
    out: str  # the file to write
    parity: tuple[str, ...]  # names to compare instead; empty: the usual ones
    compare: bool  # whether to compare instead of writing a file
    images: str = ""  # a folder of JPEGs to compare on as well; "": none


def main(config: Config) -> None:
    if config.compare:
        towers.main(config.parity, config.images)
        return
    entry = catalogue.find(config.encoder)
    if not entry.text and not entry.timm:
        known = "a CLIP, MetaCLIP 2, SigLIP, PE-Core or DINOv3 of the catalogue"
        raise BadInput(f"--encoder: expected {known}, {config.encoder} is {entry.family}'s")
    print(f"import-weights: reads {config.checkpoint} as {config.encoder}; writes {config.out}", flush=True)
    names = ("image", "text") if entry.text else ("image",)
    found = {tower: from_open_clip(config.checkpoint, entry, tower) for tower in names}
    metadata: dict[str, Any] = {
        "encoder": config.encoder,
        **{key: entry.architecture[key] for key in ("activation", "num_heads") if key in entry.architecture},
        "mean": list(entry.facts.mean),
        "std": list(entry.facts.std),
        **found["image"].metadata,
    }
    tensors = {f"{tower}/{name}": value for tower, each in found.items() for name, value in each.tensors.items()}
    files.write(Path(config.out), tensors, metadata)
    numbers = sum(value.size for value in tensors.values())
    print(f"import-weights: {config.out}: {len(tensors)} tensors, {numbers / 1e6:.1f} million numbers")
