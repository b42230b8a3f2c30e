"""Fine-tuning by the real `guie train`: averages, WiSE, terms that keep the start, phases that begin anew."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Embedder, Loss, Phase, Run, Train
from pipeline.data.sampler import Positions
from pipeline.models import encoders
from pipeline.models.weights.variables import float_variables
from pipeline.training import checkpoints, starts
from tests.training.test_keeping import slow_divergence
from tests.training.tiny_runs import EPOCH, HEAD, TUNE, VIT, Trained, embedded, of_encoder, pictures, slow_arcface, unit

ROOT = Path(__file__).parents[2]
HALF, LAST = EPOCH, 2 * EPOCH
AVERAGED, INTERPOLATED = "train.phases.0.average_from=0.5", "train.phases.0.interpolation=0.25"
TERMS = {"features": 3.0, "similarities": 2.0, "weights": 5.0, "temperature": 0.2, "sizes_px": [16, 24]}


def phases(*each: dict) -> str:
    return f"train.phases={json.dumps(each)}"


def close(found: dict, expected: dict, names, atol=1e-5) -> None:
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=atol, err_msg=name)


def moved(found: dict, expected: dict) -> float:
    """The squared way between the encoders of two checkpoints."""
    return sum(float(np.square(found[name] - value).sum()) for name, value in of_encoder(expected).items())


@pytest.fixture(scope="module")
def plain(tiny) -> Trained:
    return tiny.train("plain")


@pytest.fixture(scope="module")
def averaged(tiny) -> Trained:
    """With averages and interpolation together."""
    return tiny.train("averaged", AVERAGED, INTERPOLATED)


def between(start: dict, tuned: dict) -> dict:
    """The encoder's weights a quarter of the way; the head's and the centres' as tuned."""
    tuned = {name: value for name, value in tuned.items() if not name.startswith("optimizer/")}
    return {**tuned, **{name: v + 0.25 * (tuned[name] - v) for name, v in of_encoder(start).items()}}


def mean(plain: Trained, steps: range) -> dict:
    """Even, of the weights after each of the steps."""
    each = [plain.tensors(step) for step in steps]
    return {name: np.mean([tensors[name] for tensors in each], axis=0) for name in each[0] if "optim" not in name}


def test_weights_are_averaged_evenly_over_the_second_half_and_then_interpolated(plain, averaged):
    weights = of_encoder(plain.tensors(1))
    for step in range(1, LAST):  # until the end, both train the same
        close(averaged.tensors(step), plain.tensors(step), weights)
    expected = between(plain.tensors(0), mean(plain, range(HALF + 1, LAST + 1)))
    close(averaged.tensors(LAST), expected, expected)
    assert moved(plain.tensors(LAST), expected) > 1e-3 and moved(mean(plain, range(1, LAST + 1)), expected) > 1e-3


@pytest.mark.faults("kill")
def test_a_killed_and_resumed_run_ends_in_the_same_weights(tiny, plain, averaged):
    shutil.copytree(averaged.folder, tiny.folder / "killed")
    killed = tiny.trained("killed", AVERAGED, INTERPOLATED)
    (killed.folder / f"checkpoints/step-{LAST:09d}.safetensors").unlink()
    within = checkpoints.load_trained(killed.run).variables  # as `guie export` of an unfinished run has them
    so_far = mean(plain, range(HALF + 1, LAST))
    close({name: np.array(variable) for name, variable in within.items()}, so_far, within)
    (killed.folder / f"checkpoints/step-{LAST - 1:09d}.safetensors").unlink()
    resumed = tiny.train("killed", AVERAGED, INTERPOLATED).tensors(LAST)
    close(resumed, averaged.tensors(LAST), mean(plain, range(1, 2)))


def test_interpolation_alone_leaves_the_head_and_the_centres(tiny, plain):
    expected = between(plain.tensors(0), plain.tensors(LAST))
    close(tiny.train("interpolated", INTERPOLATED).tensors(LAST), expected, expected)
    assert moved(plain.tensors(LAST), plain.tensors(0)) > 1e-3


