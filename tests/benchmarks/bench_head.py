"""The head on cached features: phase `head` of configs/real_images.yaml against itself without the cache, and PML.

python -m tests.benchmarks.bench_head [--images N] [--rounds R]

- guie: the phase as `guie train` runs it: features computed once and kept, then batches of 384, 8 images a class.
- through the encoder: the same phase and code, told not to cache; JPEGs are decoded and encoded in every step.
- PML: pytorch-metric-learning's ArcFace, torch's Linear and AdamW on the same rows, eager; gradients clipped, weights
  averaged as in the phase. One thread: more bring nothing here, and wait for each other where the cores are shared.

The encoder is MobileNet v1 at 224 px with the weights of ../shared, else random ones; the recipe averages its cached
features over two sizes, which a step through the encoder cannot. The records are JPEGs of coloured blocks. All three
draw the same records in the same order and start from the same head: the losses of the first two steps must agree, or
the bench fails. Each measurement is a process of its own, rounds are interleaved; start, compilation and the first
steps are not counted; medians are printed. Ratios are of time, in brackets of processor time, which is steadier on a
machine that others use too. The features' own cost stands below, with the step from which they pay.
"""

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

CONTENDERS = {"guie": "guie, cached features", "through": "guie, through the encoder", "pml": "PML on the features"}
STEPS = {"guie": 200, "through": 2, "pml": 200}  # of one measurement
ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("GUIE_DATA") or ROOT.parent / "shared/data")
WEIGHTS = SHARED.parent / "weights/mobilenet_v1_imagenet.keras"
SOURCES, CLASSES, SIDE, WARM_UP_STEPS, TOLERANCE = 4, 155, 256, 2, 1e-3  # as many classes as the recipe trains on


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=620)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # one measurement, in the child
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.contender == "start":
        print(json.dumps(write_start(options.folder, options.images)))
    elif options.contender:
        print(json.dumps(measure(options.contender, options.folder)))
    else:
        compare(options.images, options.rounds)


