"""`guie plan`: its arithmetic against the built step in XLA, against open_clip, and by hand."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cli, config
from pipeline.config import Embedder, Encoder, Phase, Run, Sampling, Train
from pipeline.config.phase_keys import holds_start
from pipeline.errors import BadInput
from pipeline.models import catalogue, embedder
from pipeline.planning import accelerators, costs, estimates, remedies
from pipeline.planning.costs import EncoderCosts
from pipeline.planning.estimates import Estimate
from pipeline.training import class_centers, optimizers
from pipeline.training.distillation import teachers
from tests.planning.built_cases import CASES, SIDE, SMALL

ROOT = Path(__file__).parents[2]
CLASSES = 50


@pytest.fixture(scope="module")
def measured() -> dict[str, dict]:
    script = [sys.executable, "-m", "tests.planning.built_costs"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def planned(name: str) -> tuple[costs.StepCosts, EncoderCosts]:
    run = CASES[name].run
    phase = run.train.phases[0]
    encoder = estimates.encoder_costs(run.encoder, phase.image_size_px, phase.patch_overlap_px)
    return costs.step(encoder, run, phase, CASES[name].classes, on_features=False), encoder


def planned_memory(name: str, in_one: bool) -> dict[str, float]:
    """As the plan has it, with the pixels and the kept weights that the step is given."""
    run, images = CASES[name].run, CASES[name].images
    step, encoder = planned(name)
    checkpointing = run.encoder.checkpointing
    memory = costs.memory_bytes(step, run.train.optimizer, images, checkpointing, compute_bytes=4, in_one=in_one)
    kept = 4 * encoder.parameters * holds_start(run.train.phases[0])
    return {**memory, "given": 3 * encoder.image_size_px**2 * images + kept}


def test_teachers_are_counted_as_they_are_built():
    """A head of each source that is trained on, a classifier of each class; held by the optimizer, too."""
    sources = [config.Source("drawn", name) for name in "abc"] + [config.Source("drawn", "d", split="test")]
    plain = Run(
        name="p",
        records=config.Records(sources, config.Split(left_out=["b"])),
        encoder=Encoder(name="clip_vit_b_32", architecture=SMALL, image_size_px=SIDE),
        train=Train(phases=[Phase(name="p", trainable="all")], loss=config.Loss(own_domain=True)),
    )
    taught = replace(plain, train=replace(plain.train, teachers=config.Teachers(dim=24)))
    size = estimates.SetSize(1000, CLASSES, "given")
    without, planned = (estimates.plan_phase(run, 0, size, 0.35) for run in (plain, taught))
    built = teachers.build(taught.train.teachers, 2, CLASSES, estimates.encoder_costs(plain.encoder).width, 0)
    count = sum(math.prod(variable.shape) for variable in built.trained)
    assert planned.costs.parameters - without.costs.parameters == count
    assert planned.costs.trained_parameters - without.costs.trained_parameters == count
    name = "v3-8"
    more = planned.estimates[name].memory["optimizer"] - without.estimates[name].memory["optimizer"]
    assert more == 8 * count and planned.costs.flops > without.costs.flops


def test_a_head_with_pca_is_counted_at_the_width_that_is_trained():
    """Head and centres at 256 numbers; PCA and batch norm's statistics are held, not trained; a pass of 20 images."""
    encoder = Encoder(name="clip_vit_b_32", architecture=SMALL, image_size_px=SIDE)
    phase = Phase(name="p", trainable="all")
    plain, wide = (
        Run(encoder=encoder, embedder=embedder, train=Train(phases=[phase]))
        for embedder in (Embedder(), Embedder(trained_dim=256, batch_norm=True, pca_images=20))
    )
    size = estimates.SetSize(100, CLASSES, "given")
    before, after = (estimates.plan_phase(run, 0, size, 0.35) for run in (plain, wide))
    of_encoder = estimates.encoder_costs(encoder)
    width, trained = of_encoder.width, (256 - 64) * (of_encoder.width + 1 + CLASSES)
    assert after.costs.trained_parameters - before.costs.trained_parameters == trained
    assert after.costs.parameters - before.costs.parameters == trained + 256 * 64 + 64 + 2 * width
    seconds = [3600 * each.estimates["v3-8"].hours for each in (before, after)]
    steps = [each.steps * phase.batch_size * each.costs.flops for each in (before, after)]
    rate = steps[0] / seconds[0]
    assert seconds[1] * rate == pytest.approx(steps[1] + 20 * of_encoder.flops)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_parameters_are_the_built_models(measured, name):
    step, _ = planned(name)
    assert (step.parameters, step.trained_parameters) == (measured[name]["parameters"], measured[name]["trained"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_of_xlas_optimised_graph(measured, name):
    step, _ = planned(name)
    images = CASES[name].images // CASES[name].run.train.optimizer.accumulate_steps  # a loop over pieces stands once
    assert step.flops * images == pytest.approx(measured[name]["flops"], rel=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory_is_within_10_percent_of_xlas_buffers_of_the_whole_step(measured, name):
    assert sum(planned_memory(name, in_one=True).values()) == pytest.approx(measured[name]["bytes"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].alone])
def test_memory_of_gradients_that_are_compiled_alone_is_within_10_percent(measured, name):
    memory = planned_memory(name, in_one=False)
    assert sum(memory.values()) - memory["optimizer"] == pytest.approx(measured[name]["bytes_alone"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_optimizer_state_is_the_built_optimizers(measured, name):
    # Adafactor's rows and columns are 9 % of a model this narrow, and vanish beside a real one's matrices.
    near = 0.1 if name == "adafactor" else 0.001
    assert planned_memory(name, True)["optimizer"] == pytest.approx(measured[name]["optimizer_bytes"], rel=near)


@pytest.mark.slow
def test_large_towers_have_open_clips_number_of_parameters():
    from pipeline.models.weights import files

    open_clip = files.import_open_clip()
    import torch

    for name, theirs in (
        ("clip_vit_h_14", "ViT-H-14"),
        ("clip_vit_l_14", "ViT-L-14"),
        ("siglip_so400m_patch14_384", "ViT-SO400M-14-SigLIP-384"),
        ("siglip2_giant_opt_patch16_384", "ViT-gopt-16-SigLIP2-384"),
        ("metaclip_2_vit_giant_patch14_378", "ViT-bigG-14-worldwide-378"),
        ("pe_core_t_16_384", "PE-Core-T-16-384"),
        ("pe_core_l_14_336", "PE-Core-L-14-336"),
        ("pe_core_bigg_14_448", "PE-Core-bigG-14-448"),
    ):
        with torch.device("meta"):
            visual = open_clip.create_model(theirs, device="meta").visual
        assert estimates.encoder_costs(Encoder(name=name)).parameters == sum(p.numel() for p in visual.parameters())
    import timm

    for name, entry in catalogue.CATALOGUE.items():
        if entry.timm:
            with torch.device("meta"):
                theirs = timm.create_model(entry.timm, num_classes=0, global_pool="token")
            numbers = sum(p.numel() for p in theirs.parameters())
            assert estimates.encoder_costs(Encoder(name=name)).parameters == numbers, name


def test_vit_h14_fits_16_gib_only_with_checkpointing():
    run = config.load(Run, ROOT / "configs/vit_h14_arcface_tpu.yaml")
    size = estimates.SetSize(500_000, 17_691, "given")
    on_v3 = estimates.plan_phase(run, 0, size, 0.35).estimates["v3-8"]
    assert on_v3.fits
    plain = config.load(Run, ROOT / "configs/vit_h14_arcface_tpu.yaml", ["encoder.checkpointing=false"])
    without = estimates.plan_phase(plain, 0, size, 0.35).estimates
    assert not without["v3-8"].fits and without["v3-8"].other_activations == on_v3.memory["activations"]
    assert on_v3.hours == pytest.approx(4 * 500_000 / on_v3.images_per_second / 3600, rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "device", "mend"),
    [
        (["encoder.checkpointing=false"], "v3-8", ("encoder.checkpointing=true",)),
        (
            ["train.phases.0.keep.weights=0.1", "train.phases.0.average_from=0.5"],
            "v3-8",
            ("train.optimizer.moments=bfloat16",),
        ),
        ([], "2xT4", ("train.phases.0.batch_size=100",)),
        (["encoder.name=clip_vit_h_14", "encoder.architecture.num_layers=200"], "T4", None),
    ],
)
def test_what_does_not_fit_is_told_the_cheapest_change_that_does(overrides, device, mend, capsys):
    run = config.load(Run, ROOT / "configs/vit_h14_arcface_tpu.yaml", overrides)
    size, on = estimates.SetSize(500_000, 17_691, "given"), accelerators.find(device)
    found = remedies.find(run, size, 0.35, on)
    assert (found and found.overrides) == mend
    arguments = ["plan", str(ROOT / "configs/vit_h14_arcface_tpu.yaml"), "--on", device, *overrides]
    assert cli.main(arguments) == 0
    assert "does not fit, " in (line := capsys.readouterr().out.splitlines()[-1])
    assert ("nothing that keeps the encoder does" if mend is None else f": {' '.join(mend)} does: ") in line
    if mend:
        assert cli.main([*arguments, *mend]) == 0
        assert ", fits, " in capsys.readouterr().out.splitlines()[-1]


def test_half_the_share_takes_twice_the_hours():
    run = config.load(Run, ROOT / "configs/vit_h14_first_place.yaml")
    size = estimates.SetSize(100_000, 1000, "given")
    for number in range(len(run.train.phases)):
        whole, half = (estimates.plan_phase(run, number, size, share).estimates["v4-8"] for share in (0.4, 0.2))
        assert half.hours == pytest.approx(2 * whole.hours)


def test_small_classes_drawn_more_often_lengthen_the_epoch():
    size = estimates.SetSize(34, 3, "given", [3, 1, 30])
    phase = Phase(name="p", trainable="head", epochs=1, batch_size=10, min_images_per_class=20)
    run = Run(encoder=Encoder(name="clip_tiny"), train=Train(phases=[phase]))
    found = estimates.plan_phase(run, 0, size, 0.35)
    assert found.drawn == 7 * 3 + 20 * 1 + 30 and found.steps == 7


@pytest.mark.parametrize(("least", "drawn"), [(0, 3 + 1 + 10), (20, 7 * 3 + 20 * 1 + 10)])
def test_a_cap_of_the_sampling_shortens_the_epoch(least, drawn):
    phase = Phase(name="p", batch_size=2, min_images_per_class=least, sampling=Sampling(cap_per_class=10))
    run = Run(encoder=Encoder(name="clip_tiny"), train=Train(phases=[phase]))
    assert estimates.plan_phase(run, 0, estimates.SetSize(34, 3, "given", [3, 1, 30]), 0.35).drawn == drawn
    assert estimates.plan_phase(run, 0, estimates.SetSize(34, 3, "given"), 0.35).drawn == 30  # at most


def test_built_records_come_before_known_sizes(tmp_path):
    config_path = ROOT / "configs/vit_h14_arcface_tpu.yaml"
    run = config.load(Run, config_path, [f"run_dir={tmp_path}"])
    size = estimates.set_size(run)
    assert (size.classes, size.images) == (17_160, round(0.97 * (50_000 + 141_931 + 350_000)))
    rows = [{"label": i, "train": n, "validation": 0, "test": 1} for i, n in enumerate([4, 0, 6])]
    (tmp_path / "records").mkdir()
    (tmp_path / "records/labels.json").write_text(json.dumps({"sources": [], "classes": rows}))
    size = estimates.set_size(run)
    assert (size.images, size.classes, size.counts) == (10, 2, [4, 6])
    assert estimates.set_size(run, images=7).images == 7


def test_any_keras_model_is_planned_from_its_graph(tmp_path):
    import keras

    inputs = keras.Input([16, 16, 3])
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(inputs)  # [8, 8, 8]
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, x).save(tmp_path / "small.keras")
    encoder = Encoder(name=f"keras_file:{tmp_path}/small.keras", mean=[0.5] * 3, std=[0.5] * 3)
    found = estimates.encoder_costs(encoder)
    assert found.flops == 2 * (64 * 8 * 27 + 64 * 8 * 9 + 8 * 5)
    assert found.parameters == (27 * 8 + 8) + (9 * 8 + 8) + (8 * 5 + 5) and found.width == 5
    assert found.end_elements >= 2 * 64 * 8 and found.image_size_px == 16
    with pytest.raises(BadInput, match="2 known blocks"):  # as `guie train` says
        costs.step(found, Run(), Phase(name="p", trainable="last 3 blocks"), CLASSES, on_features=False)
    everything = costs.step(found, Run(), Phase(name="p", trainable="all"), CLASSES, on_features=False)
    assert everything.trained_parameters == everything.parameters


def test_a_keras_model_of_any_size_costs_what_it_does_at_the_configs(tmp_path):
    import keras

    found = []
    for side in (None, 24):
        inputs = keras.Input([side, side, 3])
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, padding="same")(inputs))
        keras.Model(inputs, x).save(tmp_path / f"{side}.keras")
        name = f"keras_file:{tmp_path}/{side}.keras"
        found.append(estimates.encoder_costs(Encoder(name=name, mean=[0.5] * 3, std=[0.5] * 3, image_size_px=24)))
    assert found[0] == found[1] and found[0].flops == 2 * 24 * 24 * 8 * 27


