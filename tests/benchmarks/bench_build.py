"""Building records against the script everybody writes and against img2dataset, on the same photographs.

    python -m tests.benchmarks.bench_build [--photos 2000] [--runs 3] [--processes 2] [--grow mosaic|resize]

The photographs of ../shared/data are smaller than the public sets' originals, so they are grown to shorter sides of
500 to 1000 px: `mosaic` lays neighbours side by side until the size is reached (every pixel as sharp as in a photograph
of that size), `resize` enlarges each alone. Rounds go through all contestants in turn; medians of the rounds. CPU time
counts start-up and imports; on a machine that others use too, it is the steadier figure.
"""

import argparse
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from tfrecords.pixels import reduced_by, shrink, shrunk_size
from tfrecords.processes import cores

SHARED = Path(os.environ.get("GUIE_DATA") or Path(__file__).resolve().parents[3] / "shared/data")


def grow(paths: list[Path], short_side: int, how: str) -> Image.Image:
    """A photograph with a shorter side of `short_side` px, 4:3, from one or more smaller ones."""
    width, height = round(short_side * 4 / 3), short_side
    first = Image.open(paths[0]).convert("RGB")
    if how == "resize":
        factor = short_side / min(first.size)
        return first.resize((round(first.width * factor), round(first.height * factor)), Image.Resampling.BICUBIC)
    ground, x, y, row, at = Image.new("RGB", (width, height)), 0, 0, 0, 0
    while y < height:
        tile = Image.open(paths[at % len(paths)]).convert("RGB")
        ground.paste(tile, (x, y))
        at, x, row = at + 1, x + tile.width, max(row, tile.height)
        if x >= width:
            x, y, row = 0, y + row, 0
    return ground


def write_photos(folder: Path, count: int, how: str) -> None:
    """Grown photographs as class folders."""
    found = [
        path
        for part in ("products10k/train", "landmarks/train", "CUB_200_2011/images")
        for path in sorted((SHARED / part).rglob("*.jp*g"))
    ]
    if not found:
        sys.exit(f"needs the photographs of {SHARED}")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(found))
    for number in range(count):
        own = [found[order[(number + step) % len(found)]] for step in range(16)]
        path = folder / f"{number % 20:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        grow(own, 500 + number * 500 // count, how).save(file, "JPEG", quality=90)
        path.write_bytes(file.getvalue())


def look(session: int, cpu_seconds: dict[int, float]) -> float:
    """Megabytes of all processes of a session, shared pages counted once (PSS); notes the CPU time of each."""
    kilobytes, ticks = 0, os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    cpu_seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / ticks
                    kilobytes += int((entry / "smaps_rollup").read_text().partition("\nPss:")[2].split()[0])
            except (OSError, IndexError, ValueError):
                continue
    return kilobytes / 1024


def run(command: list[str]) -> tuple[str, float, float, float]:
    """Standard output, seconds, peak memory in MB and CPU seconds of the whole process tree."""
    peak, cpu_seconds, ended = [0.0], dict[int, float](), threading.Event()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], look(process.pid, cpu_seconds))

    threading.Thread(target=watch, daemon=True).start()
    try:
        out, error = process.communicate(timeout=1800)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    seconds = time.perf_counter() - started
    ended.set()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{error[-2000:]}")
    return out, seconds, peak[0], sum(cpu_seconds.values())


