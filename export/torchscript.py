"""The trained embedder as TorchScript: saved_model.pt, the competition's contract for PyTorch.

python -m export.torchscript CONFIG.yaml OUT.pt     (started by `guie export`)

Keras' torch backend builds the same Keras model, in a separate process, since a process has one backend. The encoder is
traced at its one size; the resizing of images of any size is scripted. uint8 [B, 3, H, W] → float32 [B, D].
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

from export import subprocesses
from pipeline.errors import BadInput, missing
from pipeline.evaluation.submission_zip import ZIP_DATE

TOLERANCE = 1e-4  # largest difference from the SavedModel: torch rounds differently when it resizes


def convert(config_yaml: Path, out: Path) -> None:
    """Runs this module in a process of its own. Raises BadInput: no torch, or it cannot run a layer of the encoder."""
    subprocesses.run(
        [sys.executable, "-m", "export.torchscript", str(config_yaml), str(out)],
        "export.formats: torchscript cannot be written for this encoder",
        {**os.environ, "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def write(config_yaml: str, out: str) -> None:
    """Loads the newest checkpoint on the torch backend; traces, scripts and saves the embedder.

    Raises BadInput: torch is not installed, another backend is set, or torch cannot resize as the config says.
    """
    try:
        import torch
    except ImportError:
        raise missing("it needs", "torch", "clip") from None
    import keras

    from pipeline.config import Run, load
    from pipeline.training.checkpoints import load_trained

    if keras.backend.backend() != "torch":
        raise BadInput("it needs KERAS_BACKEND=torch")
    keras.config.set_dtype_policy("float32")
    # PyTorch 1.11 lacks two operators; these are the same in operators that it has.
    torch.nn.functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    exact_gelu = torch.nn.functional.gelu

    def gelu(x, approximate="none"):
        return tanh_gelu(x) if approximate == "tanh" else exact_gelu(x)

    torch.nn.functional.gelu = gelu  # type: ignore[assignment]
    embedder = load_trained(load(Run, config_yaml))
    if embedder.preprocess.resize not in ("bicubic", "bilinear") or not embedder.preprocess.antialias:
        raise BadInput(f"torch cannot resize by {embedder.preprocess.resize} without antialias")
    with torch.no_grad():
        served = torch.jit.script(scripted_module(embedder.model, embedder.preprocess))
        torch.jit.save(served, out + ".current")
    lower_version(Path(out + ".current"), Path(out))
    Path(out + ".current").unlink()


def lower_version(source: Path, target: Path) -> None:
    """Copies a TorchScript file and writes version 9 into it, the last that PyTorch 1.11 reads.

    Version 10 only added an argument to GELU, and a file does not mention it where it has its default.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            renamed = zipfile.ZipInfo(entry.filename, ZIP_DATE)
            renamed.file_size = entry.file_size
            with old.open(entry) as reader, new.open(renamed, "w") as writer:
                if entry.filename.endswith("/.data/version"):
                    writer.write(reader.read().replace(b"10\n", b"9\n"))
                else:
                    shutil.copyfileobj(reader, writer, 1 << 20)


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """Softmax attention by its formula (Vaswani et al. 2017, equation 1): [B, heads, T, D] → [B, heads, T, D]."""
    import torch

    scores = query @ key.transpose(-2, -1) * (scale if scale is not None else query.shape[-1] ** -0.5)
    if attn_mask is not None:
        bias = torch.zeros_like(scores)
        scores = scores + (bias.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else attn_mask)
    return scores.softmax(-1) @ value


def tanh_gelu(x):
    """GELU's tanh form (Hendrycks and Gimpel 2016), any shape."""
    import torch

    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


def scripted_module(model, preprocess):
    """Scriptable uint8 [B, 3, H, W] → float32 [B, D], unit length: resizes, normalises, runs the traced encoder."""
    import torch

    for parameter in model.parameters():
        parameter.requires_grad_(False)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(pixels, training=False)

    side = preprocess.image_size_px
    sample = torch.zeros(1, side, side, 3)
    traced = torch.jit.trace(Encoder().eval(), sample, check_trace=False)

    class Served(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.side, self.bicubic = traced, side, preprocess.resize == "bicubic"
            self.register_buffer("mean", torch.tensor(preprocess.mean).reshape(1, 3, 1, 1) * 255.0)
            self.register_buffer("std", torch.tensor(preprocess.std).reshape(1, 3, 1, 1) * 255.0)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            # Not `interpolate`: it uses an operator that PyTorch 1.11 lacks.
            size, pixels = [self.side, self.side], images.to(torch.float32)
            if self.bicubic:
                pixels = torch.ops.aten._upsample_bicubic2d_aa(pixels, size, False)
            else:
                pixels = torch.ops.aten._upsample_bilinear2d_aa(pixels, size, False)
            pixels = (pixels.clamp(0.0, 255.0) - self.mean) / self.std
            embeddings = self.encoder(pixels.permute(0, 2, 3, 1))
            return torch.nn.functional.normalize(embeddings, dim=-1, eps=1e-6)

    return Served().eval()


if __name__ == "__main__":
    try:
        write(*sys.argv[1:3])
    except BadInput as error:
        sys.exit(str(error))
