"""Done-marks: what is taken as equal, what is compared, what is said."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import marks
from pipeline.guards.masked import Masked
from pipeline.marks import NEVER, Files, Stage

pytestmark = pytest.mark.faults("stale results")


@dataclass
class Counted:
    """Files whose bytes are asked for so many times."""

    files: Files
    asked: int = 0
    may_go: bool = False

    def quick(self) -> str:
        return self.files.quick()

    def content(self) -> str:
        self.asked += 1
        return self.files.content()


@dataclass
class Work:
    """A stage that copies a file, as a command does it."""

    folder: Path
    keys: dict = field(default_factory=lambda: {"records.cap_per_class": 7})
    makes: tuple[str, ...] = ("out/copy",)
    asked: int = 0

    def stage(self) -> tuple[Stage, Counted]:
        read = Counted(Files.below(self.folder / "in"))
        return Stage("copy", self.folder, self.keys, {"in": read}), read

    def reasons(self) -> list[str]:
        stage, read = self.stage()
        found = stage.reasons()
        self.asked = read.asked
        return found

    def do(self) -> None:
        stage, _ = self.stage()
        mark = stage.begin(self.makes)
        for name in self.makes:
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes((self.folder / "in").read_bytes())
        stage.finish(mark)


@pytest.fixture
def work(tmp_path) -> Work:
    (tmp_path / "in").write_text("ab")
    found = Work(tmp_path)
    assert found.reasons() == [NEVER]
    found.do()
    return found


def test_what_is_done_is_known_by_stats_alone(work):
    assert work.reasons() == [] and work.asked == 0


def test_other_times_of_the_same_bytes_are_compared_once(work):
    os.utime(work.folder / "in")
    assert work.reasons() == [] and work.asked == 1
    assert work.reasons() == [] and work.asked == 0


def test_another_place_is_no_change(work, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "run"
    work.folder.rename(elsewhere)
    assert Work(elsewhere).reasons() == []


def overwritten(folder: Path) -> None:
    """The same size, inode and time of change."""
    before = (folder / "in").stat()
    (folder / "in").write_text("ba")
    os.utime(folder / "in", ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed_over(folder: Path) -> None:
    before = (folder / "in").stat()
    (folder / "new").write_text("ba")
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").rename(folder / "in")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (overwritten, "in changed"),
        (renamed_over, "in changed"),
        (lambda folder: (folder / "in").unlink(), "in changed"),
        (lambda folder: (folder / "out/copy").unlink(), "out/copy is missing"),
        (lambda folder: (folder / "out/copy").write_text("aa"), "out/copy changed"),
        (lambda folder: (folder / ".marks/copy.json").write_text("{"), "its mark is damaged or of another version"),
        (lambda folder: (folder / ".marks/copy.json").write_text("[]"), "its mark is damaged or of another version"),
        (lambda folder: (folder / ".marks/copy.json").write_text('{"version": 1, "keys": 3}'), "its mark is damaged"),
    ],
)
def test_a_change_is_named(work, edit, said):
    edit(work.folder)
    assert work.reasons()[0].startswith(said)


def test_a_mark_that_is_gone_means_that_nothing_is_known(work):
    (work.folder / ".marks/copy.json").unlink()
    assert work.reasons() == [NEVER]


def test_a_key_is_named_with_both_values(work):
    work.keys = {"records.cap_per_class": 4, "score.index": ["a"]}
    assert work.reasons() == ["records.cap_per_class was 7, is 4", 'score.index was not there, is ["a"]']


def test_a_stage_that_was_killed_is_not_done(work):
    stage, _ = work.stage()
    stage.begin(work.makes)
    assert work.reasons() == ["it was not finished"]


def test_a_file_that_changes_while_it_is_read_differs_the_next_time(work):
    stage, _ = work.stage()
    mark = stage.begin(work.makes)
    (work.folder / "in").write_text("later")
    stage.finish(mark)
    assert work.reasons() == ["in changed"]


def test_what_is_not_made_any_more_is_removed_also_after_a_kill(work):
    (work.folder / "mine").write_text("mine")
    work.makes = ("out/copy", "out/second")
    work.stage()[0].begin(work.makes)  # killed here, or a little later
    (work.folder / "out/second").write_text("half")
    work.makes = ("out/copy",)
    work.do()
    assert sorted(path.name for path in work.folder.rglob("*") if path.is_file()) == ["copy", "copy.json", "in", "mine"]
    work.stage()[0].drop()
    assert sorted(path.name for path in work.folder.rglob("*") if path.is_file()) == ["in", "mine"]


def test_what_may_go_is_no_change_where_it_is_gone_and_one_where_it_is_another(tmp_path):
    (tmp_path / "weights").write_text("a")
    held = marks.known(Files.below(tmp_path / "weights"))
    (tmp_path / "weights").unlink()
    now = [Files.below(tmp_path / "weights", may_go=each) for each in (True, False)]
    assert [marks.same(held, each) for each in now] == [True, False]
    (tmp_path / "weights").write_text("b")
    assert not marks.same(held, now[0])


def test_files_of_a_folder_are_known_by_names_below_it(tmp_path):
    for name in ("a/x/one", "a/two"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = Files.below(tmp_path / "a").content()
    (tmp_path / "a").rename(tmp_path / "b")
    assert Files.below(tmp_path / "b").content() == before != ""
    (tmp_path / "b/two").rename(tmp_path / "b/three")
    assert Files.below(tmp_path / "b").content() != before
    assert Files.below(tmp_path / "none").content() == ""


def test_keys_are_flat_and_survive_json():
    section = {"sources": [{"name": "a", "options": {}}, {"name": "b", "options": {"split": "x"}}], "shares": [1, 0.5]}
    found = marks.flat(section, "records")
    names = {"records.sources.0.name": "a", "records.sources.1.name": "b", "records.sources.1.options.split": "x"}
    assert found == names | {"records.shares": [1, 0.5]}
    assert marks.changed_keys(json.loads(json.dumps(found)), found) == []


def test_a_secret_is_in_no_mark(tmp_path):
    token = Masked("hunter2hunter2", "${oc.env:TOKEN}")
    keys = marks.flat({"index": [token], "url": "https://me:hunter2hunter2@host/x", "token": token}, "score")
    stage = Stage("secret", tmp_path, keys)
    stage.finish(stage.begin([]))
    assert "hunter2" not in stage.path.read_text() and stage.reasons() == []


def test_a_line_names_three_reasons_and_counts_the_others():
    assert marks.said(["a", "b", "c", "d", "e"]) == "a; b; c; 2 more" and marks.said(["a"]) == "a"
