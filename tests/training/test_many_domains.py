"""`guie train` with a teacher a source and batches of one source: whole, killed, resumed; what is refused."""

import json
import shutil

import numpy as np
import pytest

from pipeline import config
from pipeline.config import phase_keys
from pipeline.errors import BadInput
from pipeline.training import checkpoints, train
from tests.training.tiny_runs import HEAD, of_encoder

HEADS = {"name": "heads", "trainable": "head", "epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
HEADS["sampling"] = {"one_domain": True, "domains": "losses", "losses_every_steps": 3}
ALL = {
    **HEADS,
    "name": "all",
    "trainable": "all",
    "epochs": 1.25,
    "encoder_rate_factor": 0.1,
    "augment": {"flip": True},
}
LOSS = "train.loss={name: normface, scale: 16, own_domain: true}"
UDON = (f"train.phases={json.dumps([HEADS, ALL])}", LOSS, "train.teachers.dim=6", "embedder.init=pca")
STEPS = 8 + 5  # the shares are set after steps 3 and 6 of the first phase, and 3 of the second


@pytest.fixture(scope="module")
def built(tiny):
    """A whole run, and the steps that it built."""
    made, make = [], train.make_run_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_run_steps", lambda *given: made.append(make(*given)) or made[-1])
        return tiny.train("udon", *UDON), made


@pytest.fixture(scope="module")
def whole(built):
    return built[0]


def test_shares_follow_the_teachers_losses_and_are_logged(whole):
    rows = whole.rows()
    assert len(rows) == STEPS
    renewed = [row for row in rows if "share/a" in row]
    assert [row["step"] for row in renewed] == [3, 6, 11]
    for row in renewed:
        assert row["share/a"] + row["share/b"] == pytest.approx(1.0, abs=1e-6)
    measured = whole.tensors(2)["teachers/teacher_measured"]
    assert measured[1].tolist() == [1.0, 1.0]  # a batch of each, in turn
    third = whole.tensors(3)["teachers/source_batches"].tolist()
    assert third == [2, 1]
    assert not whole.tensors(3)["teachers/teacher_measured"].any()
    assert whole.tensors(8)["teachers/source_batches"].sum() == 6
    assert whole.tensors(9)["teachers/source_batches"].tolist() == [0, 0]  # the next phase counts anew …
    shares = whole.tensors(6)["teachers/source_shares"], whole.tensors(9)["teachers/source_shares"]
    assert shares[0].tolist() == shares[1].tolist() and shares[0].any()  # … by the shares that it found


@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (8, 11))])
def test_a_killed_run_goes_on_to_the_same_weights(tiny, whole, step):
    """Within a window, between phases, where shares are set: to the last bit."""
    name = f"udon-from-{step}"
    shutil.copytree(whole.folder, tiny.folder / name, ignore=shutil.ignore_patterns("tensorboard"))
    for later in range(step + 1, STEPS + 1):
        (tiny.folder / f"{name}/checkpoints/step-{later:09d}.safetensors").unlink()
    resumed = tiny.train(name, *UDON)
    assert resumed.losses() == whole.losses()
    found, expected = resumed.tensors(STEPS), whole.tensors(STEPS)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name].tobytes() != expected[name].tobytes()] == []
    shutil.rmtree(tiny.folder / name)


def test_teachers_are_in_the_checkpoint_and_not_in_what_is_exported(whole):
    held = {name for name in whole.tensors(STEPS) if name.startswith("teachers/")}
    assert {"teachers/teacher_kernel", "teachers/teacher_bias", "teachers/teacher_centers"} < held
    assert whole.tensors(STEPS)["teachers/teacher_kernel"].shape == (2, 12, 6)
    served = checkpoints.load_trained(whole.run)
    assert served.variables and not [name for name in served.variables if "teacher" in name or "source" in name]


@pytest.mark.slow
def test_the_encoder_does_not_see_distillation_unless_it_is_let_through(tiny):
    """With the factors at 0 the encoder's first step is the same; let through it is another."""
    phase = f"train.phases={json.dumps([{**ALL, 'epochs': 0.25}])}"  # one step
    given = (phase, LOSS, "train.teachers.dim=6", "embedder.init=pca", "train.optimizer.name=sgd")
    ended, none, through = (
        tiny.train(name, *given, *more).tensors(1)
        for name, more in (
            ("ended", ()),
            ("none", ("train.teachers.logits=0", "train.teachers.similarities=0")),
            ("through", ("train.teachers.through_encoder=true",)),
        )
    )
    assert all(np.allclose(ended[name], none[name], atol=1e-8) for name in of_encoder(ended))
    assert any(np.abs(ended[name] - through[name]).max() > 1e-6 for name in of_encoder(ended))
    assert np.abs(ended[HEAD[0]] - none[HEAD[0]]).max() > 1e-6


def test_new_batches_of_new_shares_trace_no_second_graph(built):
    """The step compiles once a phase, however often its batches begin anew."""
    assert [each.experimental_get_tracing_count() for each in built[1]] == [1, 1]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.teachers.dim=6",), "set loss.own_domain=true"),
        ((LOSS, "train.teachers.dim=6", "train.optimizer.accumulate_steps=2"), "teachers.similarities compares"),
        ((LOSS, "train.phases.0.sampling.domains=losses"), "set train.teachers.dim"),
        ((LOSS, "train.phases.0.sampling.domains=round_robin"), "set one_domain=true"),
        (("train.phases.0.trainable=encoder",), "leaves a random head as it is"),
        ((LOSS, "train.teachers.dim=64", "embedder.init=pca"), "12 axes are all"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(tiny, overrides, said, capsys):
    assert tiny.refused("domains refused", *overrides)
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_an_encoder_may_follow_a_head_that_was_trained_or_started(tiny):
    head, tuned = {**HEADS, "sampling": {}}, {**ALL, "trainable": "encoder", "sampling": {}, "augment": {}}
    for phases, init in (([head, tuned], "random"), ([tuned], "pca")):
        given = [f"train.phases={json.dumps(phases)}", f"embedder.init={init}", "run_dir=nowhere"]
        phase_keys.expect_phases(config.load(config.Run, tiny.config, given))
    with pytest.raises(BadInput, match="random class centres"):
        given = [f"train.phases={json.dumps([tuned])}", "train.init_from=some.safetensors", "run_dir=nowhere"]
        phase_keys.expect_phases(config.load(config.Run, tiny.config, given))
