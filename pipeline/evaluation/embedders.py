"""Any embedder that keeps the competition's contract: SavedModel folder, submission.zip, TorchScript, Hub handle."""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.errors import BadInput, reason
from pipeline.evaluation import halves, submission_zip
from pipeline.evaluation.halves import Halves
from pipeline.files import file_sha256
from pipeline.models.embedder import LARGEST_DIM

OUTPUT = "embedding_norm"
Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Submission:
    """An embedder that was called and keeps the contract."""

    handle: str
    embed: Embed  # uint8 [B, H, W, 3] → float32 [B, embedding_dim]
    embedding_dim: int
    fingerprint: str  # 16 hex digits of the model's files; of a Hub model its handle
    halves: Halves | None = None  # `embed` in two steps, for images of mixed sizes; None: an embedder without them


def load(handle: str) -> Submission:
    """Loads an embedder and calls it on a grey image.

    Raises BadInput: no such file, not a model, another signature, output of another shape, more than 64 dimensions.
    """
    path = Path(handle)
    if path.is_file():
        folder = Path(tempfile.mkdtemp(prefix="guie-submission-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        submission_zip.unpack(path, folder)
        path = folder
        if (path / "saved_model.pt").exists():
            embed = _torchscript(path / "saved_model.pt", handle)
            return _tried(embed, None, handle, _fingerprint(path))
    elif path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise BadInput(f"{handle}: expected a SavedModel folder, it holds no saved_model.pb")
    elif "://" not in handle:
        raise BadInput(f"{handle}: expected a SavedModel folder, a submission.zip or a Hub handle; nothing is there")
    embed, in_halves = _saved_model(str(path) if path.exists() else handle, handle)
    return _tried(embed, in_halves, handle, _fingerprint(path) if path.exists() else handle)


def _saved_model(location: str, handle: str) -> tuple[Embed, Halves | None]:
    import tensorflow_hub as hub  # takes two seconds: only here

    try:
        model = hub.load(location)
    except Exception as error:  # TensorFlow, protobuf and urllib each raise their own
        raise BadInput(f"{handle}: not a SavedModel that loads ({reason(error)})") from None
    signatures = getattr(model, "signatures", {})
    if "serving_default" not in signatures:
        raise BadInput(f"{handle}: expected the signature serving_default, it has {sorted(signatures) or 'none'}")
    signature = signatures["serving_default"]
    names = list(signature.structured_input_signature[1])
    if len(names) != 1:
        raise BadInput(f"{handle}: expected a signature with one input, it takes {names}")

    def embed(images: np.ndarray) -> np.ndarray:
        outputs = signature(**{names[0]: tf.constant(images)})
        if OUTPUT not in outputs and len(outputs) != 1:
            raise BadInput(f"{handle}: expected an output named {OUTPUT}, it gives {sorted(outputs)}")
        return np.asarray(outputs.get(OUTPUT, next(iter(outputs.values()))))

    embed.keeps = model  # type: ignore[attr-defined]  # the signature alone does not keep the variables alive
    return embed, halves.of_saved_model(model, OUTPUT)


def _torchscript(path: Path, handle: str) -> Embed:
    try:
        import torch
    except ImportError:
        raise BadInput(f"{handle} is a TorchScript submission: pip install 'guie[clip]' to score it") from None
    try:
        model = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:
        raise BadInput(f"{handle}: saved_model.pt is not TorchScript that loads ({reason(error)})") from None

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():  # the contract gives one image at a time: [1, 3, H, W]
            return np.stack(
                [model(torch.from_numpy(image.transpose(2, 0, 1)[None].copy())).numpy().reshape(-1) for image in images]
            )

    return embed


def _tried(embed: Embed, in_halves: Halves | None, handle: str, fingerprint: str) -> Submission:
    """Calls the embedder on one image and on two; one that takes no batch is called once an image from here on."""
    dim = _checked_dim(embed, handle)
    try:
        batched = embed(np.full((2, 32, 48, 3), 127, np.uint8)).shape == (2, dim)
    except Exception:  # the competition's scorer sends single images: the contract asks for no batches
        batched = False

    def embed_singly(images: np.ndarray) -> np.ndarray:
        return np.concatenate([embed(image[None]) for image in images])

    return Submission(handle, embed if batched else embed_singly, dim, fingerprint, in_halves)


def _checked_dim(embed: Embed, handle: str) -> int:
    try:
        output = embed(np.full((1, 32, 48, 3), 127, np.uint8))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{handle}: does not take uint8 [B, H, W, 3] of any size ({reason(error)})") from None
    if output.ndim != 2 or output.shape[0] != 1 or not 1 <= output.shape[1] <= LARGEST_DIM:
        raise BadInput(f"{handle}: expected embeddings [1, ≤{LARGEST_DIM}] of one image, got {list(output.shape)}")
    if not np.isfinite(output).all():
        raise BadInput(f"{handle}: gives NaN or infinity for a grey image")
    return int(output.shape[1])


def _fingerprint(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(bytes.fromhex("".join(map(file_sha256, files)))).hexdigest()[:16]
