"""The folders that are pushed to Kaggle: datasets (wheels, model, config, card) and kernels (notebook, metadata).

python -m export.package CONFIG
→ <run_dir>/submit/training-dataset/, training/      to train on Kaggle: `kaggle datasets create`, `kernels push`
→ <run_dir>/submit/dataset/, kernel/                 pushed by `guie submit`, once there is a submission.zip

The notebooks are py:percent scripts in kaggle/; jupytext converts them to .ipynb.
"""

import dataclasses
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from export import card, head, kaggle_wheels
from export.kaggle_client import signed_in_user
from pipeline.command_line import SETTINGS, Command, run, takes_config
from pipeline.config import Run, packaged, published, to_yaml
from pipeline.errors import BadInput, missing
from pipeline.files import atomic_path, file_sha256, fingerprint, read_json, write_json, write_text

ROOT = packaged.ROOT
KAGGLE = packaged.folder("kaggle")
LONGEST_NAME = 29  # of a run in a slug: 50 letters hold guie-NAME-submit-training
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"
WHEEL_SOURCES = (
    *("pipeline", "tfrecords", "export", "configs", "kaggle"),
    *("setup.py", "pyproject.toml", "README.md", "LICENSE"),
)


@dataclass(frozen=True)
class Package:
    """Two folders in the form that the Kaggle client expects, and the fingerprint of each."""

    dataset: Path
    kernel: Path
    dataset_fingerprint: str
    kernel_fingerprint: str


def with_names(config: Run) -> Run:
    """The run with submit.dataset and submit.kernel; where they are not given, of its user's name and its own.

    Raises BadInput: no user name is given, nor does the Kaggle client know one, or it cannot be one.
    """
    submit = config.submit
    if submit.dataset and submit.kernel:
        return config
    user = submit.user or os.environ.get("KAGGLE_USERNAME") or signed_in_user()
    if not _plain(user):
        raise BadInput(f"submit.user: expected a name of letters, digits, - and _, got {user!r}")
    name = re.sub("[^a-z0-9]+", "-", config.name.lower())[:LONGEST_NAME].strip("-")
    names = {what: f"{user}/guie-{name}-{what}".replace("--", "-") for what in ("data", "submit")}
    named = dataclasses.replace(
        submit, dataset=submit.dataset or names["data"], kernel=submit.kernel or names["submit"]
    )
    return dataclasses.replace(config, submit=named)


def build(config: Run) -> Package:
    """Writes the submission's dataset and kernel; the same run gives the same bytes.

    Raises BadInput: no submission.zip yet, names that Kaggle would refuse, a wheel that cannot be built.
    """
    dataset_name = checked_name(config.submit.dataset, "dataset")
    kernel_name = checked_name(config.submit.kernel, "kernel")
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
        write_text(dataset / "model_card.md", card.text(config, run_dir, published(config)))
        shutil.copy(run_dir / "export" / "fingerprint.json", dataset / "fingerprint.json")
        _write_project(config, dataset, dataset_name, ["gpu"])
    write_kernel(config, "submission", kernel_name, [dataset_name], [config.submit.competition], folder / "kernel")
    dataset, kernel = folder / "dataset", folder / "kernel"
    return Package(dataset, kernel, content_fingerprint(dataset), content_fingerprint(kernel))


def build_training(config: Run) -> tuple[Path, Path]:
    """Writes the training's dataset (wheels and config) and kernel; needs only the config. Raises as `build`."""
    name = checked_name(f"{config.submit.dataset}-training", "dataset")
    kernel = checked_name(f"{config.submit.kernel}-training", "kernel")
    folder = Path(config.run_dir) / "submit"
    with atomic_path(folder / "training-dataset") as dataset:
        dataset.mkdir()
        _write_project(config, dataset, name, kaggle_wheels.IMAGES)
    datasets = [name, *config.submit.records_datasets]
    write_kernel(config, "training", kernel, datasets, [], folder / "training")
    return folder / "training-dataset", folder / "training"


