"""The wheel works without the checkout: installed beside the same libraries, run in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from export import package

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
FEW = ["records.sources.0.options.classes=8", "records.sources.0.options.images_per_class=3"]
REPACK = "import sys; from pathlib import Path; from export import kaggle_wheels as k; k.repack(Path(sys.argv[1]))"


def contents(wheel: Path) -> dict[str, int]:
    """Name → CRC of each file but RECORD, whose order is the builder's."""
    return {
        each.filename: each.CRC for each in zipfile.ZipFile(wheel).infolist() if not each.filename.endswith("RECORD")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    package.build_wheel(folder)
    return next(folder.glob("guie-*.whl"))


@pytest.fixture(scope="module")
def guie(wheel, tmp_path_factory):
    """Runs words in an environment that has the wheel and this one's libraries, in an empty folder; returns stdout."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    subprocess.run([*PIP, "install", "--no-deps", "--target", site, wheel], check=True)
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])  # whose own .pth, the checkout's, is not read
    (folder / "empty").mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GUIE_DATA")}

    def run(*words: str, code: int = 0) -> str:
        command = [folder / "venv/bin/python", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder / "empty", env=environment)
        assert done.returncode == code, done.stderr[-2000:]
        return done.stdout + done.stderr

    found = run(
        "-c", "import pipeline, export, tfrecords; print(pipeline.__file__, export.__file__, tfrecords.__file__)"
    )
    assert all(Path(path).is_relative_to(site) for path in found.split())
    run.folder = folder / "empty"
    return run


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    """Templates, styles and word lists, too: setup.py names them."""
    rooms = ("pipeline", "tfrecords", "export")
    here = [path for room in rooms for path in (ROOT / room).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(ROOT).as_posix() for path in here} <= set(contents(wheel))


def test_configs_and_notebooks_are_found_without_the_checkout(guie):
    command = ("-m", "pipeline.cli")
    assert guie(*command, "--version") == "guie 0.1.0\n"
    listed = guie(*command, "configs")
    assert all(f"\n{path.stem} " in listed for path in (ROOT / "configs").glob("*.yaml"))
    assert "train.phases.N.epochs" in guie(*command, "config", "show", "train")
    assert "guie run x.yaml" in guie(*command, "new", "x") and (guie.folder / "x.yaml").is_file()
    assert "PATH/TO/IMAGES does not exist" in guie(*command, "tfrecords", "x.yaml", code=2)
    assert "nearest: demo" in guie(*command, "run", "dmeo", code=2)
    guie(*command, "tfrecords", "demo", *FEW)
    assert (guie.folder / "runs/demo/records/manifest.json").is_file()
    names = ["submit.dataset=me/guie-data", "submit.kernel=me/guie-notebook", "submit.images=[]"]
    guie("-m", "export.package", "demo", *names)
    submit = guie.folder / "runs/demo/submit"
    assert (submit / "training/training.ipynb").is_file() and list(submit.glob("training-dataset/guie-*.whl"))


def test_the_wheel_that_is_made_of_an_installation_is_the_one_that_was_installed(guie, wheel):
    for name in ("one", "two"):
        (guie.folder / name).mkdir()
        guie("-c", REPACK, name)
    first, second = (guie.folder / name / wheel.name for name in ("one", "two"))
    assert contents(first) == contents(wheel) and first.read_bytes() == second.read_bytes()


def test_an_sdist_builds_the_same_wheel(wheel, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in (*package.WHEEL_SOURCES, "MANIFEST.in"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path], cwd=source, check=True, capture_output=True
    )
    (archive,) = tmp_path.glob("guie-*.tar.gz")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, archive], check=True)
    assert contents(tmp_path / wheel.name) == contents(wheel)
