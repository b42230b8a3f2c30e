"""Kaggle's images as environments of their Python and published packages, and kernels in them without a network."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import yaml
from traitlets.config import Config

from export import package, scorer_env
from pipeline import config as configs
from pipeline.files import atomic_path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "kaggle" / "images"
ARCHITECTURE = {"num_layers": 1, "hidden_dim": 64, "num_heads": 2, "intermediate_dim": 128}


def python_of(image: str) -> Path:
    """The interpreter of `.venv-kaggle-<image>` in the checkout, of the published list; `make test-kaggle` makes it."""
    folder, wanted = ROOT / f".venv-kaggle-{image}", (IMAGES / f"{image}.txt").read_text()
    with (ROOT / f".venv-kaggle-{image}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "stamp"
        if not (stamp.is_file() and stamp.read_text() == wanted):
            if not os.environ.get("GUIE_KAGGLE_IMAGES"):  # 3 GB and minutes, each
                pytest.skip(f"`make test-kaggle` makes the environment of Kaggle's {image} image")
            python = scorer_env.find_python("3.12")
            if python is None:
                pytest.fail("Kaggle's images have Python 3.12: none on PATH nor in ~/.pyenv; name it in GUIE_PYTHON312")
            with atomic_path(folder) as temporary:
                subprocess.run([str(python), "-m", "venv", str(temporary)], check=True)
                pip = [str(temporary / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
                subprocess.run([*pip, "-r", str(IMAGES / f"{image}.txt")], check=True)
                (temporary / "stamp").write_text(wanted)
    return folder / "bin" / "python"


def make_site(root: Path, images: list[str]) -> None:
    """`root`/input as Kaggle would mount it: shards, the encoder as a KerasHub preset, the training's dataset.

    The dataset carries wheels for `images`. `root`/small.yaml is the config.
    """
    drawn = {"classes": 8, "images_per_class": 10, "image_size_px": 32, "seed": 1}
    written = {
        "name": "small",
        "run_dir": str(root / "working" / "run"),
        "records": {
            "sources": [{"layout": "drawn", "name": "drawn", "options": drawn}],
            "split": {"by": "class", "train": 0.5, "validation": 0.0, "test": 0.5},
            "image_size_px": 32,
        },
        "encoder": {"name": "clip_tiny", "image_size_px": 32, "architecture": ARCHITECTURE},
        "train": {"log_every_steps": 2, "phases": [{"name": "head", "epochs": 6, "batch_size": 8}]},
        "submit": {
            "dataset": "tester/guie-submission",
            "kernel": "tester/guie-submit",
            "encoder_model": "tester/clip/keras/tiny/1",
            "images": images,
        },
    }
    config = root / "small.yaml"
    config.write_text(yaml.safe_dump(written))
    # A separate process: the package tfrecord cannot be imported after TensorFlow.
    shards = root / "input" / "drawn-shards"
    command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config), f"run_dir={root / 'made'}"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(root / "made" / "records", shards)
    write_preset(root / "input" / "clip" / "keras" / "tiny" / "1")
    dataset, _ = package.build_training(configs.load(configs.Run, config))
    shutil.copytree(dataset, root / "input" / "guie-submission-training")


def write_preset(folder: Path, seed: int = 5) -> None:
    """A small CLIP with random weights, in the files of a KerasHub preset."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(seed)
    vision = keras_hub.models.CLIPVisionEncoder(
        patch_size=8,
        hidden_dim=64,
        num_layers=1,
        num_heads=2,
        intermediate_dim=128,
        intermediate_activation="gelu",
        image_shape=(32, 32, 3),
    )
    text = keras_hub.models.CLIPTextEncoder(
        vocabulary_size=32, embedding_dim=16, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32
    )
    backbone = keras_hub.models.CLIPBackbone(vision_encoder=vision, text_encoder=text, projection_dim=16)
    backbone.save_to_preset(str(folder))


def executed(kernel: Path, root: Path, python: Path | None = None, further: list[str] | None = None) -> list[str]:
    """Runs a kernel folder's notebook under `root` as Kaggle mounts it; returns what its cells put out.

    A cell that raises fails the test. With `python`, the kernel is of that interpreter and has no network. `further`
    is put in the cell that asks for overrides.
    """
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    notebook = nbformat.read(kernel / metadata["code_file"], as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("FURTHER: list[str] = []", f"FURTHER = {further or []}")
    (root / "working").mkdir(exist_ok=True)
    environment = {**os.environ, "KAGGLE_INPUT": str(root / "input"), "KAGGLE_WORKING": str(root / "working")}
    environment.pop("PYTHONPATH", None)
    options: dict[str, Any] = {}
    if python:
        sockets = tempfile.mkdtemp(prefix="guie-")  # files: there is no loopback either
        environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "JUPYTER_PATH": str(root / "jupyter")}
        spec = root / "jupyter" / "kernels" / "image" / "kernel.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        argv = [*without_network(), str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": "image", "language": "python"}))
        options = {
            "kernel_name": "image",
            "config": Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
        }
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(root / "working")}}, **options
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", environment.get("JUPYTER_PATH", ""))
        client.execute(env=environment)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    put_out = []
    for cell in code:
        for output in cell.outputs:
            data = output.get("data", {})
            put_out.append(
                output.get("text")
                or data.get("text/markdown")
                or data.get("image/svg+xml")
                or data.get("text/html")
                or ""
            )
    return put_out


def without_network() -> list[str]:
    """What starts a program in a network namespace of its own; warns where this machine does not let it."""
    command = ["unshare", "--net", "--map-root-user"]
    may = shutil.which("unshare") and subprocess.run([*command, sys.executable, "-c", ""]).returncode == 0
    if not may:
        warnings.warn("no network namespaces here: pip alone is kept from the network", stacklevel=2)
    return command if may else []