@pytest.mark.faults("kill")
def test_a_heads_interpolation_is_between_where_the_phase_started_it_and_the_tuned_also_after_a_kill(tiny, plain):
    quarter = "train.phases.0.head_interpolation=0.25"
    done = tiny.train("head_interpolated", quarter)
    head = [name for name in plain.tensors(0) if name.startswith("embedder/embedding")]
    start, tuned = plain.tensors(0), plain.tensors(LAST)
    close(done.tensors(LAST), {name: start[name] + 0.25 * (tuned[name] - start[name]) for name in head}, head)
    close(done.tensors(LAST), tuned, of_encoder(tuned))
    assert len(head) == 2 and any(np.abs(tuned[name] - start[name]).max() > 1e-3 for name in head)
    killed = done.folder.with_name("head_interpolated_killed")
    shutil.copytree(done.folder, killed)
    for path in (killed / "checkpoints").glob("step-*.safetensors"):
        if int(path.stem.removeprefix("step-")) > HALF:
            path.unlink()
    resumed = tiny.train("head_interpolated_killed", quarter)
    close(resumed.tensors(LAST), done.tensors(LAST), head)


@pytest.fixture(scope="module")
def kept(tiny) -> Trained:
    """Two steps on the last half of the network, with all terms."""
    return tiny.train("kept", phases({**TUNE, "trainable": "last 50 %", "keep": TERMS}))


@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_is_the_class_loss_plus_each_term_times_its_factor(kept, step):
    records = kept.records()
    rows = Positions(len(records), kept.run.train.seed).batch(step, 8)
    images, start, now = pictures(records, rows), kept.tensors(0), kept.tensors(step)
    teacher, features = kept.features(0, images, (16, 24)), kept.features(step, images)
    embeddings = embedded(now, features)
    expected = slow_arcface(
        embeddings, np.unique(records.labels, return_inverse=True)[1][rows], now["centers/class_centers"]
    )
    apart = 1.0 - np.sum(unit(features) * unit(teacher), axis=1)
    expected += 3.0 * apart.mean() + 2.0 * slow_divergence(embeddings, teacher, 0.2).mean()
    expected += 5.0 * moved(now, start) / 2.0
    assert kept.losses()[step] == pytest.approx(expected, rel=1e-4)
    assert apart.mean() > 1e-4 and (moved(now, start) > 1e-6) == (step == 1)  # each term counts


def test_the_last_half_of_the_depth_is_trained_and_the_first_is_left_bit_for_bit(kept):
    start, tuned = of_encoder(kept.tensors(0)), of_encoder(kept.tensors(2))
    assert len(start) == 8  # kernel and bias of four convolutions, from shallow to deep
    equal = [np.array_equal(start[name], tuned[name]) for name in sorted(start)]
    assert equal == [True] * 4 + [False] * 4


def drift(trained: Trained, what: str) -> float:
    """How far the tuned encoder is from the starting one, by the term's own measure, over all images."""
    if what == "weights":
        return moved(trained.tensors(LAST), trained.tensors(0))
    images = pictures(trained.records(), np.arange(32))
    start, tuned = trained.features(0, images), trained.features(LAST, images)
    if what == "features":
        return float((1.0 - np.sum(unit(start) * unit(tuned), axis=1)).mean())
    return float(slow_divergence(embedded(trained.tensors(LAST), tuned), start, 0.1).mean())


@pytest.mark.parametrize(
    ("what", "factor", "share"),
    [
        ("features", 300, 0.3),
        pytest.param("weights", 1000, 0.2, marks=pytest.mark.slow),
        pytest.param("similarities", 100, 0.8, marks=pytest.mark.slow),
    ],
)
def test_a_large_factor_keeps_what_its_term_is_about(tiny, plain, what, factor, share):
    strong = tiny.train(what, f"train.phases.0.keep.{what}={factor}")
    assert np.isfinite(strong.losses()).all()
    assert drift(strong, what) < share * drift(plain, what)


