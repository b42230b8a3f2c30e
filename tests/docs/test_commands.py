"""The commands of README and docs/: each parses with its config, and is run here, by its room's tests, or says why not.

Here they run as a reader types them, in one folder, in the order of this file; small overrides keep them short.
"""

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from tests.docs.pages import ROOT, Command, every_command, python_blocks

COMMANDS = every_command()
SMALL = (
    "records.sources.0.options.classes=12 records.sources.0.options.images_per_class=6 train.compile=false "
    "train.phases.0.epochs=0.5 train.phases.1.epochs=0.5 train.phases.1.warmup_epochs=0"
)
TINY = "hidden_dim: 32, num_layers: 1, num_heads: 2, intermediate_dim: 64, projection_dim: 16"
TINY_CLIP, TINY_TEXT = f"architecture={{patch_size: 16, {TINY}}}", f"text_architecture={{{TINY}}}"
FEW_BIRDS = (
    "records.sources=[{layout: cub200, name: cub200, root: CUB_200_2011}] records.cap_per_class=4 "
    "records.split.left_out=[] train.phases.0.epochs=1 train.phases.1.epochs=1 train.validate_every_epochs=1"
)
# What a page says → what is run: overrides that make it short. `.ci/run` runs the demo as it stands.
RUN = {
    "guie demo": f"demo {SMALL}",
    "guie status runs/demo": "status runs/demo",
    "guie score runs/demo/submission.zip --index photos": "score runs/demo/submission.zip --index photos",
    "guie score runs/demo/submission.zip --index cups=photos --index birds=more_photos": (
        "score runs/demo/submission.zip --index cups=photos --index birds=more_photos"
    ),
    "guie embed runs/demo/submission.zip photos --out vectors": "embed runs/demo/submission.zip photos --out vectors",
    "guie browse vectors photos": "browse vectors photos --port 0",
    "guie browse runs/demo": "browse runs/demo --port 0",
    "guie export demo": f"export demo {SMALL}",
    "guie check runs/demo/submission.zip": "check runs/demo/submission.zip --images 2",
    "guie tfrecords configs/real_images.yaml": f"tfrecords configs/real_images.yaml {FEW_BIRDS}",
    "guie verify runs/real_images/records": "verify runs/real_images/records",
    "guie tfrecords CONFIG records.cap_per_class=50 records.near_duplicates=true": (
        "tfrecords configs/demo.yaml records.cap_per_class=50 records.near_duplicates=true run_dir=runs/near "
        "records.sources.0.options.classes=6 records.sources.0.options.images_per_class=4"
    ),
    "guie plan configs/vit_h14_arcface_tpu.yaml": "plan configs/vit_h14_arcface_tpu.yaml",
    "guie zero-shot configs/zero_shot_cub200.yaml first=200": (
        f"zero-shot configs/zero_shot_cub200.yaml first=20 templates=one models.0.encoder.{TINY_CLIP} "
        f"models.0.{TINY_TEXT} models.0.encoder.image_size_px=32"
    ),
    "guie captions configs/captions.yaml": (
        f"captions configs/captions.yaml model.encoder.{TINY_CLIP} model.{TINY_TEXT} model.encoder.image_size_px=32"
    ),
    "guie similar search configs/similar_products10k.yaml IMAGE": (
        "similar search configs/similar_products10k.yaml IMAGE index.0.cap_per_class=2"
    ),
}
# What a page says → the test that runs it.
ELSEWHERE = {
    "guie fit photos": "tests/fitting/test_command.py",
    "guie fit photos --encoder mobilenet.keras --minutes 5": "tests/fitting/test_command.py",
    "guie run runs/photos/fit.yaml train.seed=1 run_dir=runs/photos-1": "tests/fitting/test_command.py",
    "guie browse runs/photos": "tests/browser/test_browse.py",
    "guie compare runs/photos runs/photos-1 --out compare.html": "tests/pages/test_compare.py",
    "guie compare runs/demo runs/b --out compare.html": "tests/pages/test_compare.py",
    "guie report runs/demo/config.yaml": "tests/pages/test_report.py",
    "guie run configs/real_images.yaml": "tests/test_run.py",
    "guie run CONFIG train.seed=1 run_dir=runs/b": "tests/test_run.py",
    "guie run CONFIG --redo": "tests/faults/test_edits_of_records.py",
    "guie train configs/real_images.yaml train.seed=1": "tests/test_configs.py",
    "guie train configs/vit_h14_arcface_tpu.yaml devices.rehearse=8": "tests/test_configs.py",
    "guie soup runs/a runs/b --out runs/soup --greedy": "tests/selection/test_soup.py",
    "guie sweep configs/real_images_head.yaml": "tests/selection/test_sweep.py",
    "guie export CONFIG": "tests/export/test_export.py",
    "guie check SUBMISSION": "tests/export/test_check.py",
    "guie submit demo submit.user=you --dry-run": "tests/export/test_submit.py",
    "guie score vectors --solution solution.csv": "tests/evaluation/test_solution.py",
    "guie similar train configs/similar_cub200.yaml": "tests/similar/test_train.py",
    "guie similar search configs/similar_cub200.yaml method=embedder": "tests/similar/test_search.py",
    "guie staged build configs/staged_cifar10.yaml": "tests/staged/test_staged.py",
    "guie staged predict IMAGE --stage all": "tests/staged/test_staged.py",
    "guie staged perf --stage all --time": "tests/staged/test_perf.py",
    "guie staged perf --stage third --num 2 --batch-size 3 --display-freq 1 --time": "tests/staged/test_perf.py",
    "guie staged build configs/staged_cifar10.yaml index.0.cap_per_class=200": "tests/staged/test_staged.py",
    "guie staged perf --stage all --time queries.0.cap_per_class=50": "tests/staged/test_perf.py",
}
PLACEHOLDERS = {"CONFIG": "configs/demo.yaml", "KEYS": "", "$KEYS": ""}


