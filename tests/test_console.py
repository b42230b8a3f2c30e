"""Progress in a log: whole lines on stderr, none for what is done at once."""

import time

from pipeline import console


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
