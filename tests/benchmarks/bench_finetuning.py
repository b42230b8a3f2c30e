"""Fine-tuning: one step of MobileNet v1 at 160 px, guie against the same step written by hand in torch, ms per step.

python -m tests.benchmarks.bench_finetuning [--rounds R] [--seconds S] [--only guie,torch]

The step is phase `encoder` of configs/real_images.yaml, batch 48: conv1 and the first five pairs are frozen, CosFace
over all classes, the encoder held near the starting one's features, gradients clipped, AdamW with the head and the
proxies at ten times the encoder's rate. guie runs the trainer's own `make_run_steps`, torch has the batch norms folded
too. The weights are those of ../shared, else random ones. Four drawn batches, uint8 pixels with the teacher's features,
are in memory: nothing is decoded or augmented, normalisation is part of the step.

Both start from the same weights. Every measurement compares the number of trained parameters, the loss of the first
step (to 1e-3) and, after five updates, that of the sixth (to 1e-2); the bench fails where they differ. Each measurement
is a process of its own with as many threads as there are cores, rounds are interleaved, the first steps and compilation
are not counted; medians are printed, with the peak memory of the process beside. Ratios are of time, in brackets of
processor time, which is steadier on a machine that others use too. There, run it on one core (`taskset -c 1 make bench
ARGS=finetuning`): torch's threads wait for each other, which counts as processor time.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from export.contract_probe import peak_gigabytes

CONTENDERS = {
    "guie": "guie",
    "plain": "guie, TF_ENABLE_ONEDNN_OPTS=0",
    "xla": "guie, train.compile (XLA)",
    "torch": "torch eager",
    "channels_last": "torch eager, channels last",
    "compile": "torch.compile, channels last",
}
ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("GUIE_DATA") or ROOT.parent / "shared/data")
WEIGHTS = SHARED.parent / "weights/mobilenet_v1_imagenet.keras"
SIDE, BATCHES, CLASSES = 160, 4, 155  # the recipe trains on 116 classes
STRIDED_PAIRS, PAIRS, FROZEN_PAIRS = (2, 4, 6, 12), 13, 5
CHECKED_STEPS = 6
FIRST_TOLERANCE, LATER_TOLERANCE = 1e-3, 1e-2  # relative; rounding grows with the updates


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--only", default="guie,plain,torch,channels_last", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # one measurement, in the child
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.contender == "start":
        write_start(options.folder)
    elif options.contender:
        print(json.dumps(measure(options.contender, options.folder, options.seconds)))
    else:
        compare(options.only.split(","), options.rounds, options.seconds)


def compare(names: list[str], rounds: int, seconds: float) -> None:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="guie-bench-") as folder:
        _child("start", folder, seconds)
        for _ in range(rounds):
            for name in names:
                found[name].append(json.loads(_child(name, folder, seconds).splitlines()[-1]))
                check(found[names[0]][0], found[name][-1], CONTENDERS[name])
    one, cores = found[names[0]][0], len(os.sched_getaffinity(0))
    weights = WEIGHTS.name if WEIGHTS.is_file() else "random weights"
    first, last = one["losses"][0], one["losses"][-1]
    print(f"{weights}, {SIDE} px, {one['trained']:,} parameters trained, {cores} cores, {rounds} rounds; "
          f"loss {first:.4f} at the first step, {last:.4f} at step {CHECKED_STEPS}")  # fmt: skip
    ours, our_work = (statistics.median(each[key] for each in found[names[0]]) for key in ("ms", "processor_ms"))
    for name in names:
        times = [each["ms"] for each in found[name]]
        middle, extent = statistics.median(times), f"{min(times):.0f}…{max(times):.0f}"
        work = statistics.median(each["processor_ms"] for each in found[name])
        rate, peak = 1000 * one["batch"] / middle, max(each["peak_gigabytes"] for each in found[name])
        ratio = "" if name == names[0] else f"{names[0]} is {middle / ours:.2f}x as fast ({work / our_work:.2f}x)"
        print(f"  {CONTENDERS[name]:<30} {middle:6.0f} ms/step  {extent:>11}  {work:6.0f} ms processor  "
              f"{rate:4.0f} images/s  {peak:5.2f} GB  {ratio}", flush=True)  # fmt: skip


def check(one: dict[str, Any], other: dict[str, Any], title: str) -> None:
    """SystemExit where two contenders did not do the same work."""
    if one["trained"] != other["trained"]:
        raise SystemExit(f"{title} trains {other['trained']:,} parameters, guie {one['trained']:,}")
    for step, tolerance in ((0, FIRST_TOLERANCE), (CHECKED_STEPS - 1, LATER_TOLERANCE)):
        ours, theirs = one["losses"][step], other["losses"][step]
        if not math.isclose(ours, theirs, rel_tol=tolerance):
            raise SystemExit(f"the losses of step {step + 1} differ: guie {ours:.5f}, {title} {theirs:.5f}")


def measure(contender: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Milliseconds a step, after the checked steps; their losses; the trained parameters; the process' peak."""
    batch, trained, run = (guie if contender in ("guie", "plain", "xla") else by_hand)(contender, folder)
    losses = run(0, CHECKED_STEPS)
    done, worked, started = 0, time.process_time(), time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or done < 4:
        run(CHECKED_STEPS + done, 2)
        done += 2
    worked, peak = time.process_time() - worked, peak_gigabytes()
    times = {"ms": 1000 * passed / done, "processor_ms": 1000 * worked / done}
    return {**times, "losses": losses, "trained": trained, "batch": batch, "peak_gigabytes": peak}


