"""A build killed at random moments, and a thousand damaged files: nothing lost, nothing twice, nothing hangs.

GUIE_KILLS=20 sets the number of kills, GUIE_DAMAGED the folder of photographs that are damaged (else drawn ones).
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from tests.tfrecords.damage import HARMLESS, MAY_GO_UNNOTICED, WAYS, encoded, photograph
from tests.tfrecords.test_records_build import build, class_folders, write_config
from tfrecords.pixels import decode_stored
from tfrecords.schema import read_shard

KILLS = int(os.environ.get("GUIE_KILLS", "5"))
FILES_DAMAGED = 1000


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.faults("kill")
def test_a_build_killed_at_random_moments_ends_in_the_same_bytes(tmp_path: Path, tried):
    root = class_folders(tmp_path / "set", {"crow": 60, "owl": 60, "tit": 60, "wren": 60, "gull": 60}, side=160)
    for number in range(3):  # so that a second round replaces them
        (root / "owl" / f"{number:03d}.jpg").write_bytes(b"spoilt")
    options = {
        "cap_per_class": 50, "images_per_shard": 8, "image_size_px": 96, "max_reject_share": 0.5,
        "split": {"by": "class", "train": 0.6, "test": 0.4},
    }  # fmt: skip
    config = write_config(tmp_path, {"birds": root}, **options)
    assert build(config, f"run_dir={tmp_path / 'whole'}") == 0
    expected = tree(tmp_path / "whole" / "records")
    shards = sum(name.endswith(".tfrec") for name in expected)
    rng, records = random.Random(7), tmp_path / "run" / "records"
    command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)]
    finished: dict[str, tuple[int, int]] = {}
    killed = 0
    for attempt in range(KILLS):
        done_before = len(list(records.glob("*.tfrec")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        target = min(done_before + rng.randrange(0, max(2, shards // KILLS + 1)), shards)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until and len(list(records.glob("*.tfrec"))) < target:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.6 if target == done_before else 0.05))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # its workers see that they are alone and end
        for path in records.glob("*.tfrec"):
            assert path.read_bytes() == expected[path.name], f"half-written after kill {attempt}"
            finished.setdefault(path.name, (path.stat().st_ino, path.stat().st_mtime_ns))
    assert killed >= KILLS // 2, "the kills came too late to prove anything"
    assert build(config) == 0
    assert tree(records) == expected
    for name, identity in finished.items():
        stat = (records / name).stat()
        assert (stat.st_ino, stat.st_mtime_ns) == identity, f"{name} was whole and made again"
    keys = [record.key for path in records.glob("*.tfrec") for record in read_shard(path)]
    assert len(keys) == len(set(keys)) == 250
    assert cli.main(["verify", str(records)]) == 0
    tried(KILLS)


@pytest.mark.faults("kill")
def test_workers_end_with_a_killed_parent(tmp_path: Path):
    if not Path("/proc/self/stat").exists():
        pytest.skip("reads the process table of Linux")
    root = class_folders(tmp_path / "set", {"crow": 40, "owl": 40}, side=400)
    config = write_config(tmp_path, {"birds": root}, images_per_shard=2, image_size_px=300)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    records, until = tmp_path / "run" / "records", time.monotonic() + 60
    while not list(records.glob("*.tfrec")) and time.monotonic() < until:
        time.sleep(0.005)
    assert len(_session(process.pid)) >= 3, "parent, fork server and workers"
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 20
    while _session(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _session(process.pid)


def _session(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def originals() -> list[bytes]:
    folder = os.environ.get("GUIE_DAMAGED")
    if not folder:
        return [encoded(photograph(seed, 40 + 3 * seed, 48), quality=85) for seed in range(20)]
    return [path.read_bytes() for path in sorted(Path(folder).rglob("*.jp*g"))[:200]]


@pytest.mark.faults("damaged image")
def test_a_thousand_damaged_files_never_stop_the_build(tmp_path: Path, tried):
    whole, rng, root = originals(), np.random.default_rng(3), tmp_path / "set"
    ways = {**WAYS, **HARMLESS}
    made: dict[str, tuple[str, bytes]] = {}
    for number in range(FILES_DAMAGED):
        way = list(ways)[number % len(ways)]
        key = f"{'abcd'[number // 29 % 4]}/{number:04d}.jpg"
        made[key] = (way, ways[way](whole[number % len(whole)], rng))
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(made[key][1])
    assert len(WAYS) >= 10
    config = write_config(
        tmp_path,
        {"set": root},
        cap_per_class=FILES_DAMAGED,
        max_reject_share=1.0,
        images_per_shard=100,
        image_size_px=64,
    )
    command = [sys.executable, "-m", "pipeline.cli", "tfrecords", str(config)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    records = tmp_path / "run" / "records"
    stored = {record.key: record.encoded for path in records.glob("*.tfrec") for record in read_shard(path)}
    with (records / "rejects.csv").open() as file:
        rejected = {row["key"]: row["reason"] for row in csv.DictReader(file)}
    assert stored.keys() | rejected.keys() == made.keys() and not stored.keys() & rejected.keys()
    for key, (way, data) in made.items():
        if way in HARMLESS:
            assert key in stored, f"{way}: {rejected.get(key)}"
        elif way not in MAY_GO_UNNOTICED:
            assert key in rejected, way
        if key in stored:
            assert decode_stored(stored[key]).ndim == 3
            assert stored[key] == data or min(decode_stored(stored[key]).shape[:2]) <= 64
        else:
            assert rejected[key].strip() and "\n" not in rejected[key]
    assert json.loads((records / "manifest.json").read_text())["images"] == len(stored)
    assert cli.main(["verify", str(records)]) == 0
    tried(FILES_DAMAGED)
