"""One replica, several, compiled or not, in pieces or whole: the same training."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ADAMW = {"name": "adamw", "weight_decay": 0.01}
CLIPPED = {"name": "adamw", "clip_norm": 0.05}
ADAFACTOR = {"name": "adafactor"}
SGD = {"name": "sgd", "momentum": 0.9, "ema": 0.9}
TAUGHT = (False, True)  # classes not sharded, with teachers


@pytest.fixture(scope="module")
def runs() -> dict:
    asked = [(1, False, ADAMW), (4, True, ADAMW), (1, False, CLIPPED), (4, True, CLIPPED), (4, True, CLIPPED, True)]
    return losses_of([*asked, (1, False, ADAMW, *TAUGHT), (4, True, ADAMW, *TAUGHT)])


@pytest.fixture(scope="module")
def further(runs) -> dict:
    asked = [
        (4, False, ADAMW),
        (1, True, ADAMW),
        (1, False, SGD),
        (4, True, SGD),
        (1, False, ADAFACTOR),
        (4, True, ADAFACTOR),
    ]
    asked += [(1, True, {**ADAMW, "accumulate_steps": 4}), (4, True, {**ADAMW, "accumulate_steps": 2})]
    asked += [(4, False, {**SGD, "accumulate_steps": 2}, True), (1, True, ADAMW, True)]
    return {**runs, **losses_of([*asked, (1, True, ADAMW, *TAUGHT), (4, False, ADAMW, *TAUGHT)])}


def losses_of(asked: list[tuple]) -> dict:
    """Losses by (replicas, compiled, optimizer), all in one process with four logical CPU devices."""
    script = [sys.executable, "-m", "tests.training.step_losses", json.dumps(asked)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    return {
        (replicas, compiled, json.dumps(o), *sharded): found
        for (replicas, compiled, o, *sharded), found in zip(asked, losses, strict=True)
    }


def of(runs, replicas, compiled, options, *sharded):
    return np.array(runs[replicas, compiled, json.dumps(options), *sharded])


def test_replicas_under_xla_give_one_plain_replicas_losses(runs):
    plain = of(runs, 1, False, ADAMW)
    assert plain[-1] < plain[0]  # it does train
    assert np.abs(of(runs, 4, True, ADAMW) - plain).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "compiled"), [(4, False), (1, True)])
def test_replicas_alone_and_xla_alone_give_them_too(further, replicas, compiled):
    assert np.abs(of(further, replicas, compiled, ADAMW) - of(further, 1, False, ADAMW)).max() < 1e-5


def test_gradients_are_clipped_after_the_sum_over_replicas(runs):
    clipped = of(runs, 1, False, CLIPPED)
    assert np.abs(of(runs, 4, True, CLIPPED) - clipped).max() < 1e-5
    assert np.abs(clipped - of(runs, 1, False, ADAMW)).max() > 1e-3  # the clip does bite


def test_classes_sharded_over_replicas_train_as_whole_ones(runs):
    """Six classes over four replicas: the last shard holds rows that are no class."""
    assert np.abs(of(runs, 4, True, CLIPPED, True) - of(runs, 1, False, CLIPPED)).max() < 1e-5


@pytest.mark.slow
def test_momentum_and_averaged_weights_work_over_replicas(further):
    assert np.abs(of(further, 4, True, SGD) - of(further, 1, False, SGD)).max() < 1e-5


@pytest.mark.slow
def test_adafactor_works_over_replicas(further):
    assert np.abs(of(further, 4, True, ADAFACTOR) - of(further, 1, False, ADAFACTOR)).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "pieces"), [(1, 4), (4, 2)])
def test_a_batch_in_pieces_is_the_whole_batch(further, replicas, pieces):
    found = of(further, replicas, True, {**ADAMW, "accumulate_steps": pieces})
    assert np.abs(found - of(further, 1, False, ADAMW)).max() < 1e-5


@pytest.mark.slow
def test_sharded_classes_in_pieces_and_on_one_replica_train_as_whole_ones(further):
    pieces = {**SGD, "accumulate_steps": 2}
    assert np.abs(of(further, 4, False, pieces, True) - of(further, 1, False, SGD)).max() < 1e-5
    assert np.abs(of(further, 1, True, ADAMW, True) - of(further, 1, False, ADAMW)).max() < 1e-5


def test_teachers_over_replicas_under_xla_are_those_of_one(runs):
    """Similarities cross between replicas; and what the teachers measured of each source is the same."""
    plain = of(runs, 1, False, ADAMW, *TAUGHT)
    assert plain[7] < plain[0]
    assert np.abs(of(runs, 4, True, ADAMW, *TAUGHT) - plain).max() < 2e-5
    summed, images = plain[8:10], plain[10:]
    assert images.tolist() == [4.0, 4.0] and (summed > 0).all()  # half of each of eight batches


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "compiled"), [(4, False), (1, True)])
def test_teachers_over_replicas_alone_and_under_xla_alone_are_too(further, replicas, compiled):
    found, plain = (of(further, *asked, ADAMW, *TAUGHT) for asked in ((replicas, compiled), (1, False)))
    assert np.abs(found - plain).max() < 2e-5


def test_dropout_keeps_its_share_and_its_scale():
    import tensorflow as tf

    from pipeline.data.stateless_rng import dropout

    kept = dropout(tf.ones([64, 512]), 0.3, 1, 5, 0).numpy()
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.7)}
    assert abs((kept > 0).mean() - 0.7) < 0.01
    assert abs((kept > 0).mean(axis=0) - 0.7).max() < 0.3 and (kept[0] != kept[1]).any()
    assert (kept != dropout(tf.ones([64, 512]), 0.3, 1, 6, 0).numpy()).mean() > 0.3
