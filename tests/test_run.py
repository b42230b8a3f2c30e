"""`guie run` as its user runs it: the whole way, killed and rerun, refused in one line."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline import cli
from pipeline.training import checkpoints

SMALL = """
records:
  sources: [{layout: drawn, name: drawn, options: {classes: 9, images_per_class: 8, image_size_px: 32, seed: 3}}]
  split: {by: class, train: 0.5555556, validation: 0.2222222, test: 0.2222222}
  images_per_shard: 16
  image_size_px: 32
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: class_token
  architecture: {patch_size: 8, hidden_dim: 32, num_layers: 1, num_heads: 2, intermediate_dim: 64}
train:
  optimizer: {name: adamw, clip_norm: 1.0}
  log_every_steps: 3
  checkpoint_every_steps: 4
  phases:
    - {name: head, trainable: head, epochs: 2, batch_size: 8, learning_rate: 1.0e-3}
    - {name: all, trainable: all, epochs: 3, batch_size: 8, learning_rate: 1.0e-3, augment: {crop_scale_min: 0.6}}
score: {references: [raw_pixels, untrained, raw_features, pca]}
embedder: {embedding_dim: 16, dropout: 0.2}
"""
KILLS = int(os.environ.get("GUIE_KILLS", "2"))
LISTED = ("config.yaml", "records", "checkpoints", "metrics.jsonl", "export/saved_model/saved_model.pb")
LISTED += ("submission.zip", "metrics.json", "scored/items.csv", "report.html", "contact_sheet.jpg", "tensorboard")


def start(config: Path, run_dir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config), f"run_dir={run_dir}", *more]
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1"}
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> tuple[Path, float]:
    """A run that was never killed, and the seconds it took."""
    folder, began = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    process = start(config, folder)
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    return folder, time.monotonic() - began


@pytest.mark.slow
def test_without_anything_to_score_a_run_ends_with_the_export(config, tmp_path):
    process = start(config, tmp_path, "score.index=[]", "train.phases.1.epochs=1")
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    assert "nothing is left to score" in output.splitlines()[-1]
    assert (tmp_path / "submission.zip").is_file() and not (tmp_path / "metrics.json").exists()


@pytest.mark.slow
def test_an_embedding_wider_than_the_competitions_is_scored_and_not_submitted(config, tmp_path, capsys):
    process = start(
        config,
        tmp_path,
        "embedder.embedding_dim=80",
        "embedder.any_width=true",
        "score.references=[]",
        "train.phases.1.epochs=1",
    )
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    assert json.loads((tmp_path / "metrics.json").read_text())["embedding_dim"] == 80
    capsys.readouterr()
    assert cli.main(["check", str(tmp_path / "submission.zip")]) == 2
    assert "[80] numbers, the competition takes 1 … 64" in capsys.readouterr().err
    assert cli.main(["submit", str(tmp_path / "config.yaml"), "--dry-run"]) == 2
    said = capsys.readouterr().err.strip()
    assert "embedder.embedding_dim=80: the competition takes at most 64" in said and "\n" not in said


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".build" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_folder_holds_everything_that_is_promised(whole):
    folder, _ = whole
    assert [name for name in LISTED if not (folder / name).exists()] == []
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["embedding_dim"] == 16 and 0 <= metrics["mP@5"] <= 1
    assert set(metrics["domains"]["drawn"]) >= {"mP@5", "queries", "index"}
    assert set(metrics["references"]) == {"raw_pixels", "untrained", "raw_features", "pca16"}
    low, high = metrics["interval"]
    assert low <= metrics["mP@5"] <= high and set(metrics["differences"]) == set(metrics["references"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows) and any("validation/mP@5" in row for row in rows)
    assert not list(folder.rglob(".partial-*"))


@pytest.mark.slow
@pytest.mark.faults("kill")
def test_a_killed_run_goes_on_to_the_same_records_losses_and_metrics(whole, config, tmp_path, tried):
    expected, seconds = whole
    moments = random.Random(os.environ.get("GUIE_SEED", "7"))
    for _ in range(KILLS):
        process = start(config, tmp_path / "run")
        try:
            process.communicate(timeout=moments.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    process = start(config, tmp_path / "run")
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    assert hashes(tmp_path / "run/records") == hashes(expected / "records")

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["loss"], row.get("validation/mP@5")) for row in rows]

    assert losses(tmp_path / "run") == losses(expected)
    found, wanted = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "run", expected))
    assert found["mP@5"] == wanted["mP@5"] and found["references"] == wanted["references"]
    tried(KILLS)


def test_what_is_done_is_not_done_again(whole, config):
    folder, _ = whole
    made = [*folder.glob("records/*.tfrec"), *folder.glob("checkpoints/*"), folder / "submission.zip"]
    made += [*folder.glob("features/*"), folder / "metrics.json", folder / "export/saved_model/saved_model.pb"]
    before = {path: path.stat().st_mtime_ns for path in made}
    process = start(config, folder)
    output, error = process.communicate()
    assert process.returncode == 0, error
    assert "train: done already" in output and "score: done already" in output
    assert before == {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.faults("stale results")
def test_another_recipe_in_the_same_folder_is_refused(whole, config, capsys):
    folder, _ = whole
    before = hashes(folder / "checkpoints")
    code = cli.main(["train", str(config), f"run_dir={folder}", "train.phases.0.learning_rate=0.5"])
    error = capsys.readouterr().err
    assert code == 2 and "another recipe" in error and error.count("\n") == 1
    assert hashes(folder / "checkpoints") == before


SEEDED = {
    "records": {
        "sources": [
            {"layout": "drawn", "name": name, "options": {"classes": 8, "images_per_class": 6, "image_size_px": 32,
                                                          "seed": seed}}
            for seed, name in enumerate(("circles", "squares", "away"))
        ],
        "split": {"by": "class", "train": 0.5, "validation": 0.125, "test": 0.375, "left_out": ["away"]},
    },
    "train": {"phases": [{"name": "head", "trainable": "head", "epochs": 2, "batch_size": 8}]},
    "score": {"references": ["raw_features", "pca", "half_whitened", "pml_arcface"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def seeded(tmp_path_factory) -> tuple[Path, Path, str, float]:
    """Config and folder of a run over two seeds with a domain left out, its output and its seconds."""
    folder, began = tmp_path_factory.mktemp("seeded"), time.monotonic()
    values = {**yaml.safe_load(SMALL), "seeds": [0, 3]}
    for section, given in SEEDED.items():
        values[section] = {**values[section], **given}
    (config := folder / "seeded.yaml").write_text(yaml.safe_dump(values))
    process = start(config, folder / "run")
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    return config, folder / "run", output, time.monotonic() - began


@pytest.mark.slow
def test_a_domain_left_out_has_its_row_and_the_others_unseen_classes_theirs(seeded):
    _, folder, output, _ = seeded
    records = {path.name.rsplit("-", 2)[0] for path in folder.glob("records/*.tfrec")}
    trained = {f"{name}-{split}" for name in ("circles", "squares") for split in ("train", "validation", "test")}
    assert records == trained | {"away-test"}
    metrics = json.loads((folder / "metrics.json").read_text())
    sizes = {name: each["queries"] for name, each in metrics["domains"].items()}
    assert sizes == {"circles": 18, "squares": 18, "away": 48} and metrics["unseen"]["queries"] == 36
    assert [name for name, each in metrics["domains"].items() if each["left_out"]] == ["away"]
    rows = {"raw_features", "pca16", "half_whitened16", "pml_arcface"}
    for each in (metrics, metrics["unseen"], *metrics["domains"].values()):
        assert set(each["references"]) == set(each["differences"]) == rows
        assert each["interval"][0] <= each["mP@5"] <= each["interval"][1]
    assert "unseen classes, one index" in output and "away (left out)" in output and "and 2 seeds" in output
    page = (folder / "report.html").read_text()
    assert "away (left out)" in page and "Means over 2 training seeds" in page and "never trained on" in page


@pytest.mark.slow
def test_scores_over_seeds_are_those_of_the_seeds_on_the_same_records(seeded):
    _, folder, _, _ = seeded
    assert [path.parent for path in folder.rglob("*.tfrec") if path.parent != folder / "records"] == []
    seeds = {name: json.loads((folder / f"seed-{name}/metrics.json").read_text()) for name in ("0", "3")}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["seeds"] == {name: each["mP@5"] for name, each in seeds.items()}
    first, second = seeds.values()
    for path in (("mP@5",), ("unseen", "mP@5"), ("references", "pml_arcface"), ("domains", "away", "mP@5")):
        values = [metrics, first, second]
        for key in path:
            values = [each[key] for each in values]
        assert values[0] == pytest.approx((values[1] + values[2]) / 2), path
    with np.load(folder / "seed-0/precisions.npz") as kept:
        assert kept["embedder/whole"].mean() == pytest.approx(first["mP@5"]) and len(kept["embedder/whole"]) == 84
    weights = [hashes(folder / f"seed-{name}/checkpoints") for name in seeds]
    assert set(weights[0]) == set(weights[1]) and weights[0] != weights[1]


@pytest.mark.slow
@pytest.mark.faults("kill")
def test_a_killed_run_over_seeds_goes_on_to_the_same_scores_and_is_not_done_again(seeded, tmp_path):
    config, expected, _, seconds = seeded
    process = start(config, tmp_path / "run")
    try:
        process.communicate(timeout=random.Random(os.environ.get("GUIE_SEED", "7")).uniform(0.4, 0.9) * seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    (tmp_path / "run").rename(tmp_path / "moved")  # the seeds' recipes hold no path of this machine
    for said in (False, True):
        process = start(config, tmp_path / "moved")
        output, error = process.communicate()
        assert process.returncode == 0, output + error
        assert (output.count("score: done already") == 3) is said
        found, wanted = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "moved", expected))
        assert {**found, "asked": ""} == {**wanted, "asked": ""}


def test_a_seed_that_stands_twice_is_refused(config, tmp_path, capsys):
    assert cli.main(["run", str(config), f"run_dir={tmp_path}/run", "seeds=[1,1]"]) == 2
    assert "seeds: expected each once, got [1, 1]" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_report_is_one_page_with_the_scores_and_the_pictures(whole):
    page = (whole[0] / "report.html").read_text()
    assert "raw_pixels" in page and page.count("<figure") >= 6 * 10
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)  # "#": a mark that the chart itself defines


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("records.sources.0.layout=nolayout", "nolayout"),
        ("train.phases.0.batch_size=0", "batch_size"),
        ("train.loss.name=softmax", "softmax"),
        ("encoder.name=clip_vit_b_33", "clip_vit_b_33"),
        ("encoder.name=", "encoder.name"),
        ("embedder.embedding_dim=65", "64"),
        ("train.optimizer.name=adamm", "adamm"),
        ("train.phases.0.trainable=heads", "heads"),
        ("devices.kind=tpu", "rehearse"),
        ("devices.precision=float8", "float8"),
        ("train.init_from=/nowhere.safetensors", "nowhere"),
    ],
)
def test_a_wrong_value_ends_in_one_line(whole, config, tmp_path, override, said, capsys):
    records = [f"train.{name}=[{whole[0]}/records/*-{split}-*.tfrec]" for name, split in (("records", "train"),)]
    command = "tfrecords" if override.startswith("records") else "train"
    code = cli.main([command, str(config), f"run_dir={tmp_path}/run", *records, override])
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1
    assert not checkpoints.newest(tmp_path / "run/checkpoints")


def test_validation_on_a_shard_that_is_trained_on_is_refused(whole, config, tmp_path, capsys):
    patterns = [f"train.{name}=[{whole[0]}/records/*.tfrec]" for name in ("records", "validation")]
    assert cli.main(["train", str(config), f"run_dir={tmp_path}/run", *patterns]) == 2
    error = capsys.readouterr().err
    assert "among train.records, too" in error and error.count("\n") == 1


@pytest.mark.faults("NaN loss")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_steps(whole, config, tmp_path, capsys):
    pattern = f"[{whole[0]}/records/*-train-*.tfrec]"
    code = cli.main(
        ["train", str(config), f"run_dir={tmp_path}/run", f"train.records={pattern}",
         "train.optimizer.name=sgd", "train.optimizer.clip_norm=null", "train.phases.0.learning_rate=1e38"]
    )  # fmt: skip
    error = capsys.readouterr().err
    assert code == 2 and "the loss is" in error and "steps 0…" in error
    assert not checkpoints.newest(tmp_path / "run/checkpoints")


@pytest.mark.slow
def test_a_folder_of_class_folders_trains_too(config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in range(6):
        for number in range(5):
            path = tmp_path / "data" / f"class{name}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 30 + name, 3), dtype=np.uint8)).save(path)
    (tmp_path / "data/class0/notes.txt").write_text("no image")
    values = yaml.safe_load(SMALL)
    values["records"]["sources"] = [{"layout": "folder", "name": "mine", "root": "data"}]
    values["records"]["max_reject_share"] = 0.5
    values["data_root"] = str(tmp_path)
    values["train"]["phases"] = values["train"]["phases"][:1]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    process = start(tmp_path / "mine.yaml", tmp_path / "run")
    output, error = process.communicate()
    assert process.returncode == 0, output + error
    assert "notes.txt" in (tmp_path / "run/records/rejects.csv").read_text()
