"""COMMAND import-weights: an open_clip checkpoint → a local weights file under KerasHub's names.

guie import-weights CHECKPOINT|TAG --encoder NAME --out FILE.safetensors
guie import-weights --parity [NAME …]

A run then names the file: `encoder: {name: NAME, weights: file:FILE.safetensors}`. `--parity` makes random weights with
open_clip, converts them, and prints how far the two implementations differ on the same pixels and tokens.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadInput
from pipeline.models import catalogue, parity
from pipeline.models.weights import files
from pipeline.models.weights.sources import from_open_clip


@dataclass(frozen=True)
class Config:
    checkpoint: str  # a file, or an open_clip tag of the encoder
    encoder: str  # a name of the catalogue
    out: str  # the file to write
    parity: tuple[str, ...]  # names to compare instead; empty: the usual ones
    compare: bool  # whether to compare instead of writing a file


def main(config: Config) -> None:
    if config.compare:
        parity.main(config.parity)
        return
    entry = catalogue.find(config.encoder)
    if not entry.text:
        raise BadInput(f"--encoder: expected a CLIP or SigLIP of the catalogue, {config.encoder} is {entry.family}'s")
    print(f"import-weights: reads {config.checkpoint} as {config.encoder}; writes {config.out}", flush=True)
    towers = {tower: from_open_clip(config.checkpoint, entry, tower) for tower in ("image", "text")}
    metadata = {
        "encoder": config.encoder,
        **{key: entry.architecture[key] for key in ("activation", "num_heads")},
        "mean": list(entry.facts.mean),
        "std": list(entry.facts.std),
        **towers["image"].metadata,
    }
    tensors = {f"{tower}/{name}": value for tower, found in towers.items() for name, value in found.tensors.items()}
    files.write(Path(config.out), tensors, metadata)
    numbers = sum(value.size for value in tensors.values())
    print(f"import-weights: {config.out}: {len(tensors)} tensors, {numbers / 1e6:.1f} million numbers")