def test_a_phase_has_its_own_loss(tiny):
    loss = {"name": "cosface", "scale": 16.0, "margin_cosine": 0.2}
    trained = tiny.train("cosface", phases({**TUNE, "epochs": 0.25, "loss": loss}))
    records = trained.records()
    rows = Positions(len(records), trained.run.train.seed).batch(0, 8)
    labels = np.unique(records.labels, return_inverse=True)[1][rows]
    tensors = trained.tensors(0)
    embeddings, centers = (
        embedded(tensors, trained.features(0, pictures(records, rows))),
        tensors["centers/class_centers"],
    )
    logits = 16.0 * (embeddings @ unit(centers[:, 0]).T - 0.2 * np.eye(8)[labels])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert trained.losses()[0] == pytest.approx(-np.log(shares[np.arange(8), labels]).mean(), rel=1e-4)
    assert abs(trained.losses()[0] - slow_arcface(embeddings, labels, centers)) > 0.1


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"loss": {"subcenters": 2}}, "subcenters and sharded must be those of train.loss"),
        (
            {"trainable": "head", "keep": {"features": 1.0}},
            "keep and interpolation are for phases that train the encoder",
        ),
        ({"trainable": "head", "interpolation": 0.5}, "keep and interpolation are for phases that train the encoder"),
    ],
)
def test_a_phase_that_cannot_be_is_refused_before_the_first_is_trained(tiny, capsys, second, said):
    assert tiny.refused("refused", phases(TUNE, {**TUNE, "name": "second", **second}))
    error = capsys.readouterr().err
    assert "phase second: " in error and said in error and error.count("\n") == 1
    assert not (tiny.folder / "refused").exists()


