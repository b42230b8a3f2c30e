"""The table of `make faults`: by kind, over xdist's workers, with what failed and what was skipped."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

@pytest.mark.faults("full disk")
def test_many(tried):
    tried(40)
    tried(2)

@pytest.mark.faults("full disk")
@pytest.mark.parametrize("case", range(3))
def test_each(case):
    assert case

@pytest.fixture
def broken():
    raise OSError

@pytest.mark.faults("Ctrl-C")
def test_never_begins(broken):
    pass

@pytest.mark.faults("Ctrl-C")
def test_fails_with_all_its_cases(tried):
    tried(5)
    assert False

@pytest.mark.faults("locks")
@pytest.mark.skipif(True, reason="asked to")
def test_skipped():
    pass

def test_of_no_fault():
    pass
"""
WANTED = """
kind       tried  held  failed
Ctrl-C         6     0       6
full disk     45    44       1
faults: 44 of 51 held, 1 skipped
"""


def run(folder: Path, text: str, *options: str) -> str:
    (folder / "test_some.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = faults(kind): of `make faults`\naddopts = --strict-markers")
    command = [sys.executable, "-m", "pytest", "-p", "tests.faults.counting", "-p", "no:cacheprovider"]
    command += ["-c", str(folder / "pytest.ini"), *options, str(folder)]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_cases_are_counted_by_kind_also_over_workers(tmp_path, workers):
    assert WANTED in run(tmp_path, TESTS, "--numprocesses", workers)


def test_without_a_test_of_a_fault_there_is_no_table(tmp_path):
    printed = run(tmp_path, "def test_of_no_fault():\n    pass\n")
    assert "1 passed" in printed and "held" not in printed


def test_a_marker_without_its_kind_is_refused(tmp_path):
    printed = run(tmp_path, "import pytest\n\n@pytest.mark.faults\ndef test_one():\n    pass\n")
    assert 'expected faults("KIND"), got faults()' in printed and "1 passed" not in printed
