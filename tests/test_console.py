"""Progress in a log: whole lines on stderr, none for what is done at once; rate and ETA of what is done lately."""

import time

import pytest

from pipeline import console


class Clock:
    """A clock that the test sets; tqdm and the rate read the same one."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(console, "monotonic", found)
    monkeypatch.setattr("tqdm.std.time", found)
    return found


def shown(capsys) -> str:
    """The last line, without what stands before the rate."""
    return capsys.readouterr().err.splitlines()[-1].partition("images, ")[2]


def test_progress_in_a_log_is_a_line_now_and_then_and_one_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.05)
    progress = console.Progress("tfrecords", 500, "images", done=100)
    for _ in range(4):
        time.sleep(0.06)
        progress.add(100, "3 rejects")
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == "" and "\r" not in shown.err and 2 <= len(lines) <= 4 and all(lines)
    assert lines[-1].startswith("tfrecords: 500 of 500 images, ") and lines[-1].endswith(", 3 rejects")
    assert " images/s, ETA " in lines[-1] and progress.rate > 0


def test_what_is_done_at_once_shows_no_progress(capsys):
    console.Progress("quick", 10, "images").add(10)
    assert capsys.readouterr() == ("", "")


def test_a_restart_counts_from_what_is_there(capsys):
    progress = console.Progress("upload", 100, "kB")
    progress.add(60)
    progress.restart(20)
    progress.add(30)
    assert progress._bar.n == 50


def test_rate_and_eta_are_of_the_last_seconds_not_of_all(clock, capsys, monkeypatch):
    """A minute at 1 image/s, then 20 a second: the mean of all is 10.7 images/s, which would be ETA 0:28."""
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.5)
    progress = console.Progress("train", 1600, "images")
    for each in [1] * 60 + [20] * 62:
        clock.seconds += 1
        progress.add(each)
    assert progress.rate == 20.0 and shown(capsys) == "20.0 images/s, ETA 00:15"


@pytest.mark.parametrize("live", [False, True])
def test_one_second_before_the_end_the_eta_is_one_second(clock, capsys, monkeypatch, live):
    monkeypatch.setattr("sys.stderr.isatty", lambda: live)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.5)
    progress = console.Progress("train", 80, "images")
    clock.seconds += 67  # compiling
    progress.add(8, timed=False)
    assert progress.rate == 0.0 and "? images/s, ETA ?" in capsys.readouterr().err
    for _ in range(8):
        clock.seconds += 1
        progress.add(8)
    assert progress.rate == 8.0 and "72 of 80 images, 8.0 images/s, ETA 00:01" in capsys.readouterr().err


def test_additions_further_apart_than_the_window_have_the_rate_of_the_last(clock, capsys):
    progress = console.Progress("tfrecords", 1000, "images")
    for seconds, count in ((50, 100), (100, 400)):
        clock.seconds += seconds
        progress.add(count)
    assert progress.rate == 4.0 and shown(capsys) == "4.0 images/s, ETA 02:05"


def test_a_thousand_additions_a_second_keep_few_points(clock):
    progress = console.Progress("reading", 100_000, "images")
    for _ in range(50_000):
        clock.seconds += 0.001
        progress.add(1)
    assert progress.rate == pytest.approx(1000, rel=1e-3) and len(progress._window.points) < 70


def test_progress_within_another_leaves_no_cursor_moves_in_a_log(clock, capsys):
    outer, inner = console.Progress("train", 100, "images"), console.Progress("features", 100, "images")
    for progress in (outer, inner, outer):
        clock.seconds += 6
        progress.add(30)
    said = capsys.readouterr().err
    assert [line.partition(":")[0] for line in said.splitlines()] == ["train", "features", "train"]
    assert "\x1b" not in said


def test_a_table_of_a_width_wraps_all_but_its_first_column():
    text = console.table(["key", "what it is"], [["train.seed", "of weights and batches"]], left=2, width=30)
    assert text.splitlines() == ["key         what it is", "train.seed  of weights and", "            batches"]
    assert len(console.table(["key", "what it is"], [["train.seed", "of weights and batches"]]).splitlines()) == 2
