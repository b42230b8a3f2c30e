"""Every config loads; every training config is planned, and rehearsed on two replicas under XLA, narrowed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli, config
from pipeline.commands import guie
from pipeline.models import catalogue
from pipeline.training.checkpoints import recipe_fingerprint

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}
# And the accelerator whose hours they state first.
BIG = {
    name: "8xH100" if name.endswith("_gpu") else "v3-8" for name in CONFIGS if name.startswith(("vit_h14_", "siglip_"))
}
NARROW = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}


def schema_of(name: str) -> type:
    """The dataclass that a config's stage loads it into; its name says which stage."""
    if name.startswith("zero_shot"):
        from pipeline.zero_shot.command import ZeroShot as schema
    elif name.startswith("staged"):
        from pipeline.staged.command import Staged as schema
    elif name.startswith("captions"):
        from pipeline.captions.command import Captions as schema
    elif name.startswith("similar"):
        from pipeline.similar.command import Similar as schema
    else:
        schema = config.Run
    return schema


RUNS = [name for name in CONFIGS if schema_of(name) is config.Run]
TRAINING = [name for name in RUNS if config.load(config.Run, CONFIGS[name]).train.phases]
# Their phases are those of uned_udon and siglip_so400m_probe but for sampling, loss and widths.
ALIKE = ("ilias_adapt", "real_images_udon", "uned_joint")
# One of each recipe: real_images_all trains as real_images does, on other records.
RECIPES = list(
    {
        recipe_fingerprint(config.load(config.Run, CONFIGS[name])): name
        for name in reversed(TRAINING)
        if name not in ALIKE
    }.values()
)


def small_keras_file(path: Path) -> Path:
    import keras

    inputs = keras.Input([32, 32, 3])
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(inputs)
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(path)
    return path


