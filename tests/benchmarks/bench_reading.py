"""Reading: shards of photographs → shuffled, randomly cropped 224-px batches; images/s of guie against its peers.

python -m tests.benchmarks.bench_reading [--photos FOLDER] [--images N] [--rounds R]

Every contender does the same work on the same shards and the same cores: shuffled records, a random window of 25 to
100 % of the area with an aspect of 3:4 to 4:3, 224 px, a random flip, float32 batches of 64. The photographs are small,
so they are grown in memory to a shorter side of 500 to 1000 px before they are stored (JPEG, quality 90). Each
measurement is a process of its own, rounds are interleaved, the first batches are not counted; medians are printed.
Peak memory is the proportional set size of the process and its workers.
"""

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SIDE, BATCH, SMALLEST_SHARE, LARGEST_ASPECT = 224, 64, 0.25, 4 / 3
WARM_UP_BATCHES = 3
CONTENDERS = {
    "guie": "guie: train_batches",
    "usual": "(c) tf.data map: decode_jpeg, crop, resize; the same filter (bicubic, antialiased)",
    "usual_bilinear": "(c') the same with tf.image.resize's default: bilinear, aliased",
    "pillow": "(d) torch DataLoader, Pillow, bicubic; one worker a core",
    "decode": "limit: decode_jpeg of the whole image and nothing else",
    "decode_crop": "limit: guie's cropped decode and nothing else",
}
PHOTOS = os.environ.get("GUIE_DATA") or str(Path(__file__).resolve().parents[3] / "shared" / "data")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", default=PHOTOS, help="folder with .jpg files at any depth (default GUIE_DATA)")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # one measurement, in the child
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)  # the shards, in a child
    parser.add_argument("--shards", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.write:
        write_shards(Path(options.photos), Path(options.shards), options.images)
    elif options.contender:
        print(json.dumps(measure(options.contender, options.shards, options.images)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    names = options.only.split(",")
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        common = ["--photos", options.photos, "--images", str(options.images), "--shards", folder]
        _child([*common, "--write"])
        size = sum(path.stat().st_size for path in Path(folder).glob("*.tfrec"))
        print(f"{options.images:,} photographs, {size / options.images / 1000:.0f} kB each; {cores} cores; "
              f"{options.rounds} rounds", flush=True)  # fmt: skip
        rates: dict[str, list[float]] = {name: [] for name in names}
        work: dict[str, list[float]] = {name: [] for name in names}
        peaks = dict.fromkeys(names, 0.0)
        for _ in range(options.rounds):
            for name in names:
                output, peak = _child([*common, "--contender", name])
                measured = json.loads(output)
                rates[name].append(measured["images_per_second"])
                work[name].append(measured["processor_ms"])
                peaks[name] = max(peaks[name], peak)
    ours = statistics.median(rates[names[0]])
    print(f"{'images/s':>9} {'range':>11} {'processor ms/image':>19} {'peak MB':>8}  {names[0]} is … times as fast")
    for name in names:
        middle, extent = statistics.median(rates[name]), f"{min(rates[name]):.0f}–{max(rates[name]):.0f}"
        print(f"{middle:9.0f} {extent:>11} {statistics.median(work[name]):19.2f} {peaks[name] / 1e6:8.0f}  "
              f"{ours / middle:.2f}×  {CONTENDERS[name]}")  # fmt: skip


def measure(name: str, shards: str, images: int) -> dict[str, float]:
    batches = globals()[f"{name}_batches"](shards)
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    started, worked, count = time.perf_counter(), _processor_seconds(os.getpid()), 0
    while count < images:
        count += next(batches)
    worked = _processor_seconds(os.getpid()) - worked
    return {"images_per_second": count / (time.perf_counter() - started), "processor_ms": 1000 * worked / count}


def guie_batches(shards: str) -> Iterator[int]:
    from pipeline.config import Augment
    from pipeline.data.batches import open_records, train_batches
    from pipeline.data.preprocessing import Preprocess
    from pipeline.data.sampler import Positions

    augment = Augment(flip=True, crop_scale_min=SMALLEST_SHARE, crop_aspect_max=LARGEST_ASPECT)
    preprocess = Preprocess(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", antialias=True)
    records = open_records([f"{shards}/*.tfrec"])
    for batch in train_batches(records, Positions(len(records), 0), preprocess, augment, BATCH, seed=0):
        yield len(batch["images"])


def usual_batches(shards: str, method: str = "bicubic", antialias: bool = True) -> Iterator[int]:
    import tensorflow as tf

    def image_of(encoded):
        image = tf.io.decode_jpeg(encoded, channels=3)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image), tf.zeros([1, 0, 4]), min_object_covered=0.1, use_image_if_no_bounding_boxes=True,
            aspect_ratio_range=(1 / LARGEST_ASPECT, LARGEST_ASPECT), area_range=(SMALLEST_SHARE, 1.0),
        )  # fmt: skip
        cropped = tf.slice(image, begin, size)
        resized = tf.image.resize(cropped, (SIDE, SIDE), method=method, antialias=antialias)
        return tf.image.random_flip_left_right(resized)

    dataset = _usual_records(shards).map(image_of, num_parallel_calls=tf.data.AUTOTUNE)
    for batch in dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE):
        yield len(batch)


def usual_bilinear_batches(shards: str) -> Iterator[int]:
    return usual_batches(shards, "bilinear", antialias=False)


def decode_batches(shards: str) -> Iterator[int]:
    import tensorflow as tf

    def size_of(encoded):
        return tf.shape(tf.io.decode_jpeg(encoded, channels=3))

    dataset = _usual_records(shards).map(size_of, num_parallel_calls=tf.data.AUTOTUNE)
    for batch in dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE):
        yield len(batch)


