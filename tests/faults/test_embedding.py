"""`guie embed` that is killed, or finds no room: one line, nothing lost, the same bytes in the end.

GUIE_KILLS=20 sets the number of kills.
"""

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
from pipeline.evaluation.embedding import chunks
from pipeline.guards import machine
from pipeline.vectors.store import open_store
from pipeline.vectors.writer import Writer
from tests.evaluation.test_embedding import tree
from tests.evaluation.tiny import MeanColour, jpeg, save
from tests.faults.test_disks import filled, refused

KILLS = int(os.environ.get("GUIE_KILLS", "3"))
# A process that has imported everything: for each line, the words of a command, it forks one with chunks of 8 images,
# and prints its id and how it ended.
FORKING = """
import json, os, sys
from pipeline import cli
from pipeline.quiet import import_quietly
import_quietly("pipeline.evaluation.embedding.command").chunks.IMAGES = 8
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(cli.main(json.loads(line)))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def guie():
    """`guie(words, kill)`: runs a command in a process of its own, which `kill(is_alive)` ends when it returns."""
    command, pipe = [sys.executable, "-c", FORKING], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def run(words: list[str], kill=None) -> int:
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        if kill is not None:
            kill(lambda: Path(f"/proc/{child}/cmdline").read_bytes() != b"")  # empty: it has ended
            os.kill(child, signal.SIGKILL)  # its parent may wait for it, or may not have yet
        return int(process.stdout.readline())

    with process:
        yield run
        process.stdin.close()


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
def test_a_killed_command_goes_on_to_the_same_bytes(guie, embedder, photographs, tmp_path, tried):
    chance, kills = random.Random(7), 0
    for kind in ([], ["--store"]):
        words = ["embed", str(embedder), str(photographs), *kind, "--batch-size", "4", "--out"]
        whole, out = tmp_path / f"whole{len(kind)}", tmp_path / f"out{len(kind)}"
        assert guie([*words, str(whole)]) == 0
        folder = out if kind else out / "chunks"

        def kill(is_alive, folder=folder):
            """After some chunks more, at any moment."""
            wanted = len(list(folder.glob("vectors-*.npy"))) + chance.randint(0, 4)
            while is_alive() and len(list(folder.glob("vectors-*.npy"))) < wanted:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.01)

        for _ in range(KILLS):
            kills += guie([*words, str(out)], kill) == signal.SIGKILL
        assert guie([*words, str(out)]) == 0
        assert tree(out) == tree(whole)
        assert not list(out.rglob(".partial-*"))
    assert kills > KILLS
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
    sizes = (0, 20, 120)
    for leave in sizes:
        for kind in ((), ("--store",)):
            out = folder / f"out{len(kind)}"
            filler = filled(folder, 1024 * leave)
            line = refused(capsys, *words, *kind, "--out", str(out))
            assert "the disk is full" in line and str(out) in line and "goes on from here" in line
            filler.unlink()
            marked = [path.stem for path in out.glob(".chunks/0*.json")]
            done = {path: path.stat().st_ino for path in out.glob("vectors-*.npy") if path.stem[-5:] in marked}
            assert cli.main([*words, *kind, "--out", str(out)]) == 0
            assert tree(out) == tree(tmp_path / f"whole{len(kind)}")
            assert all(path.stat().st_ino == inode for path, inode in done.items()), "embedded twice"
            subprocess.run(["rm", "-rf", str(out)], check=True)
    tried(2 * len(sizes))


@pytest.mark.faults("full disk")
def test_a_large_chunk_that_finds_no_room_is_named(disk):
    """np.save, which writes by C, would not say why: `1000 requested and 10 written`."""
    writer = Writer(disk("size=64k"), "any", 100)
    writer.put(0, np.ones((10, 100), np.float32), [(str(row), "set", "class", ()) for row in range(10)])
    with pytest.raises(OSError) as error:
        writer.put(1, np.ones((1000, 100), np.float32), [(str(row), "set", "class", ()) for row in range(1000)])
    assert machine.line(error.value).startswith(f"{writer.folder / 'vectors-00001.npy'}: the disk is full")
    assert [writer.has(0), writer.has(1)] == [True, False] and writer.finish().count == 10
    assert "the disk is full" in machine.line(OSError("25600 requested and 8160 written"))


@pytest.mark.faults("full disk")
def test_a_worker_of_beam_on_a_full_disk_is_one_line(embedder, photographs, disk, capsys, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setattr(chunks, "IMAGES", 8)
    folder = disk("size=8m")
    words = ["embed", str(embedder), str(photographs), "--out", str(folder / "out"), "--store", "--runner", "beam"]
    filler = filled(folder, 1024 * 60)
    line = refused(capsys, *words)
    assert "the disk is full" in line and str(folder / "out") in line
    filler.unlink()
    assert cli.main(words) == 0 and open_store(folder / "out").count == 160


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