def narrowed(name: str, keras_file: Path) -> list[str]:
    """Overrides that keep a config's phases, sizes and losses, but make its encoder and batches small."""
    run = config.load(config.Run, CONFIGS[name])
    overrides = []
    for number, phase in enumerate(run.train.phases):
        overrides.append(f"train.phases.{number}.batch_size=4")
        if phase.trainable.endswith("blocks"):
            overrides.append(f"train.phases.{number}.trainable=last 1 blocks")
    if run.encoder.name.startswith("keras_file:"):
        return [*overrides, f"encoder.name=keras_file:{keras_file}"]
    architecture = {**run.encoder.architecture, **NARROW}
    if not catalogue.find(run.encoder.name).facts.transformer:
        architecture = {}
    return [*overrides, "encoder.weights=none", f"encoder.architecture={json.dumps(architecture)}"]


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """Drawn images, 6 classes, as the real command writes them."""
    folder = tmp_path_factory.mktemp("records")
    text = """
    records:
      sources: [{layout: drawn, name: drawn, options: {classes: 6, images_per_class: 4, image_size_px: 32}}]
    """
    (folder / "drawn.yaml").write_text(text)
    assert cli.main(["tfrecords", str(folder / "drawn.yaml"), f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def rehearsals(records) -> dict[str, str]:
    """What `guie train CONFIG devices.rehearse=2` printed, by config."""
    keras_file = small_keras_file(records / "small.keras")
    asked = {}
    for name in RECIPES:
        own = [f"train.records=[{records}/records/*.tfrec]", "train.validation=[]", f"run_dir={records}/{name}"]
        two = ["devices.rehearse=2", "devices.rehearse_steps=2"]
        asked[str(CONFIGS[name])] = [*narrowed(name, keras_file), *own, *two]
    script = [sys.executable, "-m", "tests.training.rehearsals", json.dumps(asked)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = done.stdout.split("== ")[1:]
    return {Path(part.split("\n", 1)[0]).stem: part + done.stderr[-500:] for part in parts}


def commands_in_the_head(text: str) -> list[str]:
    """The `guie` commands of a config's head: lines that are indented by three spaces, up to an explanation."""
    head = text.split("\n", 1)[1].split("\nrecords:")[0]
    lines = [line for line in head.splitlines() if line.startswith("#   ")]
    parts = [part for line in lines for part in re.split(r" && |\s{4,}|\(then: |\)$", line.removeprefix("#   "))]
    return [part[part.index("guie ") :].strip() for part in parts if re.match(r"(\S+=\S+ )?guie ", part)]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_loads_and_the_commands_of_its_head_are_right(name, monkeypatch):
    """Each command is parsed, its config and overrides loaded and checked; what it would start is left out."""
    config.load(schema_of(name), CONFIGS[name])
    text = CONFIGS[name].read_text()
    assert len(text.splitlines()) <= 60
    found = commands_in_the_head(text)
    assert any(f"configs/{name}.yaml" in command for command in found)
    monkeypatch.chdir(ROOT)
    for command in found:
        _, first, *words = shlex.split(command)
        monkeypatch.setattr(guie.commands[first], "callback", lambda **_: None)
        assert cli.main([first, *words]) == 0, command
        assert all((ROOT / word).is_file() for word in words if word.startswith("configs/")), command


@pytest.mark.parametrize("name", BIG)
def test_big_configs_state_hardware_the_plans_hours_and_a_score_marked_as_reported(name, capsys):
    text = CONFIGS[name].read_text()
    assert "Hardware:" in text and "Reported by its source" in text and "not measured here" in text
    assert cli.main(["plan", str(CONFIGS[name]), "--on", BIG[name]]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    hours = last.split(f"{BIG[name]} ")[1].split(" h")[0]
    assert f"{float(hours):.2g} " in text.replace("\n# ", " ").split("Hours: ")[1][:40] or hours in text
    for held in re.findall(r"v3-8(?:'s 16 GB hold(?: at most)?| has) (\d+\.\d)", text):
        assert f"fits, {held} of 16 GiB" in last


@pytest.mark.parametrize("name", TRAINING)
def test_training_config_is_planned(name, records, capsys):
    overrides = []
    if config.load(config.Run, CONFIGS[name]).encoder.name.startswith("keras_file:"):
        overrides = [f"encoder.name=keras_file:{small_keras_file(records / 'planned.keras')}"]
    asked = ["--images", "5000", "--classes", "100", "--on", BIG.get(name, "v3-8")]
    assert cli.main(["plan", str(CONFIGS[name]), *overrides, *asked]) == 0
    printed = capsys.readouterr().out
    for phase in config.load(config.Run, CONFIGS[name]).train.phases:
        assert f"phase {phase.name}:" in printed
    assert "fits" in printed.splitlines()[-1] and "not fit" not in printed
    assert name not in BIG or "enlarges" not in printed  # the records hold what its crops need


def test_a_plan_says_where_records_store_less_than_the_crops_need(capsys):
    """290 / √(0.7 / 1.33) = 399.7: what the widest aspect leaves of the shorter side."""
    first = ["plan", str(CONFIGS["vit_h14_first_place"]), "--on", "v3-8"]
    assert cli.main([*first, "records.image_size_px=400"]) == 0
    assert "enlarges" not in capsys.readouterr().out
    assert cli.main([*first, "records.image_size_px=399"]) == 0
    assert (
        "phase overlap enlarges some of its crops" in (printed := capsys.readouterr().out) and "the 400 px" in printed
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_training_config_rehearses_every_phase(name, rehearsals):
    printed = rehearsals[name]
    assert "exit code 0" in printed, printed
    for phase in config.load(config.Run, CONFIGS[name]).train.phases:
        assert f"rehearsal {phase.name}: losses " in printed
    assert "rehearsal on 2 logical CPU replica(s)" in printed


@pytest.mark.slow
def test_a_rehearsal_leaves_no_run_behind(rehearsals, records):
    assert rehearsals and not [path for name in RECIPES for path in (records / name).rglob("*")]


def test_the_tpu_config_names_the_rehearsal_on_a_machine_without_one(tmp_path, capsys):
    """Before it asks for records: `make train-tpu` in a fresh clone says what the machine lacks."""
    assert cli.main(["train", str(CONFIGS["vit_h14_arcface_tpu"]), f"run_dir={tmp_path}/none"]) == 2
    error = capsys.readouterr().err.strip()
    assert "expected TensorFlow for TPUs (tensorflow-tpu), found tensorflow 2.2" in error
    assert "devices.rehearse=8" in error and len(error.splitlines()) == 1