def unique() -> list[Command]:
    return list({each.line: each for each in COMMANDS}.values())


def test_every_command_is_run_or_says_why_not():
    open_ones = {each.line for each in COMMANDS if not each.why_not_run}
    known = {**RUN, **ELSEWHERE}
    assert not open_ones - set(known), "neither run here nor marked: <!-- not run: why -->"
    assert not set(known) - {each.line for each in COMMANDS}, "no page says these any more"
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


class Idle:
    """Stands in for a command's module: its classes are real, its functions do nothing."""

    def __init__(self, name: str):
        self._module = import_module(name)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return found if isinstance(found, type) else lambda *_, **__: None


@pytest.fixture
def idle(tmp_path, monkeypatch):
    """A folder with what the pages name; commands parse and load their configs there, and do nothing."""
    import_module("pipeline.commands")  # and those of all commands
    for module in [each for name, each in sys.modules.items() if name.startswith("pipeline.")]:
        if hasattr(module, "import_quietly") and module.__name__ != "pipeline.quiet":
            monkeypatch.setattr(module, "import_quietly", Idle)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "guie").symlink_to(ROOT)
    for run in ("demo", "photos", "b", "photos-1"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        for name in ("config.yaml", "fit.yaml"):
            (tmp_path / "runs" / run / name).write_bytes((ROOT / "configs/demo.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", unique(), ids=lambda each: each.line)
def test_a_command_parses_and_its_config_loads(command: Command, idle, capsys):
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command.line)[1:]]
    assert cli.main([word for word in words if word]) == 0, capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared) -> Path:
    """Where the reader stands: the configs, and two folders of class folders."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(ROOT / "configs")
    classes = sorted(path for path in (shared / "data" / "cifar10" / "test").iterdir() if path.is_dir())
    for name, few in (("photos", classes[:5]), ("more_photos", classes[5:])):
        for each in few:
            (folder / name / each.name).mkdir(parents=True)
            for image in sorted(each.iterdir())[:12]:
                (folder / name / each.name / image.name).symlink_to(image)
    return folder


def words_of(command: str, folder: Path) -> list[str]:
    """Splits at spaces outside brackets; IMAGE becomes one that lies in `folder`."""
    words = re.findall(r"(?:[^\s\[{]|\[.*?\](?=\s|$)|\{[^}]*\})+", command)
    image = next((folder / "photos").rglob("*.jpg"), None) or next((folder / "photos").rglob("*.*g"))
    return [str(image) if word == "IMAGE" else word for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_works(command: str, folder: Path, shared, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GUIE_DATA", str(shared / "data"))
    words = words_of(RUN[command], folder)
    if words[0] == "browse":
        browse(words, folder)
        return
    code = cli.main(words)
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert shown.out.strip().splitlines()[-1]  # its last line names the result


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), python_blocks(), ids=lambda each: each.partition("\n")[0])
def test_the_python_of_the_pages_runs(page: str, code: str, folder: Path, monkeypatch):
    """After the demo, whose embedder it loads."""
    monkeypatch.chdir(folder)
    for name, image in zip(("a", "b", "c", "query"), sorted((folder / "photos").rglob("*.jpg")), strict=False):
        if not Path(f"{name}.jpg").exists():
            Path(f"{name}.jpg").symlink_to(image)
    scope: dict[str, Any] = {}
    exec(compile(code, page, "exec"), scope)
    assert scope["index"].shape == (3, 64) and scope["positions"].shape == (1, 2)


def browse(words: list[str], folder: Path) -> None:
    script = [sys.executable, "-m", "pipeline.cli", *words]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address and "<img" in urllib.request.urlopen(address[0], timeout=60).read().decode()
        finally:
            process.terminate()
