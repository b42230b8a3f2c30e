"""What a command needs beside the base install is asked for in one line that names the extra; the base has the rest."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
import setuptools
from fsspec.registry import _registry

from export import formats, package, torchscript
from pipeline import cli, errors, reading
from pipeline.config import Run, load
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.models.parity import towers
from pipeline.models.text import tokenizers
from pipeline.models.weights import files
from pipeline.planning import config_checks
from pipeline.staged.vector_database import VectorDatabase
from tfrecords import beam
from tfrecords.chunks import JpegSettings
from tfrecords.sources import parquet

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hide(monkeypatch):
    """Packages as if they were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
        for scheme in ("gs", "gcs"):  # fsspec keeps the class that another test's bucket has loaded
            monkeypatch.delitem(_registry, scheme, raising=False)

    return hide


def asked_of_setup(monkeypatch) -> dict:
    asked: dict = {}
    with monkeypatch.context() as patch:
        patch.setattr(setuptools, "setup", asked.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return asked


def formats_of(names: str) -> Run:
    return load(Run, ROOT / "configs/demo.yaml", [f"export.formats=[{names}]"])


NEEDS = {  # hidden packages, the extra, what asks
    "torch weights": ("torch", "clip", lambda path: files.read_checkpoint(path / "a.pt")),
    "open_clip's tag": ("torch", "clip", lambda path: files.known_tag("ViT-B-32", "openai")),
    "import-weights --parity": ("torch", "clip", lambda path: towers.main(())),
    "a TorchScript submission": ("torch", "clip", lambda path: embedders._torchscript(path / "a.pt", "a.pt")),
    "export.formats torchscript": (
        "torch",
        "clip",
        lambda path: config_checks.expect_formats(formats_of("torchscript")),
    ),
    "writing TorchScript": ("torch", "clip", lambda path: torchscript.write("a.yaml", "a.pt")),
    "staged": ("pymilvus", "vectordb", lambda path: VectorDatabase(str(path / "a.db"))),
    "staged, embedded": ("milvus_lite", "vectordb", lambda path: VectorDatabase(str(path / "a.db"))),
    "parquet": ("pyarrow", "parquet", lambda path: parquet._pyarrow()),
    "beam": ("apache_beam", "beam", lambda path: beam.make_shards(path, [], JpegSettings(64, 90), [])),
    "gs://": ("gcsfs", "remote", lambda path: reading._system("gs://guie-tests-needs/a.tfrec")),
    "notebooks": ("jupytext", "notebooks", lambda path: package.write_notebook(path / "a.py", path / "a.ipynb")),
    "export.formats onnx": ("tf2onnx", "onnx", lambda path: config_checks.expect_formats(formats_of("onnx"))),
    "writing ONNX": ("onnx", "onnx", lambda path: formats.write_onnx(None, None, path / "a.onnx")),
}


@pytest.mark.parametrize("case", NEEDS)
def test_a_package_that_is_not_there_is_asked_for_in_one_line(case, hide, tmp_path):
    package_name, extra, ask = NEEDS[case]
    hide(package_name)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(BadInput) as raised:
        ask(tmp_path)
    line = str(raised.value)
    assert re.search(rf"pip install 'guie\[{extra}\]'", line) and "\n" not in line


def test_the_line_stands_in_one_place():
    told = [path for room in ("pipeline", "tfrecords", "export") for path in (ROOT / room).rglob("*.py")
            if "install 'guie[" in path.read_text() or 'install "guie[' in path.read_text()]  # fmt: skip
    assert told == [ROOT / "pipeline/errors.py"]


def test_every_extra_that_is_asked_for_is_one_of_setup(monkeypatch):
    extras = asked_of_setup(monkeypatch)["extras_require"]
    calls = [
        node
        for room in ("pipeline", "tfrecords", "export")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "missing"
    ]
    found = {node.args[2].value for node in calls if isinstance(node.args[2], ast.Constant)}
    assert len(calls) > 10 and set(extras) > found | set(config_checks.EXTRAS.values())
    assert {extra for _, extra, _ in NEEDS.values()} == found - {"bench"}  # tests/evaluation/test_pml_arcface.py


def test_the_pip_that_is_named_is_this_environments(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/pip")
    assert errors.pip() == "pip"  # an environment without one, such as uv's
    (tmp_path / "venv" / "bin" / "pip").touch()
    assert errors.pip() == str(tmp_path / "venv" / "bin" / "pip")
    monkeypatch.chdir(tmp_path)
    assert errors.pip() == "venv/bin/pip"
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / "venv" / "bin" / "pip"))
    assert errors.pip() == "pip"


def test_clips_vocabulary_is_read_without_torch_or_asked_for_before_the_images(hide, tmp_path, monkeypatch, capsys):
    """The base environment of the Makefile brings it; elsewhere one line says how, without torch."""
    carrier = tokenizers.CARRIER
    assert (
        carrier in (ROOT / "Makefile").read_text() and carrier in asked_of_setup(monkeypatch)["extras_require"]["clip"]
    )
    hide("torch")
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    if Path(found := tokenizers._open_clip_file()).is_file():  # the suite has it by the extra `clip`
        assert tokenizers.clip(77)(["a photo of a cat"])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert found.name == tokenizers.CLIP_FILE and "open_clip" not in sys.modules
    hide("open_clip")
    (config := tmp_path / "a.yaml").write_text(f"""
run_dir: {tmp_path / "run"}
source: {{layout: drawn, name: drawn, options: {{classes: 2, images_per_class: 2, image_size_px: 32}}}}
models: [{{encoder: {{name: clip_tiny, weights: none}}}}]
""")
    assert cli.main(["zero-shot", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("guie zero-shot: CLIP needs its vocabulary") and f"install --no-deps {carrier}" in line
    assert not (tmp_path / "run" / "images").exists()
    assert cli.main(["zero-shot", "data-prep", str(config)]) == 0  # which reads no words
