"""What is known of every encoder: its family, dimensions, image size and where its weights come from.

The dimensions stand here because KerasHub fetches a preset's configuration together with its weights: random
and converted weights, tests and plans must build the same network offline. No TensorFlow: `guie plan` reads this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.config import Encoder
from pipeline.config.sidecar import KERAS_FILE
from pipeline.errors import BadInput, nearest
from pipeline.models.known import image_only, image_text
from pipeline.models.known.entries import FAMILIES, Entry, Family

__all__ = ["CATALOGUE", "FAMILIES", "KERAS_FILE", "Entry", "Family", "expect", "expect_square", "find", "three"]

CATALOGUE: dict[str, Entry] = {**image_text.ENTRIES, **image_only.ENTRIES}


def find(name: str, architecture: Mapping[str, Any] | None = None) -> Entry:
    """The entry of a catalogue name or of KerasHub's preset name, with some dimensions replaced.

    Raises BadInput for an unknown name, or a dimension that the family does not have; the nearest are named.
    """
    by_preset = {entry.preset: entry for entry in CATALOGUE.values() if entry.preset}
    entry = CATALOGUE.get(name) or by_preset.get(name)
    if entry is None:
        expected = f"expected keras_file:PATH or a name of the catalogue, got {name!r}"
        raise BadInput(f"encoder.name: {expected}; nearest: {nearest(name, CATALOGUE)}")
    for key in architecture or {}:
        if key not in entry.architecture:
            close = nearest(key, entry.architecture)
            raise BadInput(f"encoder.architecture: {entry.family} has no {key!r}; nearest: {close}")
    return replace(entry, architecture={**entry.architecture, **(architecture or {})})


def expect(encoder: Encoder) -> Entry | None:
    """The entry of the config's encoder; None of a Keras file. Nothing is built and no file is opened.

    Raises BadInput: an unknown name, dimension or pooling; options that do not fit the architecture or the image size;
    mean or std that are not of RGB; a Keras file without them.
    """
    for key in ("mean", "std"):
        if getattr(encoder, key) is not None:
            three(getattr(encoder, key), key)
    if encoder.name.startswith(KERAS_FILE):
        _expect_of_keras_file(encoder)
        return None
    entry = find(encoder.name, encoder.architecture)
    if encoder.pooling is not None and encoder.pooling not in entry.facts.poolings:
        known = ", ".join(entry.facts.poolings)
        raise BadInput(f"encoder.pooling: {entry.family} has {known}; got {encoder.pooling!r}")
    if not entry.facts.transformer:
        for key in ("patch_overlap_px", "stochastic_depth", "checkpointing"):
            if getattr(encoder, key):
                raise BadInput(f"encoder.{key}: {entry.family} is no transformer; leave it out")
        return entry
    patch, width, heads = (entry.architecture[key] for key in ("patch_size", "hidden_dim", "num_heads"))
    size, overlap = encoder.image_size_px or entry.image_size_px, encoder.patch_overlap_px
    if width % heads:
        raise BadInput(f"encoder.architecture: hidden_dim {width} is not a multiple of num_heads {heads}")
    if size < patch:
        raise BadInput(f"encoder.image_size_px: expected at least one patch of {patch} px, got {size}")
    if not 0 <= overlap < patch:
        raise BadInput(f"encoder.patch_overlap_px: expected 0 … {patch - 1} with patches of {patch} px, got {overlap}")
    return entry


def expect_square(encoder: Encoder, what: str) -> None:
    """Raises BadInput for `fit: aspect` where images must share a shape; `what` wants it."""
    if encoder.fit == "aspect":
        mend = "use squash, crop or pad; guie bench keeps the aspect where its protocol does"
        raise BadInput(f"encoder.fit: aspect gives images of many shapes, {what} wants squares: {mend}")


def three(values: Sequence[float], key: str) -> tuple[float, float, float]:
    """`encoder.mean` or `encoder.std` as a tuple; BadInput where it is not of three numbers, those of std above 0."""
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        above = " above 0" if key == "std" else ""
        raise BadInput(f"encoder.{key}: expected three numbers{above}, got {list(values)}")
    return (float(values[0]), float(values[1]), float(values[2]))


def _expect_of_keras_file(encoder: Encoder) -> None:
    if encoder.mean is None or encoder.std is None:
        raise BadInput(
            "encoder.mean and encoder.std: a Keras file does not say how it wants its pixels; give both, of "
            "RGB in [0, 1], such as mean=[0.5,0.5,0.5] std=[0.5,0.5,0.5] for pixels in -1 … 1, here or in a JSON file "
            "of the same name beside it"
        )
    if encoder.architecture or encoder.patch_overlap_px or encoder.stochastic_depth or encoder.checkpointing:
        options = "architecture, patch_overlap_px, stochastic_depth and checkpointing"
        raise BadInput(f"encoder: {options} need an encoder of the catalogue; a Keras file is used as it is")
