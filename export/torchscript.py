"""The trained embedder as TorchScript, for the competition's other contract: saved_model.pt.

    python -m export.torchscript CONFIG.yaml OUT.pt     (`guie export` starts it)

The encoder is the same Keras model, built on Keras' torch backend (hence a process of its own) and traced at
its one size; the part that meets images of any size is scripted. uint8 [B, 3, H, W] → float32 [B, D].
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from pipeline.errors import BadInput
from pipeline.evaluation.submission_zip import ZIP_DATE

TOLERANCE = 1e-4  # against the SavedModel: torch rounds its resizing elsewhere


def convert(config_yaml: Path, out: Path) -> None:
    """Runs this module in a process of its own.

    Raises:
        BadInput: torch is not installed, or the encoder has a layer that torch's backend cannot run.
    """
    environment = {**os.environ, "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "export.torchscript", str(config_yaml), str(out)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise BadInput(f"export.formats: torchscript cannot be written for this encoder: {lines[-1]}")


def write(config_yaml: str, out: str) -> None:
    """Loads the newest checkpoint on the torch backend, traces, scripts and saves."""
    try:
        import torch
    except ImportError:
        raise BadInput("it needs torch: pip install 'guie[clip]'") from None
    import keras

    from pipeline.config import Run, load
    from pipeline.training.checkpoints import load_trained

    if keras.backend.backend() != "torch":
        raise BadInput("it needs KERAS_BACKEND=torch")
    keras.config.set_dtype_policy("float32")
    # Operators that PyTorch 1.11 knows, in place of two that it does not
    torch.nn.functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    exact_gelu = torch.nn.functional.gelu

    def gelu(x, approximate="none"):
        return tanh_gelu(x) if approximate == "tanh" else exact_gelu(x)

    torch.nn.functional.gelu = gelu  # type: ignore[assignment]
    embedder = load_trained(load(Run, config_yaml))
    if embedder.preprocess.resize not in ("bicubic", "bilinear") or not embedder.preprocess.antialias:
        raise BadInput(f"resizing by {embedder.preprocess.resize} without antialias has no equal in torch")
    with torch.no_grad():
        served = torch.jit.script(scripted_module(embedder.model, embedder.preprocess))
        torch.jit.save(served, out + ".current")
    lower_version(Path(out + ".current"), Path(out))
    Path(out + ".current").unlink()


def lower_version(source: Path, target: Path) -> None:
    """States file version 9, the last that PyTorch 1.11 reads.

    Version 10 added one argument to GELU, which files leave out where it has its default.
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
    """Softmax attention by its formula; the fused operator is unknown to PyTorch 1.11, the competition's.

    Takes and gives [B, heads, T, D] (Vaswani et al. 2017, equation 1).
    """
    import torch

    scores = query @ key.transpose(-2, -1) * (scale if scale is not None else query.shape[-1] ** -0.5)
    if attn_mask is not None:
        bias = torch.zeros_like(scores)
        scores = scores + (
            bias.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else attn_mask
        )
    return scores.softmax(-1) @ value


def tanh_gelu(x):
    """GELU's tanh form (Hendrycks and Gimpel 2016), any shape."""
    import torch

    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


def scripted_module(model, preprocess):
    """A torch module that can be scripted: resize, normalise, the traced encoder, unit length."""
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
            # The operators themselves: `interpolate` brings one along that PyTorch 1.11 lacks.
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
