"""Where weights come from: presets, open_clip tags and checkpoints, local files → tensors under KerasHub's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.errors import BadInput, reason
from pipeline.models import backbones
from pipeline.models.catalogue import Entry
from pipeline.models.weights import dinov3, files, open_clip
from pipeline.models.weights.variables import float_variables, without_prefix


@dataclass(frozen=True)
class Weights:
    """Tensors under KerasHub's names, and what their source says of them."""

    tensors: Mapping[str, np.ndarray]
    # Any of mean, std (of RGB in [0, 1]), activation, num_heads, logit_scale, logit_bias, source, tag.
    metadata: dict[str, Any] = field(default_factory=dict)


def read(spec: str, entry: Entry, names: list[str], tower: str = "image") -> Weights:
    """The tensors behind the config's `weights`: preset | preset:FOLDER | open_clip:TAG | open_clip:FILE | file:FILE.

    A checkpoint of torch's is open_clip's, or of DINOv3 Meta's, Hugging Face's or timm's.

    `names` are paths of the tower's (image | text) variables, of an image tower in the order of
    `backbones.hub_variables`. Raises BadInput: a missing file or tag; another architecture or activation.
    """
    files.expect_source(spec, entry)
    kind, _, name = spec.partition(":")
    if kind == "preset" and name:
        found = Weights(_from_backbone(entry, _preset_of(Path(name)), names, tower, name))
    elif spec == "preset":
        found = Weights(_from_backbone(entry, _preset(entry), names, tower, entry.preset))
    elif kind == "open_clip":
        found = from_open_clip(name, entry, tower)
    else:
        found = _from_file(Path(name), entry, names, tower)
    files.check(found.metadata, entry, spec)
    return found


def read_metadata(spec: str, entry: Entry) -> dict[str, Any]:
    """The metadata that `read` would give, without reading the weights."""
    kind, _, name = spec.partition(":")
    if kind == "file" and name.endswith(".safetensors"):
        return files.read_metadata(files.SafeTensors(Path(name))) or {}
    if kind == "open_clip" and not files.is_file(name):
        return _tag_metadata(name, entry, files.known_tag(entry.open_clip, name))
    return {}


def from_open_clip(name: str, entry: Entry, tower: str) -> Weights:
    """The tensors of an open_clip tag or checkpoint; raises BadInput as `read`."""
    metadata: dict[str, Any] = {}
    if files.is_file(name):
        path = Path(name)
    else:
        if not entry.open_clip:
            raise BadInput(f"encoder.weights: open_clip has no {entry.family} of these dimensions; give a file")
        known = files.known_tag(entry.open_clip, name)
        metadata = _tag_metadata(name, entry, known)
        files.check(metadata, entry, name)  # before hours of fetching
        path = files.fetch(entry.open_clip, name, known)
    return Weights(*_converted(files.read_checkpoint(path), entry, tower, str(path), metadata))


