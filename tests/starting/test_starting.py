"""What a user starts with: packaged configs and their needs, every key, a config of one's own, the demo's end."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.config import Run, load, packaged, reference
from pipeline.starting import tables
from tests.test_configs import CONFIGS, schema_of


def test_every_config_is_packaged_and_told_apart_by_its_keys():
    assert packaged.names() == sorted(CONFIGS)
    for name, path in CONFIGS.items():
        text = path.read_text()
        kind = reference.kind_of(tables.loading.given(path, []))
        assert reference.schema_of(kind) is schema_of(name)
        assert packaged.head(text).title and packaged.head(text).command in (kind, "sweep"), name


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("demo", ("none", "none", "any")),
        ("vit_h14_fifth_place", ("products-10k, landmarks", "preset", "any")),
        ("vit_h14_arcface_gpu", ("imagenet, products-10k, landmarks", "preset", "8 × A100 or H100")),
        ("similar_products10k", ("products10k", "mobilenet_v1_imagenet.keras", "any")),
        ("captions", ("captions", "none", "two cores")),
    ],
)
def test_the_list_says_what_a_config_needs(name, needs, capsys):
    assert cli.main(["configs"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} ")]
    _, command, *said = re.split(r"\s{2,}", line)
    assert tuple(said[:3]) == needs and command.startswith("guie ")


def test_a_packaged_config_is_the_file_and_runs_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(Run, "demo") == load(Run, CONFIGS["demo"])
    assert load(Run, "demo").run_dir == "runs/demo"
    (tmp_path / "demo").write_text("name: mine")  # a file of that name goes before
    assert load(Run, "demo").name == "mine"


def test_config_show_sets_values_beside_defaults_and_takes_a_command(capsys):
    assert cli.main(["config", "show", "demo", "train.seed=7"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["key"][:3] == ["key", "default", "demo"]
    assert rows["train.seed"][1:3] == ["0", "7"] and rows["train.phases.1.batch_size"][1:3] == ["128", "32"]
    assert cli.main(["config", "show", "zero-shot"]) == 0
    assert "models.N.encoder.name" in capsys.readouterr().out
    assert cli.main(["config", "show"]) == cli.main(["config", "show", "train"]) == 0
    first = capsys.readouterr().out
    assert first[: len(first) // 2] == first[len(first) // 2 :]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "nearest: train"),
        (["demo", "train.sed=1"], "nearest known: train.seed"),
        (["train", "a=1"], "expected a CONFIG before 'a=1'"),
    ],
)
def test_config_show_refuses_in_one_line(words, said, capsys):
    assert cli.main(["config", "show", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_group_alone_shows_its_help(capsys):
    assert cli.main(["config"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("Usage: guie config") and said.out.count("\n") > 5 and not said.err


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\nb", "a/.."])
def test_a_name_that_is_none_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", name]) == 2
    error = capsys.readouterr().err
    assert "expected the name of a config to write" in error and error.count("\n") == 1 and not [*tmp_path.iterdir()]


def test_a_new_config_takes_class_folders_and_is_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "abcdefgh":
        (tmp_path / "birds" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng([ord(name), number]).integers(0, 255, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "birds" / name / f"{number}.png")
    assert cli.main(["new", "mine"]) == 0 and "guie run mine.yaml" in capsys.readouterr().out
    first = (tmp_path / "mine.yaml").read_text()
    assert cli.main(["tfrecords", "mine.yaml"]) == 2 and "PATH/TO/IMAGES" in capsys.readouterr().err
    assert cli.main(["tfrecords", "mine.yaml", "records.sources.0.root=birds"]) == 0
    assert (tmp_path / "runs/mine/records/manifest.json").is_file() and load(Run, "mine.yaml").train.phases
    assert cli.main(["new", "mine.yaml", "--from", "demo"]) == 2
    assert "exists and is left as it is" in capsys.readouterr().err and (tmp_path / "mine.yaml").read_text() == first
    (tmp_path / "model.keras").write_bytes(b"PK\x8b\xff")
    assert cli.main(["new", "other", "--from", "model.keras"]) == 2
    assert "model.keras is not readable as YAML" in capsys.readouterr().err and not (tmp_path / "other.yaml").exists()
    assert cli.main(["new", "other", "--from", "demo"]) == 0
    assert load(Run, "other.yaml").encoder == load(Run, "demo").encoder


def test_the_demo_is_the_packaged_config_and_ends_with_what_to_try_next(tmp_path, monkeypatch, capsys):
    from pipeline import run

    found = []
    monkeypatch.setattr(run, "main", lambda config, redo: found.append((config, redo)))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "train.seed=3", "--redo"]) == 0
    assert found == [(load(Run, "demo", ["train.seed=3"]), True)]
    said = capsys.readouterr().out
    assert "runs/demo/report.html" in said
    commands = re.findall(r"^  guie (\S+)", said, re.MULTILINE)
    assert commands and set(commands) <= set(cli_commands())


def cli_commands() -> list[str]:
    from pipeline.commands import guie

    return list(guie.commands)
