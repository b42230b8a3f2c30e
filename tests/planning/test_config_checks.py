"""A config that cannot run to its end is refused in one line, before an image is read or TensorFlow is loaded."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline import cli
from pipeline.config import Run, load
from pipeline.errors import BadInput
from pipeline.models.weights import files
from pipeline.planning import config_checks
from tfrecords import pixels, selection

CONFIG = """
records:
  sources: [{layout: drawn, name: drawn, options: {classes: 6, images_per_class: 4, image_size_px: 32}}]
  split: {by: class, train: 0.5, validation: 0.0, test: 0.5}
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  architecture: {patch_size: 8, hidden_dim: 32, num_layers: 2, num_heads: 2, intermediate_dim: 32}
embedder: {embedding_dim: 16}
train: {phases: [{name: head, trainable: head, batch_size: 8}]}
"""
NARROW = next(line for line in CONFIG.splitlines(keepends=True) if "architecture" in line)
KERAS = ["encoder.mean=[0.5,0.5,0.5]", "encoder.std=[0.5,0.5,0.5]"]


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "whole.yaml").write_text(CONFIG.replace(NARROW, ""))
    return tmp_path / "small.yaml"


@pytest.fixture
def nothing_is_read(monkeypatch):
    def read(*_):
        raise AssertionError("an image or a listing was read")

    monkeypatch.setattr(pixels, "read", read)
    monkeypatch.setattr(selection, "list_sources", read)


def wrong(config: Path, *overrides: str) -> str:
    """What `guie run` says of the config; it writes nothing."""
    named = any(each.startswith("encoder.name") for each in overrides)  # and so of other dimensions
    path = config.with_stem("whole") if named else config
    run = load(Run, path, [f"run_dir={config.parent}/run", *overrides])
    with pytest.raises(BadInput) as caught:
        config_checks.before_run(run)
    assert "\n" not in str(caught.value) and not (config.parent / "run").exists()
    return str(caught.value)


def test_a_config_that_is_right_is_let_through_without_tensorflow(config):
    script = (
        "import sys; from pipeline.config import Run, load; from pipeline.planning import config_checks\n"
        "config_checks.before_run(load(Run, sys.argv[1]))\n"
        "print([name for name in ('tensorflow', 'keras', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(config)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["encoder.name=clip_vit_b_33"], "encoder.name: expected keras_file:PATH or a name of the catalogue"),
        (["encoder.architecture={hiden_dim: 3}"], "nearest: hidden_dim"),
        (["encoder.pooling=attention"], "encoder.pooling: clip has projection, class_token, mean"),
        (["encoder.image_size_px=7"], "expected at least one patch of 8 px, got 7"),
        (["train.phases.0.image_size_px=4"], "phase head: encoder.image_size_px: expected at least one patch"),
        (["embedder.sizes_px=[32,6]"], "expected at least one patch of 8 px, got 6"),
        (["train.phases.0.patch_overlap_px=8"], "encoder.patch_overlap_px: expected 0 … 7"),
        (["encoder.mean=[1,2]"], "encoder.mean: expected three numbers"),
        (["encoder.weights=laion"], "encoder.weights: expected preset, preset:FOLDER"),
        (["encoder.weights=file:/nowhere.safetensors"], "/nowhere.safetensors does not exist"),
        (["encoder.weights=preset:/nowhere"], "/nowhere holds no config.json"),
        (["encoder.weights=open_clip:/nowhere.pt"], "/nowhere.pt does not exist"),
        (["encoder.name=keras_file:/nowhere.keras", *KERAS], "/nowhere.keras does not exist"),
        (["encoder.name=keras_file:/nowhere.keras"], "encoder.mean and encoder.std"),
        (["train.phases=[]"], "at least one phase"),
        (["train.phases.0.trainable=heads"], "phase head: trainable: expected head, encoder, all"),
        (["train.phases.0.trainable=last 3 blocks"], "the encoder has 2 known blocks"),
        (["train.phases.0.batch_size=9", "devices.replicas=2"], "batch_size 9 does not divide by 2 replicas"),
        (["train.phases.0.keep.features=1"], "keep and interpolation are for phases that train the encoder"),
        (
            ["embedder.init=pca", "embedder.embedding_dim=64", "encoder.pooling=class_token"],
            "32 axes are all that pca finds",
        ),
        (["train.phases.0.sampling.domain_shares={draw: 1}"], "they differ in draw, drawn"),
        (["train.fold=clases 1/3"], "train.fold: expected `classes I/N`"),
        (["train.fold=classes 4/3"], "with 1 ≤ I ≤ N"),
        (["train.fold=domain cars"], "train.fold: expected one of the sources drawn"),
        (["train.init_from=/nowhere.safetensors"], "train.init_from: expected a checkpoint of guie"),
        (["train.records=[/nowhere/*-train-*.tfrec]"], "train.records: no shard matches /nowhere/"),
        (["train.validation=[/nowhere/*.tfrec]"], "train.validation: no shard matches /nowhere/"),
        (["records.sources=[]"], "train.records: no shard matches {run_dir}/records"),
        (["records.sources=[]", "train.records=[]"], "score.index: no shard matches {run_dir}/records"),
        (["records.sources.0.layout=nolayout"], "unknown layout 'nolayout'"),
        (["records.sources.0.options={clases: 3}"], "has no option 'clases'"),
        (["records.sources=[{layout: folder, name: a, root: /nowhere}]"], "source a: layout folder: /nowhere does not"),
        (["records.split.left_out=[cars]"], "records.split.left_out: no source 'cars'"),
        (["records.merge_classes=/nowhere.csv"], "records.merge_classes: expected a CSV file"),
        (["score.index=[/nowhere]"], "score.index: /nowhere: expected class folders, shards or LAYOUT:ROOT"),
        (["score.index=['cub200:/nowhere']"], "score.index: cub200:/nowhere: /nowhere does not exist"),
        (["score.index=[nolayout:x]"], "score.index: nolayout:x: unknown layout"),
        (["score.queries=['/nowhere/*.tfrec']"], "score.queries: /nowhere/*.tfrec: no shard matches"),
        (["score.index=['{run_dir}/records/cars-test-*.tfrec']"], "is of no source; records.sources has drawn"),
        (["export.formats=[onnx]", "encoder.fit=pad"], "onnx would squash images to a square"),
        (["encoder.fit=aspect", "train.phases.0.trainable=all"], "aspect gives images of many shapes, phase head"),
        (["encoder.fit=aspect", "export.crops=2"], "export: encoder.fit is aspect"),
        (["export.formats=[litert]", "encoder.name=clip_vit_h_14"], "at most 1.9 GB"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(config, overrides, said, nothing_is_read):
    assert said in wrong(config, *overrides)


def test_test_shards_that_the_split_does_not_make_are_refused_by_the_run(config, capsys, nothing_is_read):
    alone = ["records.split={train: 1.0, test: 0.0}", f"run_dir={config.parent}/run"]
    assert cli.main(["run", str(config), *alone]) == 2
    error = capsys.readouterr().err
    assert "score.index names test shards, but records.split (train 1, validation 0, test 0" in error
    assert "or score.index=[] to score nothing" in error and error.count("\n") == 1
    assert not (config.parent / "run").exists()
    run = load(Run, config, alone)
    two = "records.sources=[{layout: drawn, name: drawn}, {layout: drawn, name: away, options: {seed: 1}}]"
    for mended in (["score.index=[]"], [two, "records.split.left_out=[away]"]):
        config_checks.before_run(load(Run, config, [*alone, *mended]))
    config_checks.before_training(run)  # who only trains scores nothing


def test_all_that_is_wrong_stands_in_the_one_line(config):
    text = wrong(config, "encoder.pooling=x", "train.phases.0.trainable=heads", "score.index=[/nowhere]")
    assert all(said in text for said in ("encoder.pooling", "; and phase head: trainable", "; and score.index"))


def test_a_class_too_few_for_a_test_split_is_said_before_training(config, tmp_path, capsys):
    words = [str(config), f"run_dir={tmp_path}/run", "records.split={train: 0.99, test: 0.01}"]
    assert cli.main(["run", *words]) == 2
    assert "no class went to test" in capsys.readouterr().err and not (tmp_path / "run/checkpoints").exists()


def damaged(folder: Path) -> dict[str, str]:
    """Weights that are none → what is said of them."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("config.json", "{}" * 100)
    whole = (folder / "a.zip").read_bytes()
    (folder / "cut.keras").write_bytes(whole[:-30])
    (folder / "text.h5").write_text("no model")
    save_file({"a": np.zeros(9, np.float32)}, folder / "a.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:-8])
    (folder / "text.weights.h5").write_text("no weights")
    (folder / "text.pt").write_text("no weights")
    files.write(folder / "quick.safetensors", {"image/a": np.zeros(1, np.float32)}, {"activation": "quick_gelu"})
    return {
        f"keras_file:{folder}/cut.keras": "does not load",
        f"keras_file:{folder}/text.h5": "does not load: expected HDF5",
        f"file:{folder}/cut.safetensors": "is not a whole safetensors file",
        f"file:{folder}/text.weights.h5": "does not load",
        f"file:{folder}/quick.safetensors": "was trained with quick_gelu",
        f"open_clip:{folder}/cut.safetensors": "is not a whole safetensors file",
        f"open_clip:{folder}/text.pt": "is not a torch file",
    }


@pytest.mark.faults("damaged weights")
@pytest.mark.parametrize("number", range(7))
def test_a_file_that_is_not_what_it_claims_is_refused_by_its_first_bytes(config, tmp_path, number, nothing_is_read):
    spec, said = list(damaged(tmp_path).items())[number]
    name = [f"encoder.name={spec}", *KERAS] if spec.startswith("keras_file") else [f"encoder.weights={spec}"]
    assert said in wrong(config, *name)


def test_a_run_that_has_begun_needs_nothing_that_is_gone_since(config, tmp_path):
    """Training goes on from its checkpoint, and records and scores that are there are not made again."""
    run_dir = tmp_path / "run"
    gone = [
        f"run_dir={run_dir}", "encoder.weights=file:/nowhere.safetensors", "train.init_from=/nowhere.safetensors",
        "records.sources=[{layout: folder, name: a, root: /nowhere}]", "score.index=[/nowhere]",
        "train.validation=[/nowhere/*.tfrec]",
    ]  # fmt: skip
    assert wrong(config, *gone).count("; and ") == 3
    for path in ("checkpoints/step-000000001.safetensors", "records/manifest.json", "metrics.json"):
        (run_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / path).write_text(json.dumps({}))
    config_checks.before_run(load(Run, config, gone))
