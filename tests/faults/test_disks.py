"""A machine that refuses: full disks, no inodes, read-only, limits, killed workers. One line, exit 2, nothing lost."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pipeline import cli, files
from pipeline.errors import BadInput
from pipeline.guards import machine
from pipeline.training import checkpoints
from tests.faults import work
from tests.faults.test_checkpoint_damage import VALUES
from tests.tfrecords.test_records_build import build, class_folders, write_config
from tests.tfrecords.test_records_kill import tree
from tests.training.tiny_runs import TinyRuns
from tfrecords.processes import in_processes

LIMITED = """
import resource, sys
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]), int(sys.argv[2])))
from pipeline.cli import main
sys.argv[:] = ["guie", *sys.argv[3:]]
sys.exit(main())
"""


def filled(folder: Path, leave: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    facts = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(facts.f_bavail * facts.f_bsize - leave))
    return folder / "filler"


@pytest.fixture
def birds(tmp_path) -> Path:
    root = class_folders(tmp_path / "set", {"crow": 20, "owl": 20}, side=120)
    return write_config(tmp_path, {"birds": root}, images_per_shard=4, image_size_px=96)


def refused(capsys, *words: str) -> str:
    """The one line of a command that ends with code 2."""
    assert cli.main(list(words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if " images, " not in line]
    assert len(lines) == 1 and lines[0].startswith(f"guie {words[0]}: "), lines
    return lines[0]


@pytest.mark.faults("full disk")
@pytest.mark.parametrize(
    ("options", "said"),
    [("size=64k", "the disk is full"), ("size=8m,nr_inodes=12", "no inodes left"), ("size=4k", "the disk is full")],
)
def test_a_build_on_a_full_disk_goes_on_once_there_is_room(birds, disk, capsys, tmp_path, options, said):
    assert build(birds) == 0
    expected = tree(tmp_path / "run/records")
    run_dir = disk(options) / "run"
    line = refused(capsys, "tfrecords", str(birds), f"run_dir={run_dir}")
    assert said in line and str(run_dir) in line and "goes on from here" in line
    done = {path.name: path.stat().st_ino for path in run_dir.rglob("*.tfrec")}
    assert not list(run_dir.rglob(".partial-*"))
    disk("remount,size=8m,nr_inodes=1000")
    assert build(birds, f"run_dir={run_dir}") == 0
    assert tree(run_dir / "records") == expected
    assert all((run_dir / "records" / name).stat().st_ino == inode for name, inode in done.items()), "made again"


@pytest.mark.faults("read-only disk")
def test_on_a_read_only_disk_what_is_done_is_said_and_the_rest_refused(birds, disk, capsys):
    run_dir = disk("size=8m") / "run"
    run_dir.mkdir()
    disk("remount,ro")
    line = refused(capsys, "tfrecords", str(birds), f"run_dir={run_dir}")
    assert "cannot be written: mount it rw" in line and str(run_dir) in line


@pytest.mark.faults("ulimit")
@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("RLIMIT_FSIZE", 1024, "raise `ulimit -f`"),
        ("RLIMIT_NOFILE", 5, "raise `ulimit -n`"),
        ("RLIMIT_NOFILE", 9, "raise `ulimit -n`"),
        # A thread's own 64 MB decide, by the machine, whether Python runs short before it comes to numpy.
        ("RLIMIT_AS", 150_000_000, "numpy needs 1 to start"),
        ("RLIMIT_AS", 170_000_000, "numpy needs 1 to start"),
        ("RLIMIT_AS", 600_000_000, "numpy needs 1 to start"),
    ],
)
def test_a_limit_that_a_build_meets_is_named_in_one_line(birds, tmp_path, limit, value, said):
    command = [sys.executable, "-c", LIMITED, limit, str(value), "tfrecords", str(birds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert build(birds) == 0
    assert cli.main(["verify", str(tmp_path / "run/records")]) == 0


@pytest.mark.faults("ulimit")
def test_tensorflow_is_not_begun_where_it_would_abort(birds, tmp_path):
    command = [sys.executable, "-c", LIMITED, "RLIMIT_AS", str(3 * 10**9), "score", "none", "--index", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "tensorflow needs 6 to start" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.faults("ulimit")
def test_an_image_that_cannot_be_opened_for_want_of_files_is_no_reject(birds, tmp_path, monkeypatch, capsys):
    """Thirty images would be left out of the records, and the build would end well."""
    from tfrecords import build as building
    from tfrecords import chunks

    def here(work, tasks, workers):
        yield from ((task, work(task)) for task in tasks)

    def scarce(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(building, "in_processes", here)
    monkeypatch.setattr(chunks.Chunk, "items", lambda self: [(Scarce(scarce), 0)] * self.count)
    assert "too many files are open" in refused(capsys, "tfrecords", str(birds))
    assert not list((tmp_path / "run").rglob("*.tfrec"))


class Scarce:
    key, class_name, file = "a", "crow", ""

    def __init__(self, read):
        self.read = lambda: read("a.jpg")


@pytest.mark.faults("killed worker")
def test_what_a_worker_raises_is_raised_here_with_its_traceback():
    with pytest.raises(OSError) as caught:
        list(in_processes(work.doubled, range(9), workers=2))
    assert caught.value.errno == errno.ENOSPC and "in doubled" in caught.value.__notes__[0]
    assert machine.line(caught.value).startswith("the disk is full")


@pytest.mark.faults("killed worker")
def test_a_killed_worker_is_one_line_and_the_process_that_forked_them_may_go():
    with pytest.raises(BadInput, match="a worker process was killed"):
        list(in_processes(work.killed, [1, 2, 3], workers=2))
    assert sorted(found for _, found in in_processes(work.orphaned, [1, 2, 3], workers=2)) == [1, 2, 3]


@pytest.mark.faults("killed worker")
def test_the_process_that_forks_is_killed_before_it_does(birds, capsys):
    """As it imports: its sockets end."""
    from tfrecords import processes

    start = processes._start

    def killed(sockets, work):
        process = start(sockets, work)
        process.kill()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_start", killed)
        assert "a worker process was killed" in refused(capsys, "tfrecords", str(birds))
    assert build(birds) == 0


@pytest.mark.faults("full disk")
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(disk):
    folder = disk("size=40k")
    values = {**VALUES, "a/kernel": VALUES["a/kernel"].repeat(600, axis=0)}  # 29 kB
    writer = checkpoints.Writer(folder, kept=2)
    writer.save(1, values, {})
    writer.wait()
    writer.save(2, values, {})
    with pytest.raises(SafetensorError) as caught:
        writer.wait()
    line = machine.line(caught.value)
    assert line.startswith(f"{folder / 'step-000000002.safetensors'}: the disk is full")
    assert [path.name for path in folder.iterdir()] == ["step-000000001.safetensors"]
    assert checkpoints.newest(folder, read=True).name == "step-000000001.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TinyRuns:
    runs = TinyRuns.made(tmp_path_factory.mktemp("tiny"))
    runs.train("whole")
    return runs


@pytest.mark.slow
@pytest.mark.faults("full disk")
@pytest.mark.parametrize("options", ["size=16k", "size=8m,nr_inodes=4"])
def test_training_on_a_full_disk_ends_in_one_line_and_goes_on(trained, disk, capsys, options):
    run_dir = disk(options) / "run"
    words = ["train", str(trained.config), f"run_dir={run_dir}", "train.checkpoints_kept=2"]
    line = refused(capsys, *words)
    assert "the disk is full" in line and str(run_dir) in line
    disk("remount,size=8m,nr_inodes=1000")
    assert cli.main(words) == 0
    assert (run_dir / "checkpoints/step-000000008.safetensors").exists()


@pytest.mark.slow
@pytest.mark.faults("full disk")
@pytest.mark.parametrize("room_kb", [16, 80])
def test_an_export_and_embeddings_on_a_full_disk_are_one_line(trained, disk, capsys, room_kb):
    """Into 16 kB not even the graph fits, into 80 the model does, and no zip."""
    run_dir = disk("size=8m") / "run"
    shutil.copytree(trained.folder / "whole/checkpoints", run_dir / "checkpoints")
    for path in sorted((run_dir / "checkpoints").iterdir())[:-1]:
        path.unlink()
    filler = filled(run_dir, 1024 * room_kb)
    line = refused(capsys, "export", str(trained.config), f"run_dir={run_dir}")
    assert "the disk is full" in line and str(run_dir) in line
    assert not (run_dir / "submission.zip").exists() and not list(run_dir.rglob(".partial-*"))
    filler.unlink()
    assert cli.main(["export", str(trained.config), f"run_dir={run_dir}"]) == 0
    capsys.readouterr()
    filled(run_dir, 0)
    data, out = f"{trained.folder}/records/*.tfrec", run_dir / "vectors"
    line = refused(capsys, "embed", str(run_dir / "submission.zip"), data, "--out", str(out))
    assert "the disk is full" in line and str(out) in line
    line = refused(capsys, "score", str(run_dir / "submission.zip"), "--index", data, "--out", str(run_dir / "m.json"))
    assert "the disk is full" in line and "m.json" in line


@pytest.mark.faults("full disk")
@pytest.mark.parametrize("number", sorted(machine._MENDS))
def test_every_error_of_the_machine_is_one_line_with_the_path(tmp_path, number):
    with pytest.raises(OSError) as caught, files.atomic_path(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    line = machine.line(caught.value)
    assert line.startswith(f"{tmp_path / 'a.json'}: ") and "\n" not in line and line.endswith("goes on from here")


@pytest.mark.faults("full disk")
def test_faults_of_ours_stay_faults():
    for error in (ValueError("no space"), FileNotFoundError(2, "No such file", "a"), KeyError("x"), OSError("odd")):
        assert machine.line(error) is None
    inner = RuntimeError("while saving")
    inner.__cause__ = MemoryError()
    assert "no memory is left" in machine.line(inner)
    assert "no memory is left" in machine.line(ImportError("x.so: failed to map segment from shared object"))
    assert machine.refuses(MemoryError()) and not machine.refuses(OSError(errno.ENOENT, "no such file"))
