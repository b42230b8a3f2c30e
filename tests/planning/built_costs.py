"""Run by test_plan.py in a process of its own: what XLA says of the built step; prints JSON.

FLOPs are counted in XLA's optimised graph, after it has dropped what nobody needs; memory is its buffer assignment.
"""

import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

DUMP = tempfile.mkdtemp()
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={DUMP} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*measured.* "
    "--xla_backend_optimization_level=0"  # of the machine code alone: quicker, with the same graph and buffers
)

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from pipeline import config  # noqa: E402
from pipeline.config.phase_keys import geometry  # noqa: E402
from pipeline.models import embedder  # noqa: E402
from pipeline.training import class_centers, optimizers  # noqa: E402
from pipeline.training.losses import LOSSES  # noqa: E402

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def measure(name: str, run: config.Run, phase: config.Phase, classes: int, images: int) -> dict:
    """Builds one phase's embedder and gradients, compiles them, and reads what XLA made of them."""
    model = embedder.build(run, *geometry(run, phase))
    loss = run.train.loss
    centers = class_centers.build(
        classes, loss.subcenters, run.embedder.embedding_dim, 1, loss.sharded, tf.distribute.get_strategy()
    )
    variables, _ = optimizers.trained_variables(model, centers, phase)
    values = [variable.value for variable in variables]

    def gradients(pixels, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            features = model.encoder.model(pixels, training=phase.trainable != "head")
            found = LOSSES["arcface"](model.head(features), labels, centers.variable.value, config.Loss(), 0.3)
            loss = tf.reduce_sum(found)
        return [tf.convert_to_tensor(each) for each in tape.gradient(loss, values)]

    gradients.__name__ = f"measured_{name}"
    side = model.preprocess.image_size_px
    pixels, labels = tf.zeros([images, side, side, 3]), tf.zeros([images], tf.int32)
    text = tf.function(gradients, jit_compile=True).experimental_get_compiler_ir(pixels, labels)(stage="optimized_hlo")
    report = next(Path(DUMP).glob(f"*measured_{name}_*memory-usage-report.txt")).read_text()
    temporary = re.search(r"size ([\d.]+)([KMG]?i?B), preallocated-temp", report)
    return {
        "parameters": size_of([*model.model.trainable_variables, centers.variable]),
        "trained": size_of(variables),
        "flops": flops_of(text),
        "temporary": float(temporary[1]) * UNITS[temporary[2]],
        "optimizer": {
            kind: sum(size_of([v]) * 4 for v in built(kind, variables).variables if len(v.shape))
            / (4 * size_of(variables))
            for kind in ("adamw", "sgd", "adafactor")
        },
    }


def built(kind: str, variables: list):
    return optimizers.build(config.Optimizer(name=kind), 1e-3, variables, [1.0] * len(variables))


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
    for number, (run, phase, classes, images) in enumerate(json.loads(sys.argv[1])):
        keras.backend.clear_session()
        loaded = config.Run(
            encoder=config.Encoder(**run["encoder"]), train=config.Train(loss=config.Loss(subcenters=run["subcenters"]))
        )
        found[number] = measure(str(number), loaded, config.Phase(**phase), classes, images)
    print(json.dumps(list(found.values())))


if __name__ == "__main__":
    main()
