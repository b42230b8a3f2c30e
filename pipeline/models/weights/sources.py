"""Where weights come from: presets, open_clip tags and checkpoints, local files → tensors under KerasHub's
names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.errors import BadInput
from pipeline.models import backbones
from pipeline.models.catalogue import Entry
from pipeline.models.weights import files, open_clip


@dataclass(frozen=True)
class Weights:
    """Tensors under KerasHub's names, and what their source says of them.

    Attributes:
        facts: any of mean, std (of RGB in [0, 1]), activation, source.
    """

    tensors: Mapping[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)


def read(spec: str, entry: Entry, names: list[str], tower: str = "image") -> Weights:
    """The tensors behind the config's `weights`: preset | open_clip:TAG | open_clip:FILE | file:FILE.

    Args:
        names: the tower's variables in the order of `hub_parts.Parts.variables`.
        tower: image | text.

    Raises:
        BadInput: not one of those; a file or tag that cannot be had; another architecture or activation.
    """
    kind, _, place = spec.partition(":")
    if spec == "preset":
        found = Weights(_from_backbone(entry, _preset(entry), names, tower, entry.preset))
    elif kind == "open_clip" and place:
        found = from_open_clip(place, entry, tower)
    elif kind == "file" and place:
        found = _from_file(Path(place), entry, names, tower)
    else:
        raise BadInput(
            f"encoder.weights: expected preset, open_clip:TAG, open_clip:FILE, file:FILE or none, "
            f"got {spec!r}"
        )
    check(found.facts, entry, spec)
    return found


def check(about: Mapping[str, Any], entry: Entry, what: str) -> None:
    """Refuses weights whose tensors fit but would not mean the same: no shape shows activation or heads.

    Raises:
        BadInput: quick-GELU's weights for GELU or the other way round; another number of heads.
    """
    theirs, ours = about.get("activation"), entry.architecture.get("activation")
    if theirs and ours and (theirs == "quick_gelu") != (ours == "quick_gelu"):
        raise BadInput(
            f"weights: {what} was trained with {theirs}, the encoder has {ours}, so its features "
            f"would be wrong: set "
            f"encoder.architecture.activation={theirs}, or name the encoder with that activation"
        )
    heads = entry.architecture.get("num_heads")
    if about.get("num_heads", heads) != heads:
        raise BadInput(f"weights: {what} has {about['num_heads']} attention heads, the encoder {heads}")


def facts(spec: str, entry: Entry) -> dict[str, Any]:
    """What `read` would say of the weights, without reading them."""
    kind, _, place = spec.partition(":")
    path = Path(place)
    if kind == "file" and path.suffix == ".safetensors":
        return files.facts_of(files.SafeTensors(path)) or {}
    if kind == "open_clip" and not _is_file(place):
        return _tag_facts(place, entry, files.known_tag(entry.open_clip, place))
    return {}


def float_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Path → variable; ids of positions and seeds are no weights."""
    return {v.path: v for v in model.variables if "float" in v.dtype}


def without_prefix(path: str) -> str:
    parts = r"embedding|encoder_block_\d+|post_layer_norm|layer_norm|head|text_projection"
    return re.sub(rf"^.*?(?=(?:{parts})/)", "", path)


def _is_file(place: str) -> bool:
    return Path(place).is_file() or Path(place).suffix in (".safetensors", ".pt", ".pth", ".bin")


def from_open_clip(place: str, entry: Entry, tower: str) -> Weights:
    about: dict[str, Any] = {}
    if _is_file(place):
        path = Path(place)
    else:
        if not entry.open_clip:
            raise BadInput(
                f"encoder.weights: open_clip has no {entry.family} of these dimensions; give a file"
            )
        known = files.known_tag(entry.open_clip, place)
        about = _tag_facts(place, entry, known)
        check(about, entry, place)  # before hours of fetching
        path = files.fetch(entry.open_clip, place, known)
    return Weights(*_converted(files.read_checkpoint(path), entry, tower, str(path), about))