def test_last_blocks_of_a_convolutional_network_have_the_parameters_that_training_trains():
    import tensorflow as tf

    run = Run(encoder=Encoder(name="mobilenet_v3_small_050", image_size_px=32))
    model = embedder.build(run)
    centers = class_centers.build(CLASSES, 1, 64, 0, False, tf.distribute.get_strategy())
    encoder = estimates.encoder_costs(run.encoder)
    whole = costs.built(model.encoder.model, 32, [])
    assert encoder.blocks == 12 and encoder.parameters == whole.parameters
    assert encoder.flops == pytest.approx(whole.flops)
    for word in (
        "head",
        "last 1 block",
        "last 5 blocks",
        "last 12 blocks",
        "last 1 %",
        "last 50 %",
        "last 100 %",
        "all",
    ):
        phase = Phase(name="p", trainable=word)
        variables, _ = optimizers.trained_variables(model, centers, phase)
        trained = sum(math.prod(variable.shape) for variable in variables)
        assert costs.step(encoder, run, phase, CLASSES, False).trained_parameters == trained, word
    with pytest.raises(BadInput, match="12 known blocks"):
        costs.step(encoder, run, Phase(name="p", trainable="last 13 blocks"), CLASSES, False)


@pytest.mark.parametrize(
    ("layout", "options", "classes", "images"),
    [
        ("cub200", {}, 200, 11_788),
        ("cub200", {"split": "train"}, 200, 5_994),
        ("imagenet", {"split": "val"}, 1000, 50_000),
        ("cifar10", {"split": "test"}, 10, 10_000),
        ("cifar100", {"coarse": True}, 20, 50_000),
        ("landmarks", {"classes": 50}, 50, 50_000),
        ("products10k", {"iconic": True}, 9691, 141_931 + 9691),
        ("drawn", {"classes": 5}, 5, 300),
    ],
)
def test_known_sizes_are_those_of_the_split(layout, options, classes, images):
    source = config.Source(layout=layout, name="s", options=options)
    size = estimates.set_size(Run(run_dir="nowhere", records=config.Records(sources=[source], cap_per_class=1_000)))
    capped = min(images, 1_000 * classes)
    assert (size.classes, size.images) == (classes, capped)


