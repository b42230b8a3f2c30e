"""What the environment gives is in no byte of what commands write, and what is secret by its name is never printed."""

import io
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from export import check, package
from pipeline import cli

SECRET, PLACE = secrets.token_hex(12), secrets.token_hex(12)  # of a variable that is secret by its name, and of another
CONFIG = """
name: "n ${oc.env:GUIE_TEST_TOKEN}"
data_root: /absent/${oc.env:GUIE_TEST_TOKEN}
records:
  sources:
    - {layout: drawn, name: a, root: "${oc.env:GUIE_TEST_PLACE}", options: &drawn {classes: 6, images_per_class: 4}}
    - {layout: drawn, name: b, root: "${data_root}/b", options: *drawn}
  split: {train: 0.7, test: 0.3}
  image_size_px: 16
  beam_options: ["--password=${oc.env:GUIE_TEST_TOKEN}", "http://u:${oc.env:GUIE_TEST_TOKEN}@host/x"]
encoder:
  name: clip_vit_b_32
  image_size_px: 16
  pooling: mean
  architecture: {patch_size: 8, hidden_dim: 16, num_layers: 1, num_heads: 2, intermediate_dim: 32}
embedder: {embedding_dim: 8}
devices: {tpu: "grpc://${oc.env:GUIE_TEST_TOKEN}:8470", kind: cpu}
train: {phases: [{name: "${oc.env:GUIE_TEST_TOKEN}", epochs: 1, batch_size: 8}]}
seeds: [0]
score: {references: [raw_pixels]}
submit:
  dataset: somebody/tiny-dataset
  kernel: somebody/tiny-kernel
  message: "${oc.env:GUIE_TEST_TOKEN} ${oc.env:GUIE_TEST_PLACE}"
  images: []
sweep:
  trials: 2
  folds: [classes 1/2]
  space: {train.phases.0.name: ["${oc.env:GUIE_TEST_TOKEN}", b]}
"""


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a file, and of what a zip in it holds."""
    held = path.read_bytes()
    yield str(path), held
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(io.BytesIO(held)) as archive:
            for member in archive.namelist():
                yield f"{path}:{member}", archive.read(member)


def holding(folder: Path, *values: str) -> list[str]:
    """The files and names below a folder in which one of the values stands."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) > 1
    found = [name for path in files for name, held in contents(path) if any(each.encode() in held for each in values)]
    return found + [str(path) for path in folder.rglob("*") if any(each in path.name for each in values)]


@pytest.mark.slow
@pytest.mark.faults("secrets in files and on the screen")
def test_no_file_of_a_whole_run_holds_what_the_environment_gave(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("GUIE_TEST_TOKEN", SECRET)
    monkeypatch.setenv("GUIE_TEST_PLACE", PLACE)
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET[::-1])
    monkeypatch.setattr(check, "main", lambda options: None)  # its own tests are slow, and it reads no config
    monkeypatch.setattr(package, "build_wheel", lambda folder: None)  # of the checkout alone
    config, run = tmp_path / "secret.yaml", tmp_path / "run"
    config.write_text(CONFIG)
    for command in ("run", "sweep", "plan"):
        assert cli.main([command, str(config), f"run_dir={run}"]) == 0, capfd.readouterr().err
    one = [str(config), f"run_dir={run}/seed-0"]
    for argv in (["report", *one], ["export", *one], ["submit", *one, "--dry-run"]):
        assert cli.main(argv) == 0, capfd.readouterr().err
    package.build_training(cli_config(run / "seed-0/config.yaml"))  # of the config as run
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed and SECRET[::-1] not in printed and "$GUIE_TEST_TOKEN" in printed
    assert holding(run, SECRET, SECRET[::-1], PLACE) == []
    for name in ("config.yaml", "seed-0/config.yaml", "seed-0/export/model_card.md", "seed-0/report.html"):
        assert "${oc.env:GUIE_TEST_TOKEN}" in (run / name).read_text(), name
    for name in ("dataset", "training-dataset"):  # what is uploaded
        assert "${oc.env:GUIE_TEST_PLACE}" in (run / "seed-0/submit" / name / "config.yaml").read_text()
    assert "GUIE_TEST" in (run / "sweep/best.yaml").read_text()


def cli_config(path: Path):
    from pipeline.config import Run, load

    return load(Run, path)


@pytest.mark.faults("secrets in files and on the screen")
def test_a_traceback_and_an_error_line_show_no_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GUIE_TEST_TOKEN", SECRET)
    assert cli.main(["run", str(tmp_path / SECRET)]) == 2
    assert "$GUIE_TEST_TOKEN does not exist" in capsys.readouterr().err
    (tmp_path / "a.yaml").write_text("train: {seed: '${oc.env:GUIE_TEST_PLACE}'}")
    monkeypatch.setenv("GUIE_TEST_PLACE", PLACE)
    assert cli.main(["run", str(tmp_path / "a.yaml")]) == 2
    error = capsys.readouterr().err
    assert PLACE not in error and "train.seed" in error and error.count("\n") == 1

    def fails(run):
        print(f"works on {SECRET}")
        raise RuntimeError(f"with {SECRET}")

    monkeypatch.setattr("pipeline.planning.plan.main", fails)
    (tmp_path / "b.yaml").write_text("name: b\n")
    assert cli.main(["plan", str(tmp_path / "b.yaml")]) == 1
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed and "works on $GUIE_TEST_TOKEN" in printed and "Traceback" in printed
