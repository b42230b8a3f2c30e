"""Kaggle's images: their packages and the datasets' wheels are all that guie requires, and the notebooks run on them.

An image's environment is made once, `.venv-kaggle-<image>/` in the checkout, from kaggle/images/<image>.txt.
"""

import runpy
import shutil
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from export import kaggle_wheels, package
from pipeline import config as configs
from pipeline.errors import BadInput
from tests.export.kaggle_image import IMAGES, ROOT, executed, make_site, python_of

ELSEWHERE = {"kaggle", "optuna", "aiohttp", "flask", "waitress"}  # guie submit, sweep, captions, browse: in no notebook
TENSORFLOW = {"tpu": "tensorflow-tpu 2.20.0 with libtpu 0.0.17", "gpu": "tensorflow 2.20.0"}


@pytest.mark.parametrize("image", kaggle_wheels.IMAGES)
def test_the_image_and_its_wheels_hold_all_that_guie_requires(image, monkeypatch):
    asked: dict = {}
    monkeypatch.setattr(setuptools, "setup", asked.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    carried = versions(kaggle_wheels.LISTS / f"{image}.txt")
    held = {**versions(IMAGES / f"{image}.txt"), **carried}
    todo, seen = [Requirement(line) for line in asked["install_requires"]], set()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if name in ELSEWHERE or (need.marker and not need.marker.evaluate({"extra": "", "python_version": "3.12"})):
            continue
        assert name in held, f"{need}: neither in the image nor among its wheels"
        assert need.specifier.contains(held[name]), f"{need}: {held[name]} on Kaggle"
        if name in carried and name not in seen:  # what the image's own need is there
            todo += map(Requirement, requires(name) or [])
        seen.add(name)
    assert {"keras", "faiss-cpu", "kagglesdk", "numpy"} <= seen


def versions(path: Path) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in kaggle_wheels.pinned(path))}


@pytest.mark.slow
def test_a_wheel_of_another_python_is_refused_in_one_line(tmp_path):
    source = tmp_path / "wheel" / "small"
    source.mkdir(parents=True)
    (source / "setup.py").write_text("from setuptools import setup; setup(name='small', version='1', py_modules=['a'])")
    (source / "a.py").write_text("")
    (source / "setup.cfg").write_text("[bdist_wheel]\npython_tag = py2\n")
    with pytest.raises(BadInput, match=r"^small-1-py2-none-any.whl: expected a wheel for Python 3.12 on Linux"):
        kaggle_wheels.collect(["gpu"], [], [str(source)], tmp_path)
    (source / "setup.cfg").unlink()
    kaggle_wheels.collect(["gpu"], [], [str(source)], tmp_path)
    assert (tmp_path / "small-1-py3-none-any.whl").is_file()
    assert (tmp_path / "wheels-gpu.txt").read_text().splitlines()[1:] == ["small==1"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    make_site(root, images=["tpu", "gpu"])
    return root


@pytest.mark.slow
@pytest.mark.parametrize("image", kaggle_wheels.IMAGES)
def test_the_notebooks_run_in_the_image_on_the_datasets_wheels_alone(image, request, monkeypatch):
    """Offline. The TPU image's without a TPU: its TensorFlow is loaded, and trains on the CPU."""
    python = python_of(image)  # or skips, before hundreds of megabytes of wheels are fetched
    site = request.getfixturevalue("site")
    here = site / image
    monkeypatch.setenv("ISTPUVM", "1") if image == "tpu" else monkeypatch.delenv("ISTPUVM", raising=False)
    (here / "input").mkdir(parents=True)
    for part in (site / "input").iterdir():
        shutil.copytree(part, here / "input" / part.name)
    said = "".join(executed(site / "working" / "run" / "submit" / "training", here, python))
    assert TENSORFLOW[image] in said and "encoder from" in said and "| drawn |" in said
    assert zipfile.ZipFile(here / "working" / "submission.zip").namelist()[0] == "saved_model.pb"
    if image == "gpu":  # the competition's notebook
        run = configs.load(configs.Run, site / "small.yaml", [f"run_dir={here / 'working' / 'run'}"])
        packed = package.build(run)
        assert not list(packed.dataset.glob("tensorflow_tpu*"))
        other = here / "head"
        shutil.copytree(site / "input" / "clip", other / "input" / "clip")
        shutil.copytree(packed.dataset, other / "input" / "guie-submission")
        table = "".join(executed(packed.kernel, other, python))
        assert "the head on the encoder of" in table and "same in a batch" in table and "✗" not in table
