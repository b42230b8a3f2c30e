"""Any embedder that keeps the competition's contract: SavedModel folder, submission.zip, TorchScript, Hub handle.

A model is a program: what its graph or code would reach is read before it is loaded, see `untrusted`.
"""

import atexit
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.config.schema import LARGEST_DIM
from pipeline.errors import BadInput, missing, reason
from pipeline.evaluation import halves, submission_zip, untrusted
from pipeline.evaluation.halves import Halves
from pipeline.evaluation.untrusted import saved_model as saved_model_ops
from pipeline.evaluation.untrusted import torchscript as torchscript_ops
from pipeline.files import file_sha256

OUTPUT = "embedding_norm"
UNIT_TOLERANCE = 1e-3  # as `guie check`
HALVES_TOLERANCE = 1e-3  # between an embedder and its two halves: the host's resize rounds differently
Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Submission:
    """An embedder that was called and keeps the contract."""

    handle: str
    embed: Embed  # uint8 [B, H, W, 3] → float32 [B, embedding_dim]
    embedding_dim: int
    fingerprint: str  # 16 hex digits of the model's files; of a Hub model its handle
    halves: Halves | None = None  # `embed` in two steps, for images of mixed sizes; None: an embedder without them
    warnings: tuple[str, ...] = ()  # where it departs from the contract and can be scored all the same; a line each


