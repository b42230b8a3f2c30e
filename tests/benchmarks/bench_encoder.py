"""Encoder: ViT-B/32 at 224 px, forward and full training step, images/s of guie against open_clip on torch.

python -m tests.benchmarks.bench_encoder [--batch N] [--rounds R] [--only forward|step] [--precision float32|bfloat16]

All contenders run the same image tower (open_clip's ViT-B-32, projection included) on the same batch with as many
threads as there are cores. A training step is forward, backward and SGD with momentum over every weight of the tower.
Each measurement is a process of its own, rounds are interleaved, warm-up and compilation are not counted; medians are
printed, with the peak memory of the process beside. The limit is torch's own product of the blocks' dense layers, with
nothing between them, three times over for a step. bfloat16 is guie's `mixed_bfloat16` (float32 weights) against
torch's autocast, which also keeps float32 weights. guie compiles as it trains under `train.compile`
(`devices.Found.jit`): on a CPU float32 by XLA, and bfloat16 as a plain graph.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from export.contract_probe import peak_gigabytes

CONTENDERS = {
    "guie": "guie",
    "eager": "open_clip, torch eager",
    "compile": "open_clip, torch.compile",
    "limit": "limit: the blocks' matrix products",
}
AIMS = {"forward": 1.5, "step": 1.2}
MODEL, OPEN_CLIP, SIDE = "clip_vit_b_32", "ViT-B-32", 224


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement")
    parser.add_argument("--only", choices=list(AIMS), help="one kind of work")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="one precision")
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # one measurement, in the child
    options = parser.parse_args(argv)
    if options.contender:
        print(json.dumps(measure(options.contender, options.only, options.precision, options.batch, options.seconds)))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"{MODEL}, {SIDE} px, batch {options.batch}, {cores} cores, {options.rounds} rounds", flush=True)
    for work in [options.only] if options.only else AIMS:
        for precision in [options.precision] if options.precision else ["float32", "bfloat16"]:
            compare(work, precision, options)


def compare(work: str, precision: str, options: argparse.Namespace) -> None:
    """Runs all contenders in turn, round by round, and prints the table."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    peaks = dict.fromkeys(CONTENDERS, 0.0)
    for _ in range(options.rounds):
        for name in CONTENDERS:
            child = [sys.executable, "-m", "tests.benchmarks.bench_encoder", "--contender", name, "--only", work]
            child += ["--precision", precision, "--batch", str(options.batch), "--seconds", str(options.seconds)]
            found = json.loads(
                subprocess.run(child, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            rates[name].append(found["images_per_second"])
            peaks[name] = max(peaks[name], found["peak_gigabytes"])
    ours = statistics.median(rates["guie"])
    print(f"\n{work}, {precision} (aim: {AIMS[work]}x eager)", flush=True)
    for name, what in CONTENDERS.items():
        rate = statistics.median(rates[name])
        ratio = "" if name == "guie" else f"guie is {ours / rate:.2f}x"
        spread = f"{min(rates[name]):.1f}…{max(rates[name]):.1f}"
        print(f"  {what:<34} {rate:7.1f} images/s  {spread:>14}  {peaks[name]:5.2f} GB  {ratio}", flush=True)


def measure(contender: str, work: str, precision: str, batch: int, seconds: float) -> dict[str, float]:
    """Images per second of one contender and the peak memory of this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    make = {"guie": _guie, "limit": _products}.get(contender, _open_clip)
    run = make(work, precision, batch, contender)
    for _ in range(3):
        run()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or count < 3:
        run()
        count += 1
    peak = peak_gigabytes()
    return {"images_per_second": batch * count / passed, "peak_gigabytes": peak}


def _guie(work: str, precision: str, batch: int, _contender: str) -> Callable[[], None]:
    import keras
    import tensorflow as tf

    from pipeline.config import Devices, Encoder
    from pipeline.models import encoders
    from pipeline.training import devices

    policy = "float32" if precision == "float32" else "mixed_bfloat16"
    compiled = devices.connect(Devices(kind="cpu", precision=policy)).jit(True)
    model = encoders.build(Encoder(name=MODEL)).model
    pixels = tf.random.stateless_normal([batch, SIDE, SIDE, 3], [0, 1])
    if work == "forward":
        forward = tf.function(lambda x: model(x, training=False), jit_compile=compiled)
        return lambda: forward(pixels).numpy()
    target = tf.random.stateless_normal([batch, model.output_shape[-1]], [0, 2])
    optimizer = keras.optimizers.SGD(1e-4, momentum=0.9)
    optimizer.build(model.trainable_variables)
    values = [variable.value for variable in model.trainable_variables]

    @tf.function(jit_compile=compiled)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - target) ** 2)
        optimizer.apply(tape.gradient(loss, values), model.trainable_variables)
        return loss

    return lambda: step(pixels).numpy()


def _open_clip(work: str, precision: str, batch: int, contender: str) -> Callable[[], None]:
    from pipeline.models.weights.files import import_open_clip

    open_clip = import_open_clip()
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tower = open_clip.create_model(OPEN_CLIP, pretrained=None).visual
    call = torch.compile(tower) if contender == "compile" else tower
    pixels = torch.randn(batch, 3, SIDE, SIDE)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    if work == "forward":
        tower.eval()

        def forward() -> None:
            with torch.inference_mode(), cast:
                call(pixels)

        return forward
    target = torch.randn(batch, tower.output_dim)
    optimizer = torch.optim.SGD(tower.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        with cast:
            loss = ((call(pixels) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _products(work: str, precision: str, batch: int, _contender: str) -> Callable[[], None]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    dtype, rows = getattr(torch, precision), batch * 50  # 49 patches and the class token
    shapes = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    pairs = [(torch.randn(rows, a, dtype=dtype), torch.randn(a, b, dtype=dtype)) for a, b in shapes]
    outputs = [torch.empty(rows, b, dtype=dtype) for _, b in shapes]

    def products() -> None:
        for _ in range(12 * (3 if work == "step" else 1)):
            for (left, right), output in zip(pairs, outputs, strict=True):
                torch.mm(left, right, out=output)

    return products


if __name__ == "__main__":
    main(sys.argv[1:])