def limit(photos: Path, size_px: int) -> tuple[float, float, float]:
    """Milliseconds a photograph for libjpeg-turbo alone: decode in full, decode at the scale we use, encode."""
    paths = sorted(photos.rglob("*.jpg"))
    data = [path.read_bytes() for path in paths[:: max(1, len(paths) // 100)]]
    full, reduced, encode = [], [], []
    for one in data:
        height, width, _, _ = simplejpeg.decode_jpeg_header(one)
        target = shrunk_size(width, height, size_px)
        by = reduced_by((width, height), target)
        marks = [time.process_time()]
        simplejpeg.decode_jpeg(one)
        marks.append(time.process_time())
        pixels = simplejpeg.decode_jpeg(one, min_height=-(-height // by), min_width=-(-width // by))
        marks.append(time.process_time())
        small = np.ascontiguousarray(shrink(pixels, *target, (width / by, height / by)))
        marks.append(time.process_time())
        simplejpeg.encode_jpeg(small, 95, "RGB", "420")
        marks.append(time.process_time())
        full.append(marks[1] - marks[0])
        reduced.append(marks[2] - marks[1])
        encode.append(marks[4] - marks[3])
    return tuple(1000 * statistics.median(times) for times in (full, reduced, encode))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=min(cores(), 8))
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--grow", choices=["mosaic", "resize"], default="mosaic")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="guie-bench-"))
    try:
        photos = work / "photos"
        write_photos(photos, given.photos, given.grow)
        size = sum(path.stat().st_size for path in photos.rglob("*.jpg")) / given.photos
        print(
            f"{given.photos:,} photographs grown ({given.grow}) to shorter sides of 500 to 1000 px, "
            f"{size / 1000:.0f} kB each; to {given.size} px, quality 95; {given.processes} processes of "
            f"{cores()} cores; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        times: dict[str, list[float]] = {}
        cpus: dict[str, list[float]] = {}
        memory: dict[str, float] = {}
        for round_number in range(given.runs):
            for name in ("guie", "plain script", "img2dataset"):
                out = work / "out"
                shutil.rmtree(out, ignore_errors=True)
                seconds, peak, cpu = contest(name, photos, out, given.size, given.processes, given.photos)
                times.setdefault(name, []).append(seconds)
                cpus.setdefault(name, []).append(cpu)
                memory[name] = max(memory.get(name, 0), peak)
                print(f"  round {round_number + 1}: {name}: {given.photos / seconds:,.0f} images/s", flush=True)
        full, reduced, encode = limit(photos, given.size)
        middle = {name: statistics.median(seconds) for name, seconds in times.items()}
        used = {"guie": given.processes, "plain script": 1, "img2dataset": given.processes}
        print(f"{'':<14}{'images/s':>10}{'per core':>10}{'CPU ms each':>13}{'peak MB':>9}{'guie is':>9}")
        for name, seconds in middle.items():
            rate, cpu = given.photos / seconds, 1000 * statistics.median(cpus[name]) / given.photos
            ratio = "" if name == "guie" else f"{seconds / middle['guie']:.2f}×"
            print(f"{name:<14}{rate:>10,.0f}{rate / used[name]:>10,.0f}{cpu:>13.1f}{memory[name]:>9,.0f}{ratio:>9}")
        bound = 1000 / (reduced + encode)
        print(
            f"limit: libjpeg-turbo decodes a photograph in {full:.2f} ms ({reduced:.2f} ms at the DCT scale used) and "
            f"encodes it in {encode:.2f} ms: {bound:,.0f} images/s a core without reading, resizing or writing; "
            f"guie reaches {given.photos / middle['guie'] / given.processes / bound:.0%} of it"
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def contest(name: str, photos: Path, out: Path, size_px: int, processes: int, count: int) -> tuple[float, float, float]:
    """Seconds, peak MB and CPU seconds of one contestant; exits where it did not store every photograph."""
    if name == "guie":
        out.mkdir()
        config = out / "config.yaml"
        records = {
            "sources": [{"layout": "folder", "name": "photos", "root": str(photos)}],
            "cap_per_class": count, "image_size_px": size_px, "workers": processes,
            "images_per_shard": -(-count // (4 * processes)),
        }  # fmt: skip
        config.write_text(json.dumps({"run_dir": str(out), "encoder": {"name": "none"}, "records": records}))
        _, seconds, peak, cpu = run([sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)])
        images = json.loads((out / "records" / "manifest.json").read_text())["images"]
    else:
        peer = name.split()[0]
        command = [sys.executable, "-m", "tests.benchmarks.build_peers", peer, str(photos), str(out)]
        text, _, peak, cpu = run([*command, str(size_px), str(processes)])
        result = json.loads(text.splitlines()[-1])
        seconds, images = result["seconds"], result["images"]
    if images != count:
        sys.exit(f"{name} stored {images} of {count} photographs")
    return seconds, peak, cpu


if __name__ == "__main__":
    main()
