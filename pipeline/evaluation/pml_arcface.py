"""A reference that is not ours: pytorch-metric-learning's ArcFace, a linear head trained on the encoder's features.

python -m pipeline.evaluation.pml_arcface FEATURES.npy LABELS.npy OUT.npz --dim D --scale S --margin-radians M --seed N
float [N, W], int [N] → OUT.npz: kernel float32 [W, D], bias float32 [D], of features at unit length

It runs in a process of its own, so that torch and TensorFlow share neither threads nor memory.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline.config import Loss
from pipeline.console import Progress
from pipeline.errors import BadInput, missing
from pipeline.files import write_arrays
from pipeline.retrieval.vectors import unit_length

# Adam's rate, of head and class centres alike. On a frozen MobileNet's features of the real images, a third of the
# classes unseen, mP@5 is 0.610, 0.629, 0.618, 0.577 after 2, 4, 8, 20 epochs, and 0.604 after 20 at a tenth of the
# rate: the best of them is taken.
EPOCHS, BATCH_SIZE, LEARNING_RATE = 4, 128, 1e-3


def fit(features: np.ndarray, labels: np.ndarray, dim: int, loss: Loss, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Trains the head on float [N, W] and classes int [N], 0 … C−1; returns kernel [W, D] and bias [D], float32.

    Scale and margin are those of `loss` where it is an ArcFace, else guie's defaults. Raises BadInput where the
    packages are not installed.
    """
    arcface = loss if loss.name == "arcface" else Loss()
    with tempfile.TemporaryDirectory(prefix="guie-pml-") as name:
        folder = Path(name)
        np.save(folder / "features.npy", features)
        np.save(folder / "labels.npy", labels)
        arguments = [*(str(folder / each) for each in ("features.npy", "labels.npy", "head.npz"))]
        arguments += [f"--dim={dim}", f"--scale={arcface.scale}", f"--margin-radians={arcface.margin_radians}"]
        arguments += [f"--seed={seed}"]
        here = Path(__file__).resolve().parents[2]  # the checkout may not be where Python looks for packages
        path = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "pipeline.evaluation.pml_arcface", *arguments]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
        if done.returncode == 2:
            raise BadInput(done.stderr.strip().splitlines()[-1])
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        with np.load(folder / "head.npz") as head:
            return head["kernel"], head["bias"]


def main(arguments: list[str]) -> None:
    """Raises BadInput where torch or pytorch-metric-learning is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("features", "labels", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--margin-radians", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(arguments)
    features, labels = np.load(options.features), np.load(options.labels)
    kernel, bias = train(features, labels, options.dim, options.scale, options.margin_radians, options.seed)
    write_arrays(options.out, {"kernel": kernel, "bias": bias})


def train(
    features: np.ndarray, labels: np.ndarray, dim: int, scale: float, margin_radians: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The training itself, on torch; as `fit`."""
    try:
        import torch
        from pytorch_metric_learning.losses import ArcFaceLoss
    except ImportError:
        raise missing("pml_arcface needs", "torch and pytorch-metric-learning", "bench") from None
    # Threads cost more than they bring to products this small; one gives the same sums on every machine.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    rows, classes = torch.from_numpy(unit_length(features).astype(np.float32)), torch.from_numpy(labels).long()
    head = torch.nn.Linear(rows.shape[1], dim)
    loss_of = ArcFaceLoss(int(labels.max()) + 1, dim, margin=math.degrees(margin_radians), scale=scale)
    optimizer = torch.optim.Adam([*head.parameters(), *loss_of.parameters()], lr=LEARNING_RATE)
    progress = Progress("pml_arcface", EPOCHS * len(rows), "features")
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(rows)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss_of(head(rows[batch]), classes[batch]).backward()
            optimizer.step()
            progress.add(len(batch))
    kernel, bias = head.weight.detach().numpy().T, head.bias.detach().numpy()
    if not np.isfinite(kernel).all():
        raise RuntimeError(f"the weights are not finite after {EPOCHS} epochs")
    return kernel, bias


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
