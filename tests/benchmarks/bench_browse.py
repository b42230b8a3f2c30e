"""guie browse over 100,000 images: the time until it listens, of each kind of page, and of a search while it computes.

python -m tests.benchmarks.bench_browse [--images N]
Random unit vectors of 64 numbers, 1,000 classes, drawn JPEGs; medians of nine requests over loopback. Wanted: the first
page in under 1 s, a query in under 0.2 s.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

DRAWN = 10


def make(root: Path, images: int) -> None:
    """`root`/pictures, `root`/vectors: links to a few drawn files, and a vector for each."""
    generator = np.random.default_rng(0)
    (root / "drawn").mkdir()
    for number in range(DRAWN):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((640, 480)).save(root / f"drawn/{number}.jpg")
    rows = ["key,source,class"]
    for number in range(images):
        name = f"{number % 1000:04d}"
        (root / "pictures" / name).mkdir(parents=True, exist_ok=True)
        os.link(root / f"drawn/{number % DRAWN}.jpg", root / f"pictures/{name}/{number}.jpg")
        rows.append(f"{name}/{number}.jpg,pictures,{name}")
    vectors = generator.normal(size=(images, 64)).astype(np.float32)
    (root / "vectors").mkdir()
    np.save(root / "vectors/embeddings.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (root / "vectors/items.csv").write_text("\n".join(rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        make(root, images)
        command = [sys.executable, "-m", "pipeline.cli", "browse", f"{root}/vectors", f"{root}/pictures", "--port", "0"]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"http://\S+", process.stdout.readline())
                assert found, "the server did not start"
                print(f"{'until it listens':34} {time.perf_counter() - began:8.2f} s")
                measure(found[0].rstrip("/"), images)
                peak_kb = re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0]
                print(f"{'peak memory':34} {int(peak_kb) / 1024:8.0f} MB")
            finally:
                process.terminate()


def measure(address: str, images: int) -> None:
    def seconds(path: str) -> float:
        started = time.perf_counter()
        with urllib.request.urlopen(address + path, timeout=600) as answer:
            answer.read()
        return time.perf_counter() - started

    def said(what: str, found: list[float]) -> None:
        print(f"{what:34} {statistics.median(found):8.3f} s  (most {max(found):.3f})", flush=True)

    rows = np.random.default_rng(1).integers(0, images, 9).tolist()
    said("the first page, asked first", [seconds("/")])
    said("the first page", [seconds("/") for _ in rows])
    said("a page of a class", [seconds(f"/?class={row % 1000}") for row in rows])
    said("search by words, asked first", [seconds("/?find=0123")])
    said("search by words", [seconds(f"/?find=/{row}") for row in rows])
    said("a query: an item and its nearest", [seconds(f"/item/{row}") for row in rows])
    said("a thumbnail", [seconds(f"/image/{row}") for row in rows])
    said("the map, asked first", [seconds("/map/points")])
    said("the map", [seconds("/map/points") for _ in rows])
    started = time.perf_counter()
    said("most wrong, asked first", [seconds("/?view=wrong")])
    said("a query while that is computed", [seconds(f"/item/{row}") for row in rows])
    while "progress" in urllib.request.urlopen(f"{address}/?view=wrong", timeout=600).read().decode():
        time.sleep(1)
    print(f"{'most wrong, until it is there':34} {time.perf_counter() - started:8.2f} s")
    said("most wrong", [seconds("/?view=wrong") for _ in rows])
    said("outliers", [seconds("/?view=outliers") for _ in rows])
    said("near-duplicates", [seconds("/?view=duplicates") for _ in rows])


if __name__ == "__main__":
    main()
