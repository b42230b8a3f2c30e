"""ArcFace head: steps/s over 17,691 classes, guie compiled by XLA against pytorch-metric-learning on torch.

python -m tests.benchmarks.bench_arcface [--batch N] [--classes C] [--subcenters K] [--rounds R]

Both take the same embeddings [B, 64] and labels and find the mean loss (s = 30, m = 0.3 rad) and its gradients with
respect to embeddings and class centres; `with Adam` also updates the centres. The losses are compared before anything
is timed. Each measurement is a process of its own with as many threads as there are cores, rounds are interleaved,
warm-up and compilation are not counted; medians are printed, with the peak memory of the process beside.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from export.contract_probe import peak_gigabytes

CONTENDERS = {"guie": "guie, XLA", "pml": "pytorch-metric-learning, torch eager"}
WORKS = {"gradients": "loss and gradients", "adam": "with Adam"}
AIM, DIM, SCALE, MARGIN_RADIANS = 1.5, 64, 30.0, 0.3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--classes", type=int, default=17_691)
    parser.add_argument("--subcenters", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # one measurement, in the child
    parser.add_argument("--work", choices=list(WORKS), help="one kind of work")
    options = parser.parse_args(argv)
    if options.contender:
        print(json.dumps(measure(options.contender, options.work, options)))
        return
    cores = len(os.sched_getaffinity(0))
    print(
        f"{options.classes:,} classes × {options.subcenters}, {options.batch} embeddings of {DIM}, {cores} cores, "
        f"{options.rounds} rounds",
        flush=True,
    )
    for work in [options.work] if options.work else WORKS:
        compare(work, options)


def compare(work: str, options: argparse.Namespace) -> None:
    """Runs both in turn, round by round, and prints the table."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    peaks, found = dict.fromkeys(CONTENDERS, 0.0), {}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            sized = [f"--{key}={getattr(options, key)}" for key in ("batch", "classes", "subcenters", "seconds")]
            command = [sys.executable, "-m", "tests.benchmarks.bench_arcface", "--contender", name]
            done = subprocess.run([*command, "--work", work, *sized], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{CONTENDERS[name]} failed:\n{done.stderr[-2000:]}")
            one = json.loads(done.stdout.splitlines()[-1])
            rates[name].append(one["steps_per_second"])
            peaks[name] = max(peaks[name], one["peak_mib"])
            found[name] = one["loss"]
    if not math.isclose(found["guie"], found["pml"], rel_tol=1e-4):
        raise SystemExit(f"the losses differ: {found}")
    medians = {name: statistics.median(each) for name, each in rates.items()}
    print(f"\n{WORKS[work]} (loss {found['guie']:.4f}, both)")
    for name, title in CONTENDERS.items():
        print(f"  {title:38} {medians[name]:8.1f} steps/s   peak {peaks[name]:6,.0f} MiB")
    ratio = medians["guie"] / medians["pml"]
    print(
        f"  guie / pytorch-metric-learning: {ratio:.2f} (aim {AIM}: {'met' if ratio >= AIM else 'missed'})", flush=True
    )


def measure(contender: str, work: str, options: argparse.Namespace) -> dict[str, float]:
    """Steps a second of one contender, after a warm-up; the first step's loss; the process' peak."""
    random = np.random.default_rng(1)
    embeddings = random.normal(size=(options.batch, DIM)).astype(np.float32)
    labels = random.integers(0, options.classes, options.batch)
    centers = random.normal(size=(options.classes, options.subcenters, DIM)).astype(np.float32)
    step = {"guie": guie_step, "pml": pml_step}[contender](embeddings, labels, centers, work == "adam")
    loss = step()
    for _ in range(3):
        step()
    started, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < options.seconds:
        step()
        steps += 1
    peak = 1024 * peak_gigabytes()
    return {"steps_per_second": steps / elapsed, "peak_mib": peak, "loss": loss}


def guie_step(embeddings: np.ndarray, labels: np.ndarray, centers: np.ndarray, update: bool) -> Callable[[], float]:
    import keras
    import tensorflow as tf

    from pipeline.config import Loss
    from pipeline.training.losses import LOSSES

    variable = keras.Variable(centers, dtype="float32")
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build([variable])
    given, classes = tf.constant(embeddings), tf.constant(labels, tf.int32)

    @tf.function(jit_compile=True)
    def gradients(given, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([given, variable.value])
            loss = tf.reduce_mean(LOSSES["arcface"](given, classes, variable.value, Loss(scale=SCALE), MARGIN_RADIANS))
        return loss, *tape.gradient(loss, [given, variable.value])

    @tf.function
    def step(given, classes):
        loss, _, of_centers = gradients(given, classes)
        if update:
            optimizer.apply([of_centers], [variable])
        return loss

    return lambda: float(step(given, classes))


def pml_step(embeddings: np.ndarray, labels: np.ndarray, centers: np.ndarray, update: bool) -> Callable[[], float]:
    import torch
    from pytorch_metric_learning.losses import ArcFaceLoss, SubCenterArcFaceLoss

    classes, subcenters, _ = centers.shape
    options = {"margin": math.degrees(MARGIN_RADIANS), "scale": SCALE}
    if subcenters > 1:
        loss_of = SubCenterArcFaceLoss(classes, DIM, **options, sub_centers=subcenters)
    else:
        loss_of = ArcFaceLoss(classes, DIM, **options)
    with torch.no_grad():
        loss_of.W.copy_(torch.from_numpy(centers.reshape(-1, DIM).T.copy()))  # [D, C·K], sub-centres side by side
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-3)
    given = torch.from_numpy(embeddings).requires_grad_()
    targets = torch.from_numpy(labels)

    def step() -> float:
        optimizer.zero_grad()
        given.grad = None
        loss = loss_of(given, targets)
        loss.backward()
        if update:
            optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main(sys.argv[1:])
