"""Both Kaggle notebooks run in full, in folders as Kaggle mounts them, without the checkout on the path."""

import json
import shutil
import zipfile
from pathlib import Path

import nbclient
import numpy as np
import pytest
from safetensors.numpy import save_file

from export import package
from pipeline import config as configs
from pipeline.errors import BadInput
from pipeline.files import file_sha256
from tests.export.kaggle_image import executed, make_site, write_preset


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    make_site(root, images=[])  # this Python has all; test_kaggle_images.py runs them in the images' own
    return root


@pytest.fixture(scope="module")
def trained(site: Path) -> list[str]:
    return executed(site / "working" / "run" / "submit" / "training", site)


@pytest.mark.slow
def test_the_training_notebook_trains_exports_and_scores(site, trained):
    working = site / "working"
    assert zipfile.ZipFile(working / "submission.zip").namelist()[0] == "saved_model.pb"
    metrics = json.loads((working / "metrics.json").read_text())
    table = next(text for text in trained if "| domain |" in text)
    assert f"{metrics['mP@5']:.4f}" in table
    assert metrics["domains"]["drawn"]["queries"] == 40  # every image of the four classes that were held out
    losses = logged(working / "run")
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5
    assert any("<polyline" in text for text in trained)
    rows = next(text for text in trained if " of 5 right" in text)
    assert rows.count("<img") >= 18 and any("<figcaption>class " in text for text in trained)
    assert any("**mP@5" in text and "images of 4 classes" in text for text in trained)
    assert "encoder from" in "".join(trained)


@pytest.mark.slow
def test_the_submission_notebook_puts_the_head_on_the_attached_encoder(site, trained):
    import tensorflow as tf

    run = configs.load(configs.Run, site / "small.yaml")
    packed = package.build(run)
    assert (packed.dataset / "head.safetensors").stat().st_size < 100_000
    other = site / "head"
    for name in ("clip", "drawn-shards"):
        shutil.copytree(site / "input" / name, other / "input" / name)
    shutil.copytree(packed.dataset, other / "input" / "guie-submission")
    put_out = executed(packed.kernel, other)
    assert "the head on the encoder of" in "".join(put_out)
    assert ": attached shards" in "".join(put_out)
    table = next(text for text in put_out if "| check |" in text)
    assert "same in a batch" in table and "✗" not in table
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (1, 40, 31, 3)), tf.uint8)
    found = []
    for name, path in (("a", site / "working"), ("b", other / "working")):
        zipfile.ZipFile(path / "submission.zip").extractall(site / name)
        model = tf.saved_model.load(str(site / name))
        found.append(model.signatures["serving_default"](images=image)["embedding_norm"].numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.slow
def test_a_second_version_goes_on_from_the_output_of_the_first(tmp_path, site, trained):
    """Stopped by `train.hours` after two steps; the output lies elsewhere among the inputs of the second version."""
    kernel = site / "working" / "run" / "submit" / "training"
    for version in ("first", "second"):
        shutil.copytree(site / "input", tmp_path / version / "input")
    said = "".join(executed(kernel, tmp_path / "first", further=["train.hours=1e-6"]))
    assert "attach this version's output" in said and not (tmp_path / "first" / "working" / "submission.zip").exists()
    layout = tmp_path / "second" / "input" / "datasets" / "tester" / "output"
    shutil.copytree(tmp_path / "first" / "working", layout)
    shutil.move(tmp_path / "second" / "input" / "drawn-shards", tmp_path / "second" / "input" / "datasets" / "shards")
    another = tmp_path / "second" / "input" / "another" / "checkpoints" / "step-000999999.safetensors"
    another.parent.mkdir(parents=True)
    save_file({"a": np.zeros(1)}, another, metadata={"guie": json.dumps({"recipe": "another"})})
    said = "".join(executed(kernel, tmp_path / "second"))
    assert f"{another}: of another recipe" in said and f"goes on from {layout}" in said and "at step 2 of" in said
    whole = logged(site / "working" / "run")
    assert len(whole) > 10
    np.testing.assert_array_equal(logged(tmp_path / "second" / "working" / "run"), whole)


def logged(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_the_submission_notebook_stops_at_another_encoder_than_the_heads(site, trained):
    packed = package.build(configs.load(configs.Run, site / "small.yaml"))
    other = site / "another"
    write_preset(other / "input" / "clip" / "keras" / "tiny" / "1", seed=6)
    shutil.copytree(packed.dataset, other / "input" / "guie-submission")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="is not the one that the head was trained on"):
        executed(packed.kernel, other)


@pytest.mark.slow
def test_the_submission_notebook_hands_over_the_packed_zip_even_where_kaggle_unpacked_it(site, trained):
    run = configs.load(configs.Run, site / "small.yaml", ["submit.encoder_model=''"])
    packed = package.build(run)
    other = site / "whole"
    mounted = other / "input" / "guie-submission"
    shutil.copytree(packed.dataset, mounted)
    zipfile.ZipFile(mounted / "submission.zip").extractall(mounted / "submission")
    (mounted / "submission.zip").unlink()
    put_out = executed(packed.kernel, other)
    assert "the packed submission, sha256" in "".join(put_out)
    said = "".join(put_out)
    assert "**mP@5" in said and "drawn images, for want of attached ones" in said and " of 5 right" in said
    assert file_sha256(other / "working" / "submission.zip") == file_sha256(Path(run.run_dir) / "submission.zip")


@pytest.mark.slow
def test_the_same_project_gives_the_same_package(site, trained, monkeypatch):
    still = site / "checkout"  # a copy: nobody edits it between the two
    still.mkdir()
    for name in package.WHEEL_SOURCES:
        if (package.ROOT / name).is_dir():
            shutil.copytree(package.ROOT / name, still / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (package.ROOT / name).is_file():
            shutil.copy(package.ROOT / name, still / name)
    monkeypatch.setattr(package, "ROOT", still)
    run = configs.load(configs.Run, site / "small.yaml")
    first, second = package.build(run), package.build(run)
    assert first == second
    wheel = next(first.dataset.glob("guie-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {"export/contract_probe.py", "pipeline/cli.py", "tfrecords/sources/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "kaggle/"))]


def test_the_notebooks_begin_with_what_one_edits_and_link_home_where_it_is_told(tmp_path):
    for name in ("submission", "training"):
        package.write_notebook(package.KAGGLE / f"{name}.py", tmp_path / f"{name}.ipynb", "https://example.org/me/guie")
        cells = json.loads((tmp_path / f"{name}.ipynb").read_text())["cells"]
        text = ["".join(cell["source"]) for cell in cells]
        assert text[0].startswith("# ") and "[`guie`](https://example.org/me/guie)" in text[0]
        assert text[1].startswith("## Edit here") and cells[2]["cell_type"] == "code" and "import" not in text[2]
        package.write_notebook(package.KAGGLE / f"{name}.py", tmp_path / f"{name}.ipynb")
        assert "https://" not in (tmp_path / f"{name}.ipynb").read_text()
    with pytest.raises(BadInput, match=r"^submit.home: expected an address https://"):
        package.write_notebook(package.KAGGLE / "training.py", tmp_path / "a.ipynb", "javascript:alert(1)")
