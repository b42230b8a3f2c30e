"""`guie embed` that is killed, or finds no room: one line, nothing lost, the same bytes in the end.

GUIE_KILLS=20 sets the number of kills.
"""

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
from pipeline.evaluation.embedding import chunks
from pipeline.vectors.store import open_store
from tests.evaluation.test_embedding import tree
from tests.evaluation.tiny import MeanColour, jpeg, save
from tests.faults.test_disks import filled, refused

KILLS = int(os.environ.get("GUIE_KILLS", "5"))
# `guie` with chunks of a few images.
SMALL_CHUNKS = """
import sys
from pipeline import cli
from pipeline.quiet import import_quietly
import_quietly("pipeline.evaluation.embedding.chunks").IMAGES = 8
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Path:
    return save(MeanColour(), tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    for number in range(160):
        jpeg(root / f"class {number % 4}" / f"{number:03}.jpg", (number, 90, 200), size=(90 + number % 5, 60))
    (root / "class 1" / "none.jpg").write_bytes(b"no image")
    return root


@pytest.mark.slow
@pytest.mark.faults("killed")
@pytest.mark.parametrize("store", [True, False])
def test_a_killed_command_goes_on_to_the_same_bytes(embedder, photographs, tmp_path, tried, store):
    def started(out: Path) -> subprocess.Popen:
        words = ["embed", str(embedder), str(photographs), "--out", str(out), "--batch-size", "4"]
        command = [sys.executable, "-c", SMALL_CHUNKS, *words, *["--store"] * store]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert started(tmp_path / "whole").wait(300) == 0
    chance, out, kills = random.Random(7), tmp_path / "out", 0
    folder = out if store else out / "chunks"
    while kills < KILLS:
        process = started(out)
        held, wanted = len(list(folder.glob("vectors-*.npy"))), chance.randint(0, 4)
        while process.poll() is None and len(list(folder.glob("vectors-*.npy"))) < held + wanted:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait(60) == -signal.SIGKILL
        if (out / ("store.json" if store else "embeddings.npy")).exists():
            break
    assert started(out).wait(300) == 0
    assert tree(out) == tree(tmp_path / "whole")
    assert not list(out.rglob(".partial-*"))
    tried(kills)


@pytest.mark.faults("full disk")
def test_embedding_on_a_full_disk_is_one_line_and_goes_on_once_there_is_room(
    embedder, photographs, disk, capsys, tmp_path, monkeypatch, tried
):
    monkeypatch.setattr(chunks, "IMAGES", 8)
    words = ["embed", str(embedder), str(photographs)]
    for kind in ((), ("--store",)):
        assert cli.main([*words, *kind, "--out", str(tmp_path / f"whole{len(kind)}")]) == 0
    folder = disk("size=8m")
    sizes = (0, 8, 20, 60, 120, 240)
    for leave in sizes:
        for kind in ((), ("--store",)):
            out = folder / f"out{len(kind)}"
            filler = filled(folder, 1024 * leave)
            line = refused(capsys, *words, *kind, "--out", str(out))
            assert "the disk is full" in line and str(out) in line and "goes on from here" in line
            filler.unlink()
            done = {path: path.stat().st_ino for path in out.rglob("vectors-*.npy")}
            assert cli.main([*words, *kind, "--out", str(out)]) == 0
            assert tree(out) == tree(tmp_path / f"whole{len(kind)}")
            if kind:
                assert all(path.stat().st_ino == inode for path, inode in done.items()), "embedded twice"
            subprocess.run(["rm", "-rf", str(out)], check=True)
    tried(2 * len(sizes))


@pytest.mark.faults("damage")
def test_a_damaged_chunk_of_a_store_is_named_and_made_again_by_the_command(embedder, photographs, tmp_path, capsys):
    words = ["embed", str(embedder), str(photographs), "--out", str(tmp_path / "out"), "--store", "--dtype", "int8"]
    assert cli.main(words) == 0
    whole = tree(tmp_path / "out")
    values = np.load(tmp_path / "out/vectors-00000.npy")
    values[3, 5] ^= 1
    np.save(tmp_path / "out/vectors-00000.npy", values)
    with pytest.raises(Exception, match=r"vectors-00000\.npy is damaged"):
        open_store(tmp_path / "out")
    assert cli.main(words) == 0
    assert tree(tmp_path / "out") == whole and open_store(tmp_path / "out").count == 160