def load(handle: str, trust: bool = False, widest: int | None = LARGEST_DIM) -> Submission:
    """Loads an embedder and calls it on a few images.

    Args:
        handle: SavedModel folder, submission.zip or Hub handle.
        trust: load it although it reaches files, the network or Python.
        widest: numbers of a vector at most, 64 in the competition; None: any.

    Raises BadInput: no such file, not a model, a model that reaches out and is not trusted, another signature, output
    of another shape, more than `widest` dimensions.
    """
    path = Path(handle)
    if path.is_file():
        folder = Path(tempfile.mkdtemp(prefix="guie-submission-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        submission_zip.unpack(path, folder)
        path = folder
        if (script := path / "saved_model.pt").exists():
            _expect_harmless(torchscript_ops.reaching(script, handle)[0], handle, trust)
            return _tried(_torchscript(script, handle), None, handle, _fingerprint(path), widest)
    elif path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise BadInput(f"{handle}: expected a SavedModel folder, it holds no saved_model.pb")
    elif "://" not in handle:
        raise BadInput(f"{handle}: expected a SavedModel folder, a submission.zip or a Hub handle; nothing is there")
    location = str(path) if path.exists() else _fetched(handle)
    _expect_harmless(saved_model_ops.reaching(location, handle)[0], handle, trust)
    return _saved_model(location, handle, _fingerprint(path) if path.exists() else handle, widest)


def _expect_harmless(found: list[str], handle: str, trust: bool) -> None:
    if found and not trust:
        what = f"{handle}: holds {untrusted.listed(found)}, which could reach files, the network or Python here"
        raise BadInput(f"{what}: not loaded; with --trust it is, if you trust where it comes from")


def _fetched(handle: str) -> str:
    """The folder of a Hub handle; downloads it."""
    import tensorflow_hub as hub  # takes two seconds: only here

    try:
        return hub.resolve(handle)
    except Exception as error:  # TensorFlow, tarfile and urllib each raise their own
        raise BadInput(f"{handle}: not a SavedModel that loads ({reason(error)})") from None


def _saved_model(location: str, handle: str, fingerprint: str, widest: int | None) -> Submission:
    try:
        model = tf.saved_model.load(location)
    except Exception as error:  # TensorFlow and protobuf each raise their own
        raise BadInput(f"{handle}: not a SavedModel that loads ({reason(error)})") from None
    signatures = getattr(model, "signatures", {})
    if "serving_default" not in signatures:
        raise BadInput(f"{handle}: expected the signature serving_default, it has {sorted(signatures) or 'none'}")
    signature = signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise BadInput(f"{handle}: expected a signature with one input, it takes {list(inputs)}")
    ((name, spec),) = inputs.items()

    def embed(images: np.ndarray) -> np.ndarray:
        outputs = signature(**{name: tf.constant(images)})
        if OUTPUT not in outputs and len(outputs) != 1:
            raise BadInput(f"{handle}: expected an output named {OUTPUT}, it gives {sorted(outputs)}")
        return np.asarray(outputs.get(OUTPUT, next(iter(outputs.values()))))

    embed.keeps = model  # type: ignore[attr-defined]  # the signature alone does not keep the variables alive
    warnings = []
    if OUTPUT not in (outputs := list(signature.structured_outputs)):
        said = f"gives {', '.join(outputs)} where the competition's scorer expects {OUTPUT}"
        warnings.append(f"{said}: it would be refused there")
    in_halves = halves.of_saved_model(model, OUTPUT)
    singly = spec.shape.rank is not None and spec.shape[0] == 1
    return _tried(embed, in_halves, handle, fingerprint, widest, warnings, singly)


def _torchscript(path: Path, handle: str) -> Embed:
    try:
        import torch
    except ImportError:
        raise missing(f"{handle} is a TorchScript submission: it needs", "torch", "clip") from None
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


def _tried(
    embed: Embed,
    in_halves: Halves | None,
    handle: str,
    fingerprint: str,
    widest: int | None,
    warnings: Sequence[str] = (),
    singly: bool = False,
) -> Submission:
    """Calls the embedder on one image and on two; one that takes no batch is called once an image from here on."""
    dim = _checked_dim(embed, handle, widest)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)

    def embed_singly(images: np.ndarray) -> np.ndarray:
        return np.concatenate([embed(image[None]) for image in images])

    found = np.empty(0)
    if not singly:
        with contextlib.suppress(Exception):  # the scorer sends single images: the contract asks for no batches
            found = embed(images)
    whole = embed if found.shape == (2, dim) else embed_singly
    if whole is embed_singly:
        found = _called(embed_singly, images, handle)
    lengths = np.linalg.norm(found, axis=1)
    off = lengths[np.argmax(np.abs(lengths - 1))]
    if abs(off - 1) > UNIT_TOLERANCE:
        said = f"gives vectors of length {off:.4g}, not of unit length"
        warnings = [*warnings, f"{said}: the competition's scorer takes them as they are, and so does this score"]
    if in_halves is not None and not _same(in_halves, images, found):
        in_halves = None
        warnings = [*warnings, "its embed_resized is another function than its serving_default: it is not used"]
    return Submission(handle, whole, dim, fingerprint, in_halves, tuple(warnings))


def _same(in_halves: Halves, images: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the two halves give what the whole embedder gives, which is what the competition would score."""
    try:
        resized = [in_halves.resize(image) for image in images]
        found = in_halves.embed({name: np.stack([each[name] for each in resized]) for name in resized[0]})
    except Exception:  # a model of somebody else: its second signature may take anything
        return False
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= HALVES_TOLERANCE)


def _called(embed: Embed, images: np.ndarray, handle: str) -> np.ndarray:
    try:
        return embed(images)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{handle}: does not take uint8 [B, H, W, 3] of any size ({reason(error)})") from None


def _checked_dim(embed: Embed, handle: str, widest: int | None) -> int:
    output = _called(embed, np.full((1, 32, 48, 3), 127, np.uint8), handle)
    if output.ndim != 2 or output.shape[0] != 1 or not 1 <= output.shape[1] <= (widest or output.shape[1]):
        expected = f"[1, ≤{widest}]" if widest else "[1, D]"
        raise BadInput(f"{handle}: expected embeddings {expected} of one image, got {list(output.shape)}")
    if not np.isfinite(output).all():
        raise BadInput(f"{handle}: gives NaN or infinity for a grey image")
    return int(output.shape[1])


def _fingerprint(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(bytes.fromhex("".join(map(file_sha256, files)))).hexdigest()[:16]
