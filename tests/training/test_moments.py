"""`train.optimizer.moments=bfloat16`: the update, what is held, resuming, the digest of runs that do not ask for it."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import config
from pipeline.config import Run, Train
from pipeline.planning import costs
from pipeline.training import checkpoints, optimizers
from pipeline.training.class_centers import PER_REPLICA
from tests.training.tiny_runs import TUNE

BFLOAT16 = "train.optimizer.moments=bfloat16"


def obvious_adam(value: np.ndarray, gradients: list[np.ndarray], rate: float, rounded: bool) -> np.ndarray:
    m, v = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * gradient
        m = m.astype(ml_dtypes.bfloat16).astype(np.float32) if rounded else m
        v = 0.999 * v + 0.001 * gradient**2
        value = value - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
    return value


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_adam_with_its_first_moment_rounded(moments):
    random = np.random.default_rng(0)
    start = random.normal(size=(20, 30)).astype(np.float32)
    gradients = [random.normal(size=start.shape).astype(np.float32) for _ in range(30)]
    variable = keras.Variable(start, name="kernel")
    built = optimizers.build(config.Optimizer(name="adam", moments=moments), 1e-2, [variable], [1.0])
    for gradient in gradients:
        built.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    expected = obvious_adam(start, gradients, 1e-2, moments == "bfloat16")
    other = obvious_adam(start, gradients, 1e-2, moments == "float32")
    error, apart = (np.abs(np.asarray(variable) - each).max() for each in (expected, other))
    assert error < 1e-4 < apart  # 1 − β₂ᵗ loses digits in float32


@pytest.mark.parametrize(("name", "each"), [("adamw", 6), ("adam", 6), ("sgd", 2)])
def test_a_trained_parameter_takes_as_many_bytes_as_the_plan_says(name, each):
    centers = keras.Variable(np.ones((5, 3), np.float32), name="centers", **PER_REPLICA)
    variables = [keras.Variable(np.ones((40, 30), np.float32), name="kernel"), centers]
    options = config.Optimizer(name=name, moments="bfloat16")
    built = optimizers.build(options, 1e-3, variables, [1.0, 1.0])
    slots = [variable.value for variable in built.variables if len(variable.shape)]
    assert sum(slot.dtype.size * int(np.prod(slot.shape)) for slot in slots) == each * (40 * 30 + 15)
    assert costs.optimizer_bytes(options) == each


@pytest.mark.slow
def test_resumed_there_it_has_the_losses_of_a_whole_run(tiny):
    phases = f"train.phases={json.dumps([{**TUNE, 'epochs': 1}])}"
    whole = tiny.train("moments", phases, BFLOAT16)
    last, first = (sorted((whole.folder / "checkpoints").iterdir())[n] for n in (-1, 0))
    expected = load_file(last)
    slots = {name: values.dtype for name, values in load_file(first).items() if name.startswith("optimizer/")}
    assert {str(dtype) for name, dtype in slots.items() if name.endswith("_momentum")} == {"bfloat16"}
    assert {str(dtype) for name, dtype in slots.items() if name.endswith("_velocity")} == {"float32"}
    for later in sorted((whole.folder / "checkpoints").iterdir())[2:]:
        later.unlink()
    again = tiny.train("moments", phases, BFLOAT16)
    assert len(again.rows()) == len(whole.rows())
    for name, values in load_file(last).items():
        np.testing.assert_array_equal(values, expected[name])
    assert tiny.refused("moments", phases), "another recipe"


@pytest.mark.parametrize("options", [["name=adafactor"], ["name=sgd", "momentum=0"]])
def test_an_optimizer_without_a_first_moment_is_refused(tiny, options, capsys):
    assert tiny.refused("refused", BFLOAT16, *(f"train.optimizer.{option}" for option in options))
    error = capsys.readouterr().err.strip()
    assert "keeps no first moment" in error and len(error.splitlines()) == 1


def test_another_dtype_of_the_moments_is_another_recipe():
    runs = [Run(train=Train(optimizer=config.Optimizer(moments=moments))) for moments in ("float32", "bfloat16")]
    assert len({checkpoints.recipe_fingerprint(run) for run in runs}) == 2