def compare(images: int, rounds: int) -> None:
    """Runs all contenders in turn, round by round, and prints the table."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="guie-bench-") as folder:
        start = _child("start", folder, images)
        for _ in range(rounds):
            for name in CONTENDERS:
                found[name].append(_child(name, folder, images))
                ours, theirs = found["guie"][0]["losses"], found[name][-1]["losses"]
                if not np.allclose(ours, theirs, rtol=TOLERANCE):
                    raise SystemExit(f"the losses of the first steps differ: guie {ours}, {CONTENDERS[name]} {theirs}")
    weights = WEIGHTS.name if WEIGHTS.is_file() else "random weights"
    print(f"{weights}, {images:,} images of {CLASSES} classes, batch {start['batch']}, "
          f"{len(os.sched_getaffinity(0))} cores, {rounds} rounds; losses {found['guie'][0]['losses']}")  # fmt: skip
    medians = {
        name: [statistics.median(each[key] for each in found[name]) for key in ("ms", "processor_ms")]
        for name in CONTENDERS
    }
    for name, title in CONTENDERS.items():
        times, (middle, work) = [each["ms"] for each in found[name]], medians[name]
        ratio = "" if name == "guie" else "guie is {:.1f}x as fast ({:.1f}x)".format(
            *(theirs / ours for theirs, ours in zip(medians[name], medians["guie"], strict=True))
        )  # fmt: skip
        print(f"  {title:<26} {middle:8.2f} ms/step  {f'{min(times):.2f}…{max(times):.2f}':>17}  {work:8.2f} ms "
              f"processor  {1000 * start['batch'] / middle:8,.0f} images/s  {ratio}")  # fmt: skip
    steps = 1000 * start["features_seconds"] / (medians["through"][0] - medians["guie"][0])
    print(f"  the features: {start['features_seconds']:.1f} s once, paid back after {steps:.0f} steps; "
          f"the phase has {start['steps']:,} on these records", flush=True)  # fmt: skip


def measure(contender: str, folder: Path) -> dict[str, Any]:
    """Milliseconds a step after the first ones, and the losses of the first two."""
    run = pml(folder) if contender == "pml" else guie(contender, folder)
    losses = [*run(0, 1), *run(1, WARM_UP_STEPS - 1)]
    worked, started, steps = time.process_time(), time.perf_counter(), STEPS[contender]
    run(WARM_UP_STEPS, steps)
    passed, worked = time.perf_counter() - started, time.process_time() - worked
    rounded = [round(loss, 4) for loss in losses]
    return {"ms": 1000 * passed / steps, "processor_ms": 1000 * worked / steps, "losses": rounded}


def prepared(folder: Path) -> tuple[Any, ...]:
    """The run, its devices, data, phase and state, as `guie train` makes them."""
    from pipeline import config
    from pipeline.data.records import open_records
    from pipeline.training import devices, phases
    from pipeline.training.training_data import Data

    path = ROOT / "configs/real_images.yaml"
    run = config.load(config.Run, path, [f"run_dir={folder}", "data_root=''", "embedder.sizes_px=[]"])
    (options,) = (phase for phase in run.train.phases if phase.name == "head")
    # Long enough for every measurement; without warm-up, which starts at a rate of 0.
    options = replace(options, epochs=400.0, warmup_epochs=0.0)
    encoder = replace(run.encoder, name=f"keras_file:{WEIGHTS if WEIGHTS.is_file() else folder / 'random.keras'}")
    run = replace(run, encoder=encoder, train=replace(run.train, phases=[options]))
    found, records = devices.connect(run.devices), open_records([f"{folder}/*.tfrec"])
    data = Data(records, phases.Classes.of(records), None)
    phase = phases.plan_phase(run, found, data.classes, 0)
    return run, found, data, phase, phases.prepare(run, found, phase, len(data.classes.labels), None)


def write_start(folder: Path, images: int) -> dict[str, Any]:
    """Records, the features in the run's cache and, for torch, start.npz: rows, head, centres and the recipe."""
    from pipeline.quiet import import_quietly

    import_quietly("tensorflow")
    import keras

    from pipeline.training.feature_cache import FeatureCache
    from pipeline.training.phases import start_from_features

    if not WEIGHTS.is_file():
        network = keras.applications.MobileNet((224, 224, 3), weights=None, include_top=False, pooling="avg")
        network.save(folder / "random.keras")
    write_records(folder, images)
    run, found, data, phase, state = prepared(folder)
    began = time.perf_counter()
    features = FeatureCache(run, found, state.embedder).of(data.records, "train")
    seconds, options = time.perf_counter() - began, phase.options
    start_from_features(run, state, options.init, features, data.classes)
    count = STEPS["pml"] + WARM_UP_STEPS
    recipe = {
        "scale": phase.loss.scale, "margin_degrees": math.degrees(phase.loss.margin_radians), "steps": phase.steps,
        "rate": options.learning_rate, "centers_factor": options.centers_rate_factor,
        "clip": run.train.optimizer.clip_norm, "decay": run.train.optimizer.weight_decay,
    }  # fmt: skip
    kernel, bias = state.embedder.head.get_weights()
    np.savez(
        folder / "start.npz",
        recipe=json.dumps(recipe),
        features=features,
        labels=data.classes.of_records,
        order=np.stack([phase.order.batch(step, options.batch_size) for step in range(count)]),
        kernel=kernel,
        bias=bias,
        centers=np.asarray(state.centers.variable)[:, 0],
    )
    epochs = next(each.epochs for each in _recipe_phases() if each.name == "head")
    return {"batch": options.batch_size, "features_seconds": seconds, "steps": round(epochs * phase.steps_per_epoch)}


