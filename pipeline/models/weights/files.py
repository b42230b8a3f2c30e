"""Weights on disk: open_clip checkpoints and guie's safetensors.

guie's file is one safetensors: `image/…` and `text/…` tensors under KerasHub's names, `logit_scale`,
`logit_bias`, and in its metadata what the weights need to be used rightly (activation, mean, std).
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import BadInput, missing, nearest, reason
from pipeline.files import atomic_path
from pipeline.models.catalogue import Entry

FORMAT = "guie-weights-1"
HDF5 = b"\x89HDF\r\n\x1a\n"
TORCH = (b"PK", b"\x80")  # a zip of tensors, or the pickle of earlier versions
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


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
        raise missing(f"{path}: torch files need", "torch", "clip", "give safetensors") from None
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
    if not known and model.endswith("-quickgelu"):  # MetaCLIP 2's tag stands under the other name, and says it
        of_gelu = open_clip.get_pretrained_cfg(model.removesuffix("-quickgelu"), tag)
        known = of_gelu if of_gelu.get("quick_gelu") else {}
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
        raise missing("open_clip's weights need", f"open_clip ({reason(error)})", "clip") from None
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


def expect_source(spec: str, entry: Entry) -> None:
    """Raises BadInput where the config's `weights` are missing or of another kind, as far as their first bytes tell.

    A preset or a tag that is to be fetched is asked for only when it is.
    """
    kind, _, name = spec.partition(":")
    path = Path(name)
    if spec == "preset":
        if not entry.preset:
            raise BadInput("encoder.weights: KerasHub has no preset of this encoder; use open_clip:TAG or file:FILE")
    elif kind == "preset" and name:
        if not (path / "config.json").is_file():
            raise BadInput(f"encoder.weights: expected the folder of a KerasHub preset, {path} holds no config.json")
    elif kind == "open_clip" and name:
        _expect_open_clip(name, entry)
    elif kind == "file" and name:
        _expect_file(path, entry, spec)
    else:
        expected = "expected preset, preset:FOLDER, open_clip:TAG, open_clip:FILE, file:FILE or none"
        raise BadInput(f"encoder.weights: {expected}, got {spec!r}")


def expect_keras(path: Path, key: str) -> None:
    """Raises BadInput where `path`, of the config's `key`, does not begin as Keras's files do."""
    if not path.is_file():
        raise BadInput(f"{key}: expected a Keras model file, {path} does not exist")
    zipped = path.suffix == ".keras"
    if not (zipfile.is_zipfile(path) if zipped else _begins(path, HDF5)):
        expected = "the zip of a .keras file" if zipped else "HDF5"
        raise BadInput(f"{key}: {path} is not a Keras model and does not load: expected {expected}")


def is_file(name: str) -> bool:
    """Whether what stands behind `open_clip:` is a file's path, not a tag."""
    return Path(name).is_file() or Path(name).suffix in (".safetensors", *TORCH_SUFFIXES)


def check(metadata: Mapping[str, Any], entry: Entry, what: str) -> None:
    """Raises BadInput for another activation or number of heads, which no shape shows: the tensors would fit."""
    theirs, ours = metadata.get("activation"), entry.architecture.get("activation")
    if theirs and ours and (theirs == "quick_gelu") != (ours == "quick_gelu"):
        raise BadInput(
            f"weights: {what} was trained with {theirs}, the encoder has {ours}, so its features would be wrong: "
            f"set encoder.architecture.activation={theirs}, or name the encoder with that activation"
        )
    heads = entry.architecture.get("num_heads")
    if metadata.get("num_heads", heads) != heads:
        raise BadInput(f"weights: {what} has {metadata['num_heads']} attention heads, the encoder {heads}")


def _expect_open_clip(name: str, entry: Entry) -> None:
    path = Path(name)
    if not is_file(name):
        if not entry.open_clip:
            raise BadInput(f"encoder.weights: open_clip has no {entry.family} of these dimensions; give a file")
    elif path.suffix == ".safetensors":
        SafeTensors(path)
    elif not path.is_file():
        raise BadInput(f"expected an open_clip checkpoint, {path} does not exist")
    else:
        _expect_torch(path)


def _expect_file(path: Path, entry: Entry, spec: str) -> None:
    if not path.is_file():
        raise BadInput(f"encoder.weights: expected a weights file, {path} does not exist")
    if path.suffix == ".safetensors":
        check(read_metadata(SafeTensors(path)) or {}, entry, spec)
    elif path.suffix in TORCH_SUFFIXES:
        _expect_torch(path)
    elif path.suffix == ".keras" or path.name.endswith(".weights.h5"):
        expect_keras(path, "encoder.weights")
    else:
        raise BadInput(f"encoder.weights: expected .safetensors, .pth, .weights.h5 or .keras, got {path.name}")


def _expect_torch(path: Path) -> None:
    if not _begins(path, *TORCH):
        raise BadInput(f"{path} is not a torch file of tensors alone: it begins like none; fetch it again")


def _begins(path: Path, *signs: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16).startswith(signs)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {reason(error)}") from None