def _converted(
    state: Mapping[str, np.ndarray], entry: Entry, tower: str, what: str, metadata: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    metadata = {**metadata, "source": Path(what).name}
    if entry.family == "dinov3":
        rules = dinov3.rules(entry.architecture, state)
        return open_clip.convert(rules, state, "", what, dinov3.is_unused), metadata
    if not entry.text:
        raise BadInput(f"encoder.weights: {what}: no checkpoint of torch's is known for {entry.family}; use KerasHub's")
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            number = float(np.asarray(state[name]))
            metadata[name] = float(np.exp(number)) if name == "logit_scale" else number
    if tower == "text":
        rules = open_clip.text_rules(entry.family, entry.text, state)
        return open_clip.convert(rules, state, "", what), metadata
    rules = open_clip.image_rules(entry.family, entry.architecture)
    return open_clip.convert(rules, state, "visual.", what), metadata


def _tag_metadata(tag: str, entry: Entry, known: Mapping[str, Any]) -> dict[str, Any]:
    """A tag says its mean and std (LAION's ViT-L/14 was trained with 0.5), and for CLIP its activation."""
    metadata: dict[str, Any] = {key: list(known[key]) for key in ("mean", "std") if key in known}
    if entry.architecture["activation"] in ("gelu", "quick_gelu"):  # SigLIP has a third
        quick = bool(known.get("quick_gelu")) or entry.open_clip.endswith("quickgelu")
        metadata["activation"] = "quick_gelu" if quick else "gelu"
    return {**metadata, "tag": tag}


def _preset(entry: Entry) -> keras.Model:
    import keras_hub

    try:
        return keras_hub.models.Backbone.from_preset(entry.preset)
    except Exception as error:  # whatever the network, the hub's client or the files raise
        raise BadInput(
            f"encoder.weights: the preset {entry.preset} could not be fetched ({reason(error)}): it needs a connection "
            "to Kaggle Models once; without one, attach it to the notebook, or use file:FILE (guie import-weights)"
        ) from None


def _preset_of(folder: Path) -> keras.Model:
    """A KerasHub preset on disk, as Kaggle attaches one to a notebook."""
    import keras_hub

    return _keras(folder, lambda: keras_hub.models.Backbone.from_preset(str(folder)))


def _from_file(path: Path, entry: Entry, names: list[str], tower: str) -> Weights:
    if path.suffix == ".safetensors":
        file = files.SafeTensors(path)
        metadata = files.read_metadata(file)
        if metadata is None:  # a checkpoint as it was published
            return Weights(*_converted(file, entry, tower, str(path), {}))
        part = files.below(f"{tower}/", file)
        if not len(part):
            raise BadInput(f"{path} holds no {tower} tower: import the checkpoint again")
        return Weights(part, metadata)
    if path.suffix in files.TORCH_SUFFIXES:
        return Weights(*_converted(files.read_checkpoint(path), entry, tower, str(path), {}))
    if path.name.endswith(".weights.h5") and tower == "image":
        backbone = backbones.make(entry, entry.image_size_px)
        _keras(path, lambda: backbone.load_weights(path))
    elif path.suffix == ".keras":
        backbone = _keras(path, lambda: keras.models.load_model(path, compile=False, safe_mode=True))
    else:
        raise BadInput(f"{path} holds no {tower} tower: .weights.h5 is of an image tower alone")
    return Weights(_from_backbone(entry, backbone, names, tower, str(path)))


def _keras(path: Path, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # Keras raises whatever the broken part raises
        raise BadInput(f"encoder.weights: {path} does not load as this encoder: {reason(error)}") from None


def _from_backbone(entry: Entry, backbone: Any, names: list[str], tower: str, what: str) -> dict[str, np.ndarray]:
    """A KerasHub backbone's values under this project's names: the order is the same, the names need not be."""
    if tower == "text":
        if not hasattr(backbone, "text_encoder"):
            raise BadInput(f"{what} holds no text tower")
        tensors = {without_prefix(path): v.numpy() for path, v in float_variables(backbone.text_encoder).items()}
        if hasattr(backbone, "text_projection"):
            tensors["text_projection/kernel"] = backbone.text_projection.kernel.numpy()
        return tensors
    image = getattr(backbone, "vision_encoder", backbone)
    if hasattr(backbone, "vision_post_layer_norm"):  # MetaCLIP 2 keeps it apart, CLIP in its vision encoder
        image.layer_norm = backbone.vision_post_layer_norm
    try:
        variables = backbones.hub_variables(entry, image)
    except (AttributeError, ValueError):
        raise BadInput(f"{what}: expected KerasHub's {entry.family} backbone, got {type(image).__name__}") from None
    if len(variables) != len(names):
        raise BadInput(f"{what}: has {len(variables)} tensors, {entry.family} of these dimensions {len(names)}")
    tensors = {name: v.numpy() for name, v in zip(names, variables, strict=True) if "float" in v.dtype}
    if hasattr(backbone, "vision_projection"):
        tensors["projection/kernel"] = backbone.vision_projection.kernel.numpy()
    return tensors