def write_records(folder: Path, images: int) -> None:
    """JPEGs of SIDE px, a shard a source; the classes are spread over the sources."""
    from PIL import Image

    from tfrecords.schema import Record, serialize
    from tfrecords.shards import ShardWriter, index_path

    random = np.random.default_rng(0)
    for source in range(SOURCES):
        numbers = [number for number in range(images) if number % CLASSES % SOURCES == source]
        writer = ShardWriter(path := folder / f"source{source}-train-00-{len(numbers)}.tfrec")
        for number in numbers:
            blocks = random.integers(0, 256, (16, 16, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
            writer.write(serialize(Record(file.getvalue(), number % CLASSES, str(number), f"source{source}")))
        writer.close()
        index_path(path).write_text(writer.index_text())


def guie(contender: str, folder: Path) -> Callable[[int, int], list[float]]:
    """(first step, number of steps) → their losses."""
    from pipeline.quiet import import_quietly

    tf = import_quietly("tensorflow")  # with the environment of the commands

    from pipeline.training.feature_cache import FeatureCache
    from pipeline.training.phases import start_from_features
    from pipeline.training.step import make_run_steps
    from pipeline.training.train import batches

    run, found, data, phase, state = prepared(folder)
    features = FeatureCache(run, found, state.embedder)
    start_from_features(run, state, phase.options.init, features.of(data.records, "train"), data.classes)
    state.begin()
    on_features = features if contender == "guie" else None
    iterator = iter(batches(run, found, data, phase, state, on_features, None, 0))
    run_steps = make_run_steps(run, found, phase, state, data.classes, None)
    return lambda first, count: run_steps(iterator, tf.constant(first), tf.constant(count)).numpy().tolist()


def pml(folder: Path) -> Callable[[int, int], list[float]]:
    """As `guie`, by pytorch-metric-learning and torch."""
    import torch
    from pytorch_metric_learning.losses import ArcFaceLoss
    from torch.optim.swa_utils import AveragedModel

    torch.set_num_threads(1)
    start = dict(np.load(folder / "start.npz"))
    recipe, order = json.loads(str(start.pop("recipe"))), torch.from_numpy(start.pop("order"))
    given = {name: torch.from_numpy(value) for name, value in start.items()}
    head = torch.nn.Linear(*given["kernel"].shape)
    loss_of = ArcFaceLoss(*given["centers"].shape, margin=recipe["margin_degrees"], scale=recipe["scale"])
    with torch.no_grad():
        head.weight.copy_(given["kernel"].T)
        head.bias.copy_(given["bias"])
        loss_of.W.copy_(given["centers"].T)
    factors = (1.0, recipe["centers_factor"])
    groups = [{"params": list(each.parameters())} for each in (head, loss_of)]
    optimizer = torch.optim.AdamW(groups, lr=recipe["rate"], eps=1e-7, weight_decay=recipe["decay"])
    both = torch.nn.ModuleList([head, loss_of])
    averages = AveragedModel(both)

    def step(number: int) -> float:
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            fall = 0.5 * (1.0 + math.cos(math.pi * number / recipe["steps"]))
            group["lr"] = recipe["rate"] * factor * fall
        rows = order[number]
        optimizer.zero_grad()
        embeddings = head(torch.nn.functional.normalize(given["features"][rows]))
        loss = loss_of(embeddings, given["labels"][rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), recipe["clip"])
        optimizer.step()
        averages.update_parameters(both)
        return float(loss.detach())

    return lambda first, count: [step(first + number) for number in range(count)]


def _recipe_phases() -> list[Any]:
    from pipeline import config

    return config.load(config.Run, ROOT / "configs/real_images.yaml", ["data_root=''"]).train.phases


def _child(contender: str, folder: str, images: int) -> dict[str, Any]:
    child = [sys.executable, "-m", "tests.benchmarks.bench_head", "--contender", contender]
    done = subprocess.run([*child, "--folder", folder, f"--images={images}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