def _converted(
    state: Mapping[str, np.ndarray], entry: Entry, tower: str, what: str, about: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if entry.family not in ("clip", "siglip"):
        raise BadInput(
            f"encoder.weights: open_clip checkpoints are CLIP's and SigLIP's, not {entry.family}'s"
        )
    about = {**about, "source": Path(what).name}
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            number = float(np.asarray(state[name]))
            about[name] = float(np.exp(number)) if name == "logit_scale" else number
    if tower == "text":
        rules = open_clip.text_rules(entry.family, entry.text, state)
        return open_clip.convert(rules, state, "", what), about
    rules = open_clip.image_rules(entry.family, entry.architecture)
    return open_clip.convert(rules, state, "visual.", what), about


def _tag_facts(tag: str, entry: Entry, known: Mapping[str, Any]) -> dict[str, Any]:
    """A tag has its own mean and std (LAION's ViT-L/14 was trained with 0.5), and its own activation."""
    about: dict[str, Any] = {key: list(known[key]) for key in ("mean", "std") if key in known}
    if entry.family == "clip":
        quick = bool(known.get("quick_gelu")) or entry.open_clip.endswith("quickgelu")
        about["activation"] = "quick_gelu" if quick else "gelu"
    return {**about, "tag": tag}


def _preset(entry: Entry) -> keras.Model:
    import keras_hub

    if not entry.preset:
        raise BadInput(
            "encoder.weights: KerasHub has no preset of this encoder; use open_clip:TAG or file:FILE"
        )
    try:
        return keras_hub.models.Backbone.from_preset(entry.preset)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"encoder.weights: the preset {entry.preset} could not be fetched ({reason}): it "
            f"needs a connection to "
            "Kaggle Models once; without one, attach it to the notebook, or use file:FILE (guie "
            "import-weights)"
        ) from None


def _from_file(path: Path, entry: Entry, names: list[str], tower: str) -> Weights:
    if not path.is_file():
        raise BadInput(f"encoder.weights: expected a weights file, {path} does not exist")
    if path.suffix == ".safetensors":
        file = files.SafeTensors(path)
        about = files.facts_of(file)
        if about is None:  # a checkpoint as open_clip writes it
            return Weights(*_converted(file, entry, tower, str(path), {}))
        part = files.Part(file, f"{tower}/")
        if not len(part):
            raise BadInput(f"{path} holds no {tower} tower: import the checkpoint again")
        return Weights(part, about)
    if path.name.endswith(".weights.h5") and tower == "image" and entry.family in backbones.TRANSFORMERS:
        backbone = backbones.TRANSFORMERS[entry.family][0](entry.architecture, entry.image_size_px)
        _keras(path, lambda: backbone.load_weights(path))
    elif path.suffix == ".keras":
        backbone = _keras(path, lambda: keras.models.load_model(path, compile=False, safe_mode=True))
    else:
        raise BadInput(f"encoder.weights: expected .safetensors, .weights.h5 or .keras, got {path.name}")
    return Weights(_from_backbone(entry, backbone, names, tower, str(path)))


def _keras(path: Path, load: Any) -> Any:
    try:
        return load()
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BadInput(f"encoder.weights: {path} does not load as this encoder: {reason}") from None


def _from_backbone(
    entry: Entry, backbone: Any, names: list[str], tower: str, what: str
) -> dict[str, np.ndarray]:
    """A KerasHub backbone's values under this project's names: the order is the same, the names need not
    be.
    """
    extra: dict[str, np.ndarray] = {}
    if tower == "text":
        if not hasattr(backbone, "text_encoder"):
            raise BadInput(f"{what} holds no text tower")
        extra = {without_prefix(v.path): v.numpy() for v in float_variables(backbone.text_encoder).values()}
        if hasattr(backbone, "text_projection"):
            extra["text_projection/kernel"] = backbone.text_projection.kernel.numpy()
        return extra
    if hasattr(backbone, "vision_projection"):
        extra["projection/kernel"] = backbone.vision_projection.kernel.numpy()
    backbone = getattr(backbone, "vision_encoder", backbone)
    try:
        take_apart = (
            backbones.TRANSFORMERS[entry.family][1] if entry.family in backbones.TRANSFORMERS else None
        )
        variables = take_apart(backbone).variables if take_apart else backbone.variables
    except (AttributeError, ValueError):
        raise BadInput(
            f"{what}: expected KerasHub's {entry.family} backbone, got {type(backbone).__name__}"
        ) from None
    if len(variables) != len(names):
        raise BadInput(
            f"{what}: has {len(variables)} tensors, {entry.family} of these dimensions {len(names)}"
        )
    return {
        **{name: v.numpy() for name, v in zip(names, variables, strict=True) if "float" in v.dtype},
        **extra,
    }