def decode_crop_batches(shards: str) -> Iterator[int]:
    import tensorflow as tf

    from pipeline.config import Augment
    from pipeline.data.augment import Draws, decode_random_crop
    from pipeline.data.preprocessing import Preprocess

    augment = Augment(crop_scale_min=SMALLEST_SHARE, crop_aspect_max=LARGEST_ASPECT)
    draws, preprocess = Draws(0), Preprocess(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def size_of(position, encoded):
        draws.begin(position)
        return tf.shape(decode_random_crop(encoded, augment, preprocess, draws))

    dataset = _usual_records(shards).enumerate().map(size_of, num_parallel_calls=tf.data.AUTOTUNE)
    for batch in dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE):
        yield len(batch)


def _usual_records(shards: str):
    import tensorflow as tf

    def parse(record):
        return tf.io.parse_single_example(record, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})[
            "image/encoded"
        ]

    files = tf.data.Dataset.list_files(f"{shards}/*.tfrec", shuffle=True)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE)
    return records.shuffle(1024).repeat().map(parse)


class PillowDataset:
    """A torch map-style dataset: record by number → uint8 [224, 224, 3]. Pillow resizes straight from the window."""

    def __init__(self, shards: str):
        from tfrecords.shards import shard_index

        paths = sorted(Path(shards).glob("*.tfrec"))
        self.places = [(path, *span) for path in paths for span in shard_index(path).tolist()]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int):
        import numpy as np
        from PIL import Image, ImageOps

        from tfrecords.schema import parse_record

        path, offset, length = self.places[item]
        with path.open("rb") as file:
            file.seek(offset)
            encoded = parse_record(file.read(length)[12:-4]).encoded
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        area = image.width * image.height * random.uniform(SMALLEST_SHARE, 1.0)
        aspect = random.uniform(1 / LARGEST_ASPECT, LARGEST_ASPECT)
        width = min(image.width, (area * aspect) ** 0.5)
        height = min(image.height, (area / aspect) ** 0.5)
        left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        return np.asarray(ImageOps.mirror(image) if random.random() < 0.5 else image)


def pillow_batches(shards: str) -> Iterator[int]:
    import torch

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        PillowDataset(shards), BATCH, shuffle=True, num_workers=len(os.sched_getaffinity(0)), drop_last=True,
        persistent_workers=True,
    )  # fmt: skip
    while True:
        for batch in loader:
            yield len(batch.float())


def write_shards(photos: Path, folder: Path, images: int, per_shard: int = 256) -> None:
    """Grows the photographs and writes them as shards; taken again in other sizes if there are too few."""
    from PIL import Image

    from tfrecords.schema import Record, serialize
    from tfrecords.shards import ShardWriter, index_path

    paths = [path for path in sorted(photos.rglob("*.jpg")) if min(Image.open(path).size) >= 200]
    if not paths:
        sys.exit(f"{photos}: expected .jpg files of at least 200 px, found none")
    sizes = random.Random(0)
    sizes.shuffle(paths)
    print(f"{min(len(paths), images):,} different photographs", file=sys.stderr)
    for first in range(0, images, per_shard):
        count = min(per_shard, images - first)
        writer = ShardWriter(folder / f"photos-train-{first // per_shard:02d}-{count}.tfrec")
        for number in range(first, first + count):
            photo = Image.open(paths[number % len(paths)]).convert("RGB")
            factor = sizes.uniform(500, 1000) / min(photo.size)
            grown = photo.resize((round(photo.width * factor), round(photo.height * factor)), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            grown.save(buffer, "JPEG", quality=90)
            writer.write(serialize(Record(buffer.getvalue(), number % 100, str(number), "photos")))
        writer.close()
        index_path(writer_path := folder / f"photos-train-{first // per_shard:02d}-{count}.tfrec").write_text(
            writer.index_text()
        )
        assert writer_path.stat().st_size == writer.bytes


def _child(arguments: list[str]) -> tuple[str, float]:
    """Runs this file with `arguments`; (stdout, peak bytes of the process and its workers)."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.benchmarks.bench_reading", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, _memory(child.pid))
        time.sleep(0.5)
    output, errors = child.communicate()
    if child.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{errors[-2000:]}")
    return output.strip().splitlines()[-1] if output.strip() else "", peak


def _processor_seconds(process: int) -> float:
    """Processor time of a process and its children so far; unlike images/s it bears other work on the machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return own + sum(_processor_seconds(int(child)) for child in children)


def _memory(process: int) -> float:
    """Bytes of a process and its children: pages that they share are counted once (PSS)."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, StopIteration):
        return 0.0
    return own + sum(_memory(int(child)) for child in children)


if __name__ == "__main__":
    main(sys.argv[1:])
