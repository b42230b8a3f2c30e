"""Memory of a build of 100,000 images: does it grow with what is done?

    python -m tests.benchmarks.bench_build_memory [--images 100000] [--processes 2]

The images are hard links to 200 drawn JPEGs of 64 px: what is looked for is what the build keeps of each image, not
what one image needs. Prints the memory of parent and workers (PSS) at every tenth of the way.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.bench_build import look
from tests.tfrecords.damage import encoded, photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="guie-bench-"))
    try:
        originals = []
        for number in range(200):
            originals.append(work / f"{number}.jpg")
            originals[-1].write_bytes(encoded(photograph(number, 64, 64)))
        for number in range(given.images):
            path = work / "images" / f"{number // 100:05d}" / f"{number:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(originals[number % 200], path)
        records = {
            "sources": [{"layout": "folder", "name": "many", "root": str(work / "images")}],
            "cap_per_class": 100, "workers": given.processes,
        }  # fmt: skip
        config = work / "config.yaml"
        config.write_text(json.dumps({"run_dir": str(work / "run"), "encoder": {"name": "none"}, "records": records}))
        started = time.perf_counter()
        command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        seen: list[tuple[float, float]] = []
        while process.poll() is None:
            done = sum(int(path.stem.rpartition("-")[2]) for path in (work / "run" / "records").glob("*.tfrec"))
            seen.append((done / given.images, look(process.pid, {})))
            time.sleep(0.2)
        if process.returncode:
            sys.exit("the build failed")
        seconds = time.perf_counter() - started
        print(f"{given.images:,} images in {seconds:.0f} s, {given.processes} processes; peak of parent and workers:")
        tenths = [max((mb for share, mb in seen if tenth <= 10 * share < tenth + 1), default=0) for tenth in range(10)]
        print("  ".join(f"{10 * tenth}%: {megabytes:.0f} MB" for tenth, megabytes in enumerate(tenths)))
        middle = [megabytes for megabytes in tenths[2:] if megabytes]
        print(
            f"growth from 20% to the end: {max(middle) / middle[0] - 1:+.0%}; "
            f"at most {max(mb for _, mb in seen):.0f} MB"
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
