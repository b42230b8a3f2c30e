"""What is pushed to Kaggle: a dataset (wheel, model, config, card) and kernels (notebooks with their metadata).

    python -m export.package CONFIG
    →  <run_dir>/submit/training-dataset/, training/       to train on Kaggle: `kaggle datasets create`, `kernels push`
    →  <run_dir>/submit/dataset/, kernel/                  what `guie submit` pushes, once there is a submission.zip

The notebooks stand in kaggle/ as py:percent scripts; jupytext turns them into .ipynb here.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from export import card, head
from pipeline.command_line import SETTINGS, Command, run, takes_config
from pipeline.config import Run, to_yaml
from pipeline.errors import BadInput
from pipeline.files import atomic_path, file_sha256, fingerprint, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
KAGGLE = ROOT / "kaggle"
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"
WHEEL_SOURCES = ("pipeline", "tfrecords", "export", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Package:
    """Two folders as the Kaggle client wants them, and a digest of each one's content."""

    dataset: Path
    kernel: Path
    dataset_fingerprint: str
    kernel_fingerprint: str


def build(config: Run) -> Package:
    """Writes the submission's dataset and kernel; the same run gives the same bytes.

    Raises:
        BadInput: no submission.zip yet, names that Kaggle would refuse, not a checkout, a wheel that cannot be had.
    """
    dataset_name, kernel_name = named(config.submit.dataset, "dataset"), named(config.submit.kernel, "kernel")
    run_dir, folder = Path(config.run_dir), Path(config.run_dir) / "submit"
    submission = run_dir / "submission.zip"
    if not submission.is_file():
        raise BadInput(f"expected {submission}, which does not exist: run `guie export` first")
    card.write(config)
    with atomic_path(folder / "dataset") as dataset:
        dataset.mkdir()
        if config.submit.encoder_model:
            head.write(config, dataset / "head.safetensors")
        else:
            _link(submission, dataset / "submission.zip")
        for name in ("model_card.md", "fingerprint.json"):
            shutil.copy(run_dir / "export" / name, dataset / name)
        _write_project(config, dataset, dataset_name)
    sources = {
        "dataset_sources": [dataset_name],
        "competition_sources": [config.submit.competition] if config.submit.competition else [],
        "model_sources": [config.submit.encoder_model] if config.submit.encoder_model else [],
    }
    write_kernel("submission", kernel_name, sources, folder / "kernel")
    return Package(
        folder / "dataset",
        folder / "kernel",
        content_fingerprint(folder / "dataset"),
        content_fingerprint(folder / "kernel"),
    )


def build_training(config: Run) -> tuple[Path, Path]:
    """Writes the training's dataset (wheel and config) and kernel; needs nothing but the config."""
    name = named(f"{config.submit.dataset}-training", "dataset")
    kernel = named(f"{config.submit.kernel}-training", "kernel")
    folder = Path(config.run_dir) / "submit"
    with atomic_path(folder / "training-dataset") as dataset:
        dataset.mkdir()
        _write_project(config, dataset, name)
    sources = {
        "dataset_sources": [name, *config.submit.records_datasets],
        "competition_sources": [],
        "model_sources": [config.submit.encoder_model] if config.submit.encoder_model else [],
    }
    write_kernel("training", kernel, sources, folder / "training")
    return folder / "training-dataset", folder / "training"


def _write_project(config: Run, folder: Path, name: str) -> None:
    """The wheel, the config and the dataset's metadata."""
    public = dataclasses.replace(config, run_dir="", data_root="")  # this machine's paths stay here
    write_text(folder / "config.yaml", to_yaml(public))
    build_wheels(config.submit.extra_wheels, folder)
    write_json(folder / DATASET_METADATA, {**_template(DATASET_METADATA), "id": name, "title": _title(name)})


def write_kernel(notebook: str, name: str, sources: dict[str, list[str]], folder: Path) -> None:
    """A kernel's folder: the notebook "submission" or "training", and its metadata."""
    template = "training-" + KERNEL_METADATA if notebook == "training" else KERNEL_METADATA
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_notebook(KAGGLE / f"{notebook}.py", temporary / f"{notebook}.ipynb")
        metadata = {**_template(template), "id": name, "title": _title(name), **sources}
        write_json(temporary / KERNEL_METADATA, metadata)


def write_notebook(script: Path, path: Path) -> None:
    """A py:percent script → .ipynb without outputs; the same script gives the same bytes."""
    try:
        import jupytext
    except ImportError:
        raise BadInput("notebooks need jupytext: pip install 'guie[notebooks]'") from None
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # nbformat draws them by chance
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write_text(path, jupytext.writes(notebook, fmt="ipynb"))


def build_wheels(extra: list[str], folder: Path) -> None:
    """The project's wheel, and those of `extra` requirements without their dependencies, into `folder`."""
    if not (ROOT / "setup.py").is_file() or not KAGGLE.is_dir():
        raise BadInput(f"the project itself is packed, which needs its checkout; {ROOT} is none")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        source.mkdir()
        for name in WHEEL_SOURCES:  # a copy: building leaves folders behind
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (ROOT / name).is_file():
                shutil.copy(ROOT / name, source / name)
        for requirement in [str(source), *extra]:
            build_here = ["--no-build-isolation"] if requirement == str(source) else []
            command = [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "wheel",
                "--quiet",
                "--no-deps",
            ]
            done = subprocess.run(
                [*command, *build_here, "--wheel-dir", str(folder), requirement],
                capture_output=True,
                text=True,
                env={
                    **os.environ,
                    "SOURCE_DATE_EPOCH": "315532800",
                },  # zip's earliest date: the same bytes again
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
                raise BadInput(f"the wheel of {Path(requirement).name} cannot be built: {lines[-1]}")


def content_fingerprint(folder: Path) -> str:
    """16 hex digits of the names and bytes in a folder; the card, which tells the score, does not count."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "model_card.md")
    return fingerprint([(path.relative_to(folder).as_posix(), file_sha256(path)) for path in files])


def named(name: str, key: str) -> str:
    """OWNER/SLUG as Kaggle takes it, or BadInput."""
    owner, slash, slug = name.partition("/")
    plain = owner.replace("-", "").replace("_", "").isalnum() and slug.replace("-", "").isalnum()
    if not (slash and plain and slug == slug.lower() and 6 <= len(slug) <= 50):
        raise BadInput(
            f"submit.{key}: expected OWNER/SLUG with a slug of 6 … 50 letters, digits, -; got {name!r}"
        )
    return name


def _template(name: str) -> dict[str, Any]:
    return json.loads((KAGGLE / name).read_text(encoding="utf-8"))


def _title(name: str) -> str:
    return name.split("/")[1].replace(
        "-", " "
    )  # Kaggle makes the slug from the title, and wants them to agree


def _link(source: Path, target: Path) -> None:
    """A hard link where the disk allows: the largest submission has 2.5 GB."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def main(config: Run) -> None:
    """Packs what is pushed to Kaggle: datasets and kernels below <run_dir>/submit/."""
    for folder in build_training(config):
        print(f"package: {folder}")
    if not (Path(config.run_dir) / "submission.zip").is_file():
        print("package: the training notebook; the submission's follows `guie export`")
        return
    package = build(config)
    print(f"package: {package.dataset} ({package.dataset_fingerprint}), {package.kernel}")


if __name__ == "__main__":
    package = click.command(cls=Command, context_settings=SETTINGS)(takes_config("pipeline.config:Run")(main))
    sys.exit(run(package, "package", sys.argv[1:]))
