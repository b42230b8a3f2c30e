"""ViT-H/14 on this machine's CPU: from records to an embedding, and one training step; seconds and peak
memory.

python -m tests.benchmarks.bench_vit_h14 [--images N] [--size PX] [--without-checkpointing]

Drawn images are built into shards by `guie tfrecords`; the embedder is that of the config (random weights:
they weigh as much as LAION's). The step is the trainer's own: forward, ArcFace, backward and SGD over
encoder, head and centres. Each part is a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from export.contract_probe import peak_gigabytes

NAME, CLASSES, LIMIT_GIGABYTES = "clip_vit_h_14", 17_691, 24.0


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2, help="in a batch")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--without-checkpointing", action="store_true", help="the step a second time, for comparison")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # in the child
    parser.add_argument("--shards", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        print(json.dumps(measure(options.part, options.shards, options.images, options.size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        print(f"{NAME}, {options.size} px, batch {options.images}, {len(os.sched_getaffinity(0))} cores", flush=True)
        parts = ["embed", "step"] + (["plain step"] if options.without_checkpointing else [])
        for part in parts:
            child = [sys.executable, "-m", "tests.benchmarks.bench_vit_h14", "--part", part, "--shards", folder]
            child += ["--images", str(options.images), "--size", str(options.size)]
            found = json.loads(
                subprocess.run(child, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            within = "within" if found["gigabytes"] < LIMIT_GIGABYTES else "NOT within"
            print(f"  {part:<11} {found['seconds']:7.1f} s   peak {found['gigabytes']:5.1f} GB ({within} "
                  f"{LIMIT_GIGABYTES:g})   {found['result']}", flush=True)  # fmt: skip


def draw(folder: Path) -> None:
    """A few drawn images as shards, by the command."""
    config = folder / "drawn.yaml"
    config.write_text(
        f"""
encoder: {{name: {NAME}}}
records:
  split: {{by: item, train: 1.0, validation: 0.0, test: 0.0}}
  sources:
    - {{layout: drawn, name: drawn, options: {{classes: 4, images_per_class: 4, image_size_px: 256}}}}
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config), f"run_dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(part: str, shards: str, images: int, size: int) -> dict[str, float | str]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from pipeline import config
    from pipeline.data.batches import eval_batches, open_records
    from pipeline.data.preprocessing import normalize
    from pipeline.models import embedder
    from pipeline.training.losses import LOSSES

    run = config.Run(
        encoder=config.Encoder(name=NAME, image_size_px=size, checkpointing=part != "plain step"),
        train=config.Train(phases=[config.Phase(name="all", trainable="all")]),
    )
    model = embedder.build(run)
    records = open_records([f"{shards}/records/*.tfrec"])
    batch = next(iter(eval_batches(records, model.preprocess, images)))
    pixels = normalize(batch["images"], model.preprocess)
    if part == "embed":
        forward = tf.function(lambda x: model.model(x, training=False))
        start = time.perf_counter()
        found = forward(pixels).numpy()
        result = f"embeddings {list(found.shape)}, length {float((found**2).sum(1).mean() ** 0.5):.6f}"
    else:
        centers = tf.Variable(tf.random.stateless_normal([CLASSES, 1, 64], [0, 1]))
        values = [variable.value for variable in model.model.trainable_variables] + [centers]

        @tf.function
        def step(x, labels):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                embeddings = model.model(x, training=True)
                loss = tf.reduce_mean(LOSSES["arcface"](embeddings, labels, centers, config.Loss(), tf.constant(0.3)))
            for value, gradient in zip(values, tape.gradient(loss, values), strict=True):
                value.assign_sub(1e-4 * tf.convert_to_tensor(gradient))
            return loss

        before = values[4].numpy()
        start = time.perf_counter()
        loss = float(step(pixels, tf.cast(batch["labels"], tf.int32)))
        moved = float(abs(values[4].numpy() - before).max())
        millions = sum(int(tf.size(value)) for value in values) / 1e6
        result = f"loss {loss:.3f}, {millions:.0f} M trained, encoder moved by {moved:.1e}"
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "gigabytes": peak_gigabytes(), "result": result}


if __name__ == "__main__":
    main(sys.argv[1:])
