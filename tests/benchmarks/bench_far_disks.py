"""Reading from a disk that is far away: images/s of training batches against the same files near, by latency.

python -m tests.benchmarks.bench_far_disks [--photos FOLDER] [--images N] [--rounds R]

The shards and the work are those of bench_reading (random crops to 224 px, batches of 64). Every read of a shard waits
first, as on a disk behind a network; how fast the bytes then come is not limited. `one after another` is the same code
with one read at a time, `random` every record alone, `interleaved` blocks of 64 records of 8 shards, `not decoded` is
`random` without the work: what the reads alone would give. Rounds are interleaved, the first batches are not counted;
medians are printed.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from pipeline import reading
from tests.benchmarks import bench_reading

WAYS = ("random", "interleaved", "one after another", "not decoded")
LATENCIES_MS = (0, 1, 5, 20)
SHARDS_AT_A_TIME = 8


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos", default=bench_reading.PHOTOS, help="folder with .jpg files at any depth (default GUIE_DATA)"
    )
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    asked = [(way, latency) for latency in LATENCIES_MS for way in WAYS]
    rates: dict[tuple[str, int], list[float]] = {each: [] for each in asked}
    import_module("tensorflow")  # before the package tfrecord, which writes the shards
    with tempfile.TemporaryDirectory() as folder:
        bench_reading.write_shards(Path(options.photos), Path(folder), options.images, per_shard=128)
        for _ in range(options.rounds):
            for way, latency in asked:
                rates[way, latency].append(measure(way, latency, folder, options.images))
    near = statistics.median(rates["random", 0])
    print(f"{options.images:,} photographs, {options.rounds} rounds; images/s, and as a share of the near disk's")
    print(f"{'latency':>8}" + "".join(f"{way:>24}" for way in WAYS))
    for latency in LATENCIES_MS:
        row = [statistics.median(rates[way, latency]) for way in WAYS]
        print(f"{latency:>5} ms" + "".join(f"{f'{rate:.0f}  ({rate / near:.2f})':>24}" for rate in row))


def measure(way: str, latency_ms: int, shards: str, images: int) -> float:
    """Images/s of one way, the first batches left out."""
    pread, reads = os.pread, reading.READS

    def far(file: int, length: int, offset: int) -> bytes:
        time.sleep(latency_ms / 1000)
        return pread(file, length, offset)

    reading._pool.cache_clear()
    reading.READS = 1 if way == "one after another" else reads
    os.pread = far if latency_ms else pread
    try:
        batches = batches_of(way, shards)
        for _ in range(bench_reading.WARM_UP_BATCHES):
            next(batches)
        count, began = 0, time.perf_counter()
        while count < images:
            count += next(batches)
        return count / (time.perf_counter() - began)
    finally:
        os.pread, reading.READS = pread, reads


def batches_of(way: str, shards: str) -> Iterator[int]:
    from pipeline.config import Augment
    from pipeline.data.batches import open_records, train_batches
    from pipeline.data.preprocessing import Preprocess
    from pipeline.data.read_ahead import RecordsAhead
    from pipeline.data.sampler import Interleaved, Positions

    smallest, aspect = bench_reading.SMALLEST_SHARE, bench_reading.LARGEST_ASPECT
    augment = Augment(flip=True, crop_scale_min=smallest, crop_aspect_max=aspect)
    preprocess = Preprocess(bench_reading.SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", antialias=True)
    records = open_records([f"{shards}/*.tfrec"])
    order: Positions = Positions(len(records), 0)
    if way == "not decoded":
        ahead = RecordsAhead(records, lambda step: order.batch(step, bench_reading.BATCH), bench_reading.BATCH)
        yield from (len(ahead.images(step)) for step in itertools.count())
    if way == "interleaved":
        order = Interleaved(records.shard, 0, SHARDS_AT_A_TIME)
    for batch in train_batches(records, order, preprocess, augment, bench_reading.BATCH, seed=0):
        yield len(batch["images"])


if __name__ == "__main__":
    main(sys.argv[1:])