BEGINS_ANEW = {
    "name": "head", "trainable": "head", "init": "lda", "epochs": 1, "batch_size": 8, "learning_rate": 1e-2,
    "warmup_epochs": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def anew(tiny) -> Trained:
    """Two steps of fine-tuning, then a head of its own on those features; the first of its four steps has rate 0."""
    return tiny.train("anew", phases(TUNE, BEGINS_ANEW))


def test_a_phase_starts_its_head_and_centres_from_the_tuned_encoders_features(anew):
    records = anew.records()
    labels = np.unique(records.labels, return_inverse=True)[1]
    features = anew.features(2, pictures(records, np.arange(32)))
    sources = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    expected = starts.start(Embedder(embedding_dim=8), "lda", features, labels, sources)
    found, before = anew.tensors(3), anew.tensors(2)
    for name, value in zip(HEAD, expected, strict=True):
        np.testing.assert_allclose(found[name], value, atol=2e-3)
        assert np.abs(found[name] - before[name]).max() > 0.1
    embeddings = embedded(found, features)
    centers = np.array([unit(embeddings[labels == each].mean(axis=0, keepdims=True)) for each in range(8)])
    np.testing.assert_allclose(found["centers/class_centers"], centers, atol=1e-4)
    close(found, before, of_encoder(before))
    assert np.abs(anew.tensors(6)[HEAD[0]] - found[HEAD[0]]).max() > 1e-3  # it is trained from there


@pytest.mark.parametrize("step", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_resumed_between_the_phases_or_within_one_it_starts_anew_once(tiny, anew, step):
    shutil.copytree(anew.folder, tiny.folder / f"anew-{step}", ignore=shutil.ignore_patterns("features"))
    for later in range(step + 1, 7):
        (tiny.folder / f"anew-{step}/checkpoints/step-{later:09d}.safetensors").unlink()
    resumed = tiny.train(f"anew-{step}", phases(TUNE, BEGINS_ANEW))
    assert resumed.losses() == pytest.approx(anew.losses(), rel=1e-4)
    close(resumed.tensors(6), anew.tensors(6), [*HEAD, "centers/class_centers"], atol=1e-4)


def test_a_phase_may_start_its_head_and_centres_at_random(tiny):
    again = {**BEGINS_ANEW, "init": "random", "epochs": 0.25}
    trained = tiny.train("random", phases(TUNE, {**again, "learning_rate": 1e-9}))
    start, before, found = (trained.tensors(step) for step in (0, 2, 3))
    names = [*HEAD, "centers/class_centers"]
    close(found, start, names)
    assert all(np.abs(found[name] - before[name]).max() > 1e-4 for name in names)
    close(found, before, of_encoder(before))


@pytest.mark.slow
def test_the_start_is_init_froms_encoder_also_where_a_later_phase_is_larger(tiny):
    encoder = {"name": "clip_tiny", "image_size_px": 16, "pooling": "class_token", "architecture": VIT}
    quarter, named = {**TUNE, "epochs": 0.25}, f"encoder={json.dumps(encoder)}"
    first = tiny.train("first", named, phases(quarter))
    larger = {**quarter, "name": "larger", "image_size_px": 24, "interpolation": 0.0, "keep": {"features": 1.0}}
    origin = f"train.init_from={first.folder}/checkpoints/step-{1:09d}.safetensors"
    found = tiny.train("larger", named, origin, phases(quarter, larger)).tensors(2)
    there = encoders.build(replace(first.run.encoder, image_size_px=24))
    encoders.transfer(first.embedder(1).encoder, there)
    expected = {f"embedder/{name}": np.array(variable) for name, variable in float_variables(there.model).items()}
    assert set(expected) == {name for name in of_encoder(found) if not name.endswith("position_ids")}
    close(found, expected, expected, atol=1e-6)


def test_centres_may_be_sharded_anew_on_resuming_a_phase_with_its_own_loss():
    whole, sharded = (
        Run(train=Train(loss=Loss(sharded=on), phases=[Phase(name="p", loss=Loss(scale=9.0, sharded=on))]))
        for on in (False, True)
    )
    assert checkpoints.recipe_fingerprint(whole) == checkpoints.recipe_fingerprint(sharded)
    other = Run(train=Train(phases=[Phase(name="p", loss=Loss(scale=8.0))]))
    assert checkpoints.recipe_fingerprint(whole) != checkpoints.recipe_fingerprint(other)


@pytest.mark.slow
def test_two_replicas_train_as_one_and_such_a_config_is_rehearsed(tiny):
    terms = {**TERMS, "similarities": 0.0}  # compared within a replica's share
    tune = {**TUNE, "epochs": 1, "keep": terms, "average_from": 0.5, "interpolation": 0.25}
    single = tiny.train("single", phases(tune))
    asked = {}
    for name, overrides in {
        "replicas": [phases(tune), "devices.replicas=2"],
        "rehearsed": [phases({**tune, "keep": TERMS}, BEGINS_ANEW), "devices.rehearse=2", "embedder.sizes_px=[16,24]"],
    }.items():
        path = shutil.copy(tiny.config, tiny.folder / f"{name}.yaml")
        asked[str(path)] = [*overrides, f"run_dir={tiny.folder / name}"]
    script = [sys.executable, "-m", "tests.training.rehearsals", json.dumps(asked)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("exit code 0") == 2, done.stdout + done.stderr[-3000:]
    assert "rehearsal tune: losses " in done.stdout and "rehearsal head: losses " in done.stdout
    assert not (tiny.folder / "rehearsed").exists()
    several = tiny.trained("replicas", phases(tune))
    assert several.losses() == pytest.approx(single.losses(), rel=1e-4)
    last = several.tensors(EPOCH)
    close(last, single.tensors(EPOCH), [name for name in last if name.startswith(("embedder", "centers"))], atol=1e-4)