def _write_project(config: Run, folder: Path, name: str, images: Sequence[str]) -> None:
    """The wheels for the images that the notebook runs in, the config and the dataset's metadata."""
    write_text(folder / "config.yaml", to_yaml(published(config)))
    build_wheel(folder)
    kaggle_wheels.collect(images, config.submit.images, config.submit.extra_wheels, folder)
    template = read_json(KAGGLE / DATASET_METADATA)
    write_json(folder / DATASET_METADATA, {**template, "id": name, "title": _title(name)})


def write_kernel(
    config: Run, notebook: str, name: str, datasets: list[str], competitions: list[str], folder: Path
) -> None:
    """Writes a kernel's folder: the notebook "submission" or "training", and its metadata."""
    sources = {"dataset": datasets, "competition": competitions, "model": [config.submit.encoder_model]}
    attached = {f"{what}_sources": [each for each in names if each] for what, names in sources.items()}
    template = read_json(KAGGLE / ("training-" * (notebook == "training") + KERNEL_METADATA))
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_notebook(KAGGLE / f"{notebook}.py", temporary / f"{notebook}.ipynb", config.submit.home)
        write_json(temporary / KERNEL_METADATA, {**template, "id": name, "title": _title(name), **attached})


def write_notebook(script: Path, path: Path, home: str = "") -> None:
    """Converts a py:percent script to .ipynb, without outputs; the same script gives the same bytes.

    `home`: https address that the project's name in its head links to; empty: none.
    """
    if home and not re.fullmatch(r"https://[\w.~%/-]+", home):
        raise BadInput(f"submit.home: expected an address https://…, got {home!r}")
    try:
        import jupytext
    except ImportError:
        raise missing("notebooks need", "jupytext", "notebooks") from None
    notebook = jupytext.read(script)
    if home:
        notebook.cells[0]["source"] = notebook.cells[0]["source"].replace("`guie`;", f"[`guie`]({home});")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # nbformat's own are random
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write_text(path, jupytext.writes(notebook, fmt="ipynb"))


def build_wheel(folder: Path) -> None:
    """Writes the project's wheel into `folder`; the same project gives the same bytes.

    Without a checkout it is made of the installed files. Raises BadInput: neither, or pip cannot build the wheel.
    """
    if not packaged.is_checkout():
        kaggle_wheels.repack(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        source.mkdir()
        for name in WHEEL_SOURCES:  # a copy: the build leaves folders in its source
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (ROOT / name).is_file():
                shutil.copy(ROOT / name, source / name)
        kaggle_wheels.build(str(source), folder, "--no-build-isolation")


def content_fingerprint(folder: Path) -> str:
    """16 hex digits of the names and bytes in a folder, without the card: a new score is no new content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "model_card.md")
    return fingerprint([(path.relative_to(folder).as_posix(), file_sha256(path)) for path in files])


def checked_name(name: str, key: str) -> str:
    """Returns `name`; raises BadInput where it is not OWNER/SLUG as Kaggle requires."""
    owner, slash, slug = name.partition("/")
    if not (
        slash and _plain(owner) and slug.replace("-", "").isalnum() and slug == slug.lower() and 6 <= len(slug) <= 50
    ):
        raise BadInput(f"submit.{key}: expected OWNER/SLUG with a slug of 6 … 50 letters, digits, -; got {name!r}")
    return name


def _plain(owner: str) -> bool:
    return owner.replace("-", "").replace("_", "").isalnum()


def _title(name: str) -> str:
    """A title of which Kaggle makes the name's slug: it requires the two to agree."""
    return name.split("/")[1].replace("-", " ")


def _link(source: Path, target: Path) -> None:
    """Makes a hard link, or a copy where the disk has none: the largest submission has 2.5 GB."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def main(config: Run) -> None:
    """Packs what is pushed to Kaggle: datasets and kernels below <run_dir>/submit/."""
    config = with_names(config)
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
