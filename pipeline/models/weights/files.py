"""Weights on disk: open_clip checkpoints and guie's safetensors.

guie's file is one safetensors: `image/…` and `text/…` tensors under KerasHub's names, `logit_scale`,
`logit_bias`, and in its metadata what the weights need to be used rightly (activation, mean, std).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import BadInput, nearest, reason
from pipeline.files import atomic_path

FORMAT = "guie-weights-1"


class Tensors(Mapping):
    """Name → float32 array; a tensor is read when it is asked for, so a large file costs no memory."""

    def __init__(self, stored: Mapping[str, str], read: Callable[[str], Any]) -> None:
        self.stored, self.read = stored, read  # name → what the file calls it; that → array

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.read(self.stored[name]), np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


class SafeTensors(Tensors):
    """A safetensors file; raises BadInput where it is missing or not whole."""

    def __init__(self, path: Path) -> None:
        import safetensors

        if not path.is_file():
            raise BadInput(f"expected a weights file, {path} does not exist")
        try:
            file = safetensors.safe_open(path, framework="np")
        except Exception as error:
            raise BadInput(f"{path} is not a whole safetensors file ({reason(error)}): fetch it again") from None
        super().__init__({name: name for name in file.keys()}, file.get_tensor)  # noqa: SIM118, it is no dict
        self.metadata: dict[str, str] = file.metadata() or {}


def read_checkpoint(path: Path) -> Mapping[str, np.ndarray]:
    """An open_clip checkpoint: safetensors, or a torch file, of which only tensors are unpickled.

    Raises BadInput: no such file, torch is not installed, a file that is not whole or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return SafeTensors(path)
    if not path.is_file():
        raise BadInput(f"expected an open_clip checkpoint, {path} does not exist")
    try:
        import torch
    except ImportError:
        raise BadInput(f'{path}: torch files need torch: pip install "guie[clip]", or give safetensors') from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        mend = "code in it is not run; fetch the safetensors, or save its state_dict()"
        raise BadInput(f"{path} is not a torch file of tensors alone ({reason(error)}): {mend}") from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise BadInput(f"{path}: expected a state dict, name → tensor, got {type(state).__name__}")
    return Tensors({name.removeprefix("module."): name for name in state}, lambda name: state[name].detach().float())


def known_tag(model: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of a tag; BadInput where it is not installed or has no such tag."""
    open_clip = import_open_clip()
    known = open_clip.get_pretrained_cfg(model, tag)
    if not known:
        near = nearest(tag, open_clip.list_pretrained_tags_by_model(model))
        raise BadInput(f"weights: open_clip's {model} has no tag {tag!r} (nearest: {near}), nor is it a file")
    return known


def fetch(model: str, tag: str, known: dict[str, Any]) -> Path:
    """The checkpoint of a tag, from open_clip's cache or fetched; BadInput where it cannot be."""
    try:
        return Path(import_open_clip().download_pretrained(known))
    except Exception as error:
        mend = "fetch the checkpoint where there is a connection and give its path, open_clip:FILE"
        raise BadInput(f"weights: {model} {tag} could not be fetched ({reason(error)}): {mend}") from None


def import_open_clip() -> Any:
    """open_clip. Beside a CPU-only torch, torchvision's wheel needs two operators declared that it never calls."""
    try:
        import torch

        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library = torch.library.Library("torchvision", "FRAGMENT")
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _LIBRARIES.append(library)  # an operator lives as long as its library
        import open_clip
    except ImportError as error:
        raise BadInput(f'open_clip is not installed ({reason(error)}): pip install "guie[clip]"') from None
    return open_clip


_LIBRARIES: list[Any] = []


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """guie's file, whole or not at all."""
    from safetensors.numpy import save_file

    encoded = {"format": FORMAT, **{key: json.dumps(value) for key, value in metadata.items()}}
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, encoded)


def read_metadata(file: SafeTensors) -> dict[str, Any] | None:
    """What guie's file says of its weights; None for another safetensors."""
    if file.metadata.get("format") != FORMAT:
        return None
    return {key: json.loads(value) for key, value in file.metadata.items() if key != "format"}


def below(prefix: str, file: Mapping[str, np.ndarray]) -> Tensors:
    """The tensors of a file whose names begin with `prefix`, under their names without it."""
    return Tensors({name.removeprefix(prefix): name for name in file if name.startswith(prefix)}, file.__getitem__)
