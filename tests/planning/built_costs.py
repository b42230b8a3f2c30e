"""Run by test_plan.py in a process of its own: what XLA says of each case's whole step; prints JSON.

The step is `training.step`'s, whole as a TPU compiles it: loss, gradients, the clip, the update in place; and its
gradients alone, which is what XLA compiles for a GPU.
FLOPs are counted in XLA's optimised graph, after it has dropped what nobody needs; memory is its buffer assignment.
"""

import inspect
import json
import math
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

DUMP = tempfile.mkdtemp()
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={DUMP} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*measured.* "
    "--xla_backend_optimization_level=0"  # of the machine code alone: quicker, with the same graph and buffers
)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from pipeline.training import devices, phases  # noqa: E402
from pipeline.training.losses import Margin  # noqa: E402
from pipeline.training.step import make_run_steps  # noqa: E402
from tests.planning.built_cases import CASES, Case  # noqa: E402


class OneReplica:
    """A strategy whose `run` calls the step where it stands, as XLA compiles it on each core of a TPU."""

    num_replicas_in_sync = 1

    def run(self, step, args):
        return step(*args)


def measure(name: str, case: Case) -> dict:
    """Builds the case's first phase, compiles its step, and reads what XLA made of it."""
    run, number = case.run, np.arange(case.classes)
    found = devices.connect(run.devices)
    options = run.train.phases[0]
    margin = Margin.of(run.train.loss, options, np.full(case.classes, 5), 10)
    phase = phases.Phase(0, options, run.train.loss, None, 10.0, 10, margin, on_features=False)
    state = phases.prepare(run, found, phase, case.classes, None)
    classes = phases.Classes(number, number, np.array(["a"] * case.classes), np.zeros(case.classes, np.int32))
    started = phases.starting_embedder(run, found, phase)
    as_tpu = replace(found, strategy=OneReplica(), kind="tpu")  # which leaves the compiling to who runs the step
    run_steps = make_run_steps(run, as_tpu, phase, state, classes, started)
    replica_step = inspect.getclosurevars(run_steps.python_function).nonlocals["replica_step"]

    def step(batch, number):
        return replica_step(batch, number)

    step.__name__ = f"measured_{name}"
    side = state.embedder.preprocess.image_size_px
    batch = {"images": tf.zeros([case.images, side, side, 3], tf.uint8), "labels": tf.zeros([case.images], tf.int32)}
    if options.keep.features or options.keep.similarities:
        batch["teacher"] = tf.zeros([case.images, state.embedder.encoder.width])
    compiled = tf.function(step, jit_compile=True)
    text = compiled.experimental_get_compiler_ir(batch, tf.constant(0))(stage="optimized_hlo")
    gradients = inspect.getclosurevars(replica_step).nonlocals["replica_gradients"]

    def alone(batch, number):
        return gradients(batch, number, tf.constant(0))

    alone.__name__ = f"measured_alone_{name}"
    if case.alone:
        compiled = tf.function(alone, jit_compile=True)
        compiled.experimental_get_compiler_ir(batch, tf.constant(0))(stage="optimized_hlo")
    return {
        "parameters": size_of([*state.embedder.model.trainable_variables, state.centers.variable]),
        "trained": size_of(state.trained),
        "optimizer_bytes": sum(v.value.dtype.size * size_of([v]) for v in state.optimizer.variables if len(v.shape)),
        "flops": flops_of(text),
        "bytes": bytes_of(f"measured_{name}"),
        "bytes_alone": bytes_of(f"measured_alone_{name}") if case.alone else None,
    }


def bytes_of(module: str) -> int:
    """All that XLA's buffer assignment holds at once: what is given, what is made, what lives between."""
    report = next(Path(DUMP).glob(f"*{module}_*memory-usage-report.txt")).read_text()
    return int(re.search(r"Total bytes used: (\d+)", report)[1])


def size_of(variables: list) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def flops_of(text: str) -> float:
    """Two a multiply-add, of every `dot` and `convolution` in an HLO module's text."""
    shapes: dict[str, list[int]] = {}
    total = 0.0
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]\S* ([\w\-]+)\(([^)]*)\)", line)
        if not found:
            continue
        shapes[found[1]] = sizes(found[2])
        operands = [shapes[each] for each in re.findall(r"[\w.\-]+", found[4]) if each in shapes]
        count = 2.0 * math.prod(shapes[found[1]])
        if found[3] == "dot":
            summed = sizes(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1])
            total += count * math.prod(operands[0][axis] for axis in summed)
        elif found[3] == "convolution":
            window = re.search(r"window=\{size=(\d+)x(\d+)", line)
            kernel = re.search(r"dim_labels=\w+_(\w+)->", line)[1]
            total += count * int(window[1]) * int(window[2]) * operands[1][kernel.index("i")]
    return total


def sizes(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


def main() -> None:
    found = {}
    for number, name in enumerate(sys.argv[1:] or CASES):
        keras.backend.clear_session()
        found[name] = measure(str(number), CASES[name])
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