def prepared(folder: Path, compiled: bool) -> tuple[Any, ...]:
    """The run, its devices, classes, phase, state and starting embedder, as `guie train` makes them."""
    from pipeline import config
    from pipeline.training import devices, phases

    weights = WEIGHTS if WEIGHTS.is_file() else folder / "random.keras"
    # Warm-up starts at a rate of 0, which no update could be checked by.
    overrides = [f"run_dir={folder}", f"encoder.name=keras_file:{weights}", "train.phases.0.warmup_epochs=0"]
    path = ROOT / "configs/real_images.yaml"
    run = config.load(config.Run, path, [*overrides, f"train.compile={compiled}", "data_root=''"])
    of_records = np.repeat(np.arange(CLASSES), 40)
    one_source = np.zeros(CLASSES, np.int32)
    classes = phases.Classes(np.arange(CLASSES), of_records, one_source[of_records].astype(str), one_source)
    found = devices.connect(run.devices)
    phase = phases.plan_phase(run, found, classes, 0)
    state = phases.prepare(run, found, phase, CLASSES, None)
    return run, found, classes, phase, state, phases.starting_embedder(run, found, phase)


def write_start(folder: Path) -> None:
    """What both sides start from, start.npz: the encoder's weights in order, head, proxies, batches, the recipe."""
    import keras

    if not WEIGHTS.is_file():
        shape = (224, 224, 3)
        keras.applications.MobileNet(shape, weights=None, include_top=False, pooling="avg").save(
            folder / "random.keras"
        )
    run, _, classes, phase, state, _ = prepared(folder, False)
    options, random = phase.options, np.random.default_rng(0)
    size = (BATCHES, options.batch_size)
    blocks = random.integers(0, 256, (*size, 20, 20, 3), np.uint8)
    recipe = {
        "scale": phase.loss.scale, "margin": phase.loss.margin_cosine, "keep": options.keep.features,
        "rate": options.learning_rate, "encoder_factor": options.encoder_rate_factor, "steps": phase.steps,
        "clip": run.train.optimizer.clip_norm, "decay": run.train.optimizer.weight_decay,
        "mean": state.embedder.preprocess.mean, "std": state.embedder.preprocess.std,
    }  # fmt: skip
    np.savez(
        folder / "start.npz",
        recipe=json.dumps(recipe),
        images=blocks.repeat(SIDE // 20, axis=2).repeat(SIDE // 20, axis=3),
        labels=random.integers(0, len(classes.labels), size, np.int32),
        teacher=random.random((*size, state.embedder.encoder.width), np.float32),
        centers=np.asarray(state.centers.variable)[:, 0],
        **{f"head_{number}": value for number, value in enumerate(state.embedder.head.get_weights())},
        **{f"encoder_{number}": value for number, value in enumerate(state.embedder.encoder.model.get_weights())},
    )


def guie(contender: str, folder: Path) -> tuple[int, int, Callable[[int, int], list[float]]]:
    """Images in a batch, trained parameters, and (first step, number of steps) → their losses."""
    from pipeline.quiet import import_quietly

    if contender == "plain":
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    tf = import_quietly("tensorflow")  # with the environment of the commands

    from pipeline.training.step import make_run_steps

    run, found, classes, phase, state, started = prepared(folder, contender == "xla")
    with np.load(folder / "start.npz") as start:
        batches = {name: start[name] for name in ("images", "labels", "teacher")}
    run_steps = make_run_steps(run, found, phase, state, classes, started)
    iterator = iter(tf.data.Dataset.from_tensor_slices(batches).cache().repeat().prefetch(1))
    trained = sum(math.prod(variable.shape) for variable in state.trained)

    def steps(first: int, count: int) -> list[float]:
        return run_steps(iterator, tf.constant(first), tf.constant(count)).numpy().tolist()

    return phase.options.batch_size, trained, steps


def by_hand(contender: str, folder: Path) -> tuple[int, int, Callable[[int, int], list[float]]]:
    """As `guie`, in torch."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.contiguous_format if contender == "torch" else torch.channels_last
    start = dict(np.load(folder / "start.npz"))
    recipe = json.loads(str(start.pop("recipe")))
    given = {name: torch.from_numpy(value) for name, value in start.items()}
    mean, deviation = (255.0 * torch.tensor(recipe[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    layers: list[list[Any]] = [[], []]  # frozen, tuned
    for number in range(2 * PAIRS + 1):
        kernel, bias = given[f"encoder_{2 * number}"], given[f"encoder_{2 * number + 1}"]  # [h, w, in, out]
        depthwise, strided = number % 2 == 1, number == 0 or number in [2 * pair - 1 for pair in STRIDED_PAIRS]
        kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
        layer = torch.nn.Conv2d(
            *(kernel.shape[0] if depthwise else kernel.shape[1], kernel.shape[0], kernel.shape[-1]),
            stride=2 if strided else 1,
            padding=1 if kernel.shape[-1] == 3 and not strided else 0,
            groups=kernel.shape[0] if depthwise else 1,
        )
        layer.weight = torch.nn.Parameter(kernel.contiguous(memory_format=layout))
        layer.bias = torch.nn.Parameter(bias)
        # A stride of 2 pads below and on the right alone, as TensorFlow does.
        padded = [torch.nn.ZeroPad2d((0, 1, 0, 1)), layer] if strided else [layer]
        layers[number > 2 * FROZEN_PAIRS] += [*padded, torch.nn.ReLU6()]
    frozen, tuned = (torch.nn.Sequential(*part) for part in layers)
    frozen.requires_grad_(False)
    if contender == "compile":
        frozen.compile()
        tuned.compile()
    kernel, bias, centers = (given[name].clone().requires_grad_() for name in ("head_0", "head_1", "centers"))
    head, rate = [kernel, bias, centers], recipe["rate"]
    groups = [{"params": list(tuned.parameters()), "factor": recipe["encoder_factor"]}, {"params": head, "factor": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, eps=1e-7, weight_decay=recipe["decay"])  # Keras' epsilon
    trained = [value for group in optimizer.param_groups for value in group["params"]]

    def loss_of(images, labels, teacher) -> Any:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        with torch.no_grad():
            maps = frozen((pixels - mean) / deviation)
        features = tuned(maps).mean(dim=(2, 3))
        unit = functional.normalize(features)
        embeddings = functional.normalize(unit @ kernel + bias)
        cosines = embeddings @ functional.normalize(centers).T  # [B, C]
        own = functional.one_hot(labels, len(centers))
        logits = recipe["scale"] * (cosines - recipe["margin"] * own)
        apart = 1.0 - (unit * functional.normalize(teacher)).sum(dim=1)
        return functional.cross_entropy(logits, labels) + recipe["keep"] * apart.mean()

    def step(number: int) -> float:
        place = number % BATCHES
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"] * 0.5 * (1.0 + math.cos(math.pi * number / recipe["steps"]))
        optimizer.zero_grad()
        loss = loss_of(given["images"][place], given["labels"][place].long(), given["teacher"][place])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe["clip"])
        optimizer.step()
        return float(loss.detach())

    count = sum(value.numel() for value in trained)
    return given["images"].shape[1], count, lambda first, count: [step(first + number) for number in range(count)]


def _child(contender: str, folder: str, seconds: float) -> str:
    child = [sys.executable, "-m", "tests.benchmarks.bench_finetuning", "--contender", contender]
    done = subprocess.run([*child, "--folder", folder, f"--seconds={seconds}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