def test_oversampling_that_cannot_be_counted_is_said(capsys):
    path = str(ROOT / "configs/siglip_so400m_probe.yaml")
    for least, said in ((0, False), (20, True)):
        assert cli.main(["plan", path, f"train.phases.0.min_images_per_class={least}"]) == 0
        assert ("min_images_per_class" in capsys.readouterr().out.splitlines()[0]) == said


def test_command_says_of_every_accelerator_whether_it_fits_and_what_drives_it(capsys):
    assert cli.main(["plan", str(ROOT / "configs/siglip_so400m_probe.yaml"), "--share", "0.5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("plan: siglip_so400m_probe") and "17,160 classes" in printed[0]
    assert "encoder 428,225,600" in printed[1] and "50%" in printed[2]
    verdicts = [line for line in printed if re.match(r"plan: \S+ [\d.]+ h, ", line)]
    assert [line.split()[1] for line in verdicts] == list(accelerators.SHOWN)
    assert "tensorflow-tpu" in verdicts[0] and "tensorflow[and-cuda]" in verdicts[-1]


@pytest.mark.parametrize(
    ("kind", "said"), [("tpu", "Kaggle's TPU image"), ("gpu", "tensorflow[and-cuda]"), ("auto", "else GPUs, else")]
)
def test_the_plan_says_what_the_config_is_for(kind, said, capsys):
    assert cli.main(["plan", str(ROOT / "configs/vit_h14_arcface_tpu.yaml"), f"devices.kind={kind}"]) == 0
    line = capsys.readouterr().out.splitlines()[3]
    assert line.startswith(f"for (devices.kind={kind}): ") and said in line


def test_the_tensorflow_for_tpus_is_the_one_that_is_installed():
    """One version, in the extra, on Kaggle and in what is said of both."""
    pins = ("tensorflow-tpu==2.20.0", "libtpu==0.0.17")
    assert all(pin in (ROOT / path).read_text() for path in ("setup.py", "kaggle/wheels/tpu.txt") for pin in pins)
    assert pins[0].replace("==", " ") + " with " + pins[1].replace("==", " ") in accelerators.FOR["tpu"]


def test_accelerators_are_asked_for_by_name_and_number(capsys):
    on = ["--on", "v5e-16", "--on", "4xA100-80"]
    assert cli.main(["plan", str(ROOT / "configs/vit_h14_first_place.yaml"), *on]) == 0
    rows = re.findall(r"^  (v5e-16|4xA100-80) +(\d+) .* (\d+) +[\d,]+ +[\d.]+$", capsys.readouterr().out, re.M)
    assert rows[:2] == [("v5e-16", "24", "16"), ("4xA100-80", "96", "80")]  # of the first phase's 384
    assert rows[2:4] == [("v5e-16", "8", "16"), ("4xA100-80", "32", "80")] and len(rows) == 8


def test_a_chip_without_bfloat16_holds_and_multiplies_float32():
    run = Run(encoder=Encoder(name="clip_vit_b_32"), train=Train(phases=[Phase(name="p", trainable="all")]))
    devices = [accelerators.find(name) for name in ("T4", "L4")]
    found = estimates.plan_phase(run, 0, estimates.SetSize(1000, 50, "given"), 0.35, devices).estimates
    assert found["T4"].memory["weights"] * 6 == found["L4"].memory["weights"] * 4
    assert found["T4"].hours / found["L4"].hours == pytest.approx(121 / 8.1)


def test_between_phases_of_different_sizes_both_encoders_are_there():
    encoder = Encoder(name="clip_vit_b_32", architecture=SMALL, image_size_px=SIDE)
    phases = [Phase(name="a"), Phase(name="b"), Phase(name="c", image_size_px=2 * SIDE)]
    run = Run(encoder=encoder, train=Train(phases=phases))
    size = estimates.SetSize(1000, CLASSES, "given")
    same, other = (estimates.plan_phase(run, number, size, 0.35) for number in (1, 2))
    extra = other.estimates["v4-8"].before - same.estimates["v4-8"].before
    grown = other.costs.parameters - same.costs.parameters  # more positions
    assert extra == 4 * (estimates.encoder_costs(encoder).parameters + grown)
    narrow = Estimate(1, {"weights": 1.0}, 3.0, 0.0, 2.0, 1.0, 1.0)
    assert not narrow.fits and replace(narrow, before=1.5).fits


def test_disk_is_counted_and_what_mends_it_is_said(capsys):
    path = str(ROOT / "configs/vit_h14_arcface_tpu.yaml")
    assert cli.main(["plan", path, "--on", "v5e-8"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("disk: ")]
    parameters, width, images = 632_076_800, 1024, 525_673
    checkpoint = 12 * (parameters + 64 * width + 64 + 64 * 17_160)  # Adam's two moments beside the weights
    features = 4 * images * width * 4  # two sizes, of the starting encoder and of the tuned one
    total = (3 * checkpoint + features + 8 * parameters) / 1e9
    assert f"3 checkpoints of {checkpoint / 1e9:.1f} GB, features {features / 1e9:.1f} GB" in line
    assert f": {total:.1f} GB, Kaggle's working folder holds 20" in line
    assert line.endswith(f"train.checkpoints_kept=1 {total - checkpoint / 1e9:.1f}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--share", "0"], "share of the peak"),
        (["--images", "0"], "--images"),
        (["--on", "v5e"], "v5e-8, A100 or 8xH100"),
        (["--on", "v4-7"], "--on"),
        (["--on", "0xA100"], "--on"),
        (["train.phases.0.trainable=some"], "last N blocks"),
        (["train.phases.0.trainable=last 40 blocks"], "27 known blocks"),
        (["encoder.name=siglip_so400"], "nearest"),
        (["records.sources.0.layout=folder"], "--images N --classes N"),
        (["records.sources.0.options.split=test"], "train or val"),
        (["train.phases=[]"], "at least one phase"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, said, capsys):
    assert cli.main(["plan", str(ROOT / "configs/siglip_so400m_probe.yaml"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1


def test_features_that_do_not_fit_into_a_session_are_said(capsys):
    """They leave no checkpoint: `train.hours` would begin them anew in each session."""
    probe = ["plan", str(ROOT / "configs/siglip_so400m_probe.yaml"), "--on", "2xT4"]
    assert cli.main(probe) == 0
    assert "the features alone take" in capsys.readouterr().out.splitlines()[-1]
    assert cli.main([*probe, "--images", "200000", "--classes", "17000"]) == 0
    assert "features alone" not in capsys.readouterr().out
