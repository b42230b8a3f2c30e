"""Freed memory stays with the process: large blocks are not fetched from the kernel again and again."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import allocator, quiet

SCRIPT = """
import resource
import sys

from pipeline.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
fill = lambda: b"x" * (64 << 20)  # written to: every page is there
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt's settings are glibc's")
def test_a_large_block_that_was_freed_is_taken_again_without_page_faults():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", SCRIPT, how]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
        return int(done.stdout)

    assert 10 * faults("kept") < faults("as it comes")


def test_without_glibc_it_does_nothing(monkeypatch):
    opened = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: opened.append(name) or (_ for _ in ()).throw(OSError))
    allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    allocator.keep_freed_memory()
    assert len(opened) <= 1


@pytest.mark.parametrize(("module", "kept"), [("tfrecords.labels", False), ("pipeline.errors", True)])
def test_commands_keep_freed_memory_and_those_of_tfrecords_do_not(monkeypatch, module, kept):
    called = []
    monkeypatch.setattr(quiet, "keep_freed_memory", lambda: called.append(module))
    quiet.import_quietly(module)
    assert called == ([module] if kept else [])
