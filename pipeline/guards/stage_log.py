"""What each stage took: a line a run of a stage in <run_dir>/stages.jsonl, for the report. No TensorFlow.

A stage that skips what is done adds nothing; of one that was killed nothing is known.
"""

import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import Stopped
from pipeline.guards.masked import for_screen, is_secret

NAME = "stages.jsonl"
PACKAGES = (
    "guie",
    "tensorflow",
    "tensorflow-tpu",
    "keras",
    "keras-hub",
    "numpy",
    "faiss-cpu",
    "opencv-python-headless",
)
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Work:
    """What a stage tells of itself while it runs."""

    images: int = 0  # 0: not counted
    device: str = ""
    skip: bool = False  # nothing had to be done


@contextmanager
def logged(folder: Path | None, stage: str, of_children: bool = False) -> Iterator[Work]:
    """Appends a line to `folder`/stages.jsonl when the block ends well, or was asked to stop.

    Args:
        folder: None: nothing is written, as on all hosts but one.
        of_children: the peak of memory is that of the largest process, child processes included.
    """
    work, began = Work(), time.monotonic()
    _reset_peak()
    try:
        yield work
    except Stopped:
        work.images = 0  # some of them
        if folder:
            _append(folder, stage, work, time.monotonic() - began, of_children)
        raise
    if folder and not work.skip:
        _append(folder, stage, work, time.monotonic() - began, of_children)


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines, oldest first, without damaged ones; none where there is no log."""
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if _is_row(row)]


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and {"stage", "seconds"} <= row.keys()
        and all(isinstance(row.get(name, 0), int | float) for name in ("seconds", "images", "peak_mb"))
        and all(isinstance(row.get(name, ""), str) for name in ("stage", "date", "machine", "device", "command"))
        and isinstance(row.get("versions", {}), dict)
    )


def _append(folder: Path, stage: str, work: Work, seconds: float, of_children: bool) -> None:
    path = folder / NAME
    row = {
        "stage": stage,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds, 2),
        "peak_mb": round(_peak_mb(of_children)),
        "images": work.images,
        "machine": machine(),
        "device": work.device,
        "versions": versions(),
        "command": command(sys.argv),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:  # one write: whole, but for a machine that stops within it
        file.write(b"\n" * _is_cut(path) + json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _is_cut(path: Path) -> bool:
    """Whether the last line has no end."""
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def command(words: Sequence[str]) -> str:
    """A command line as a file may hold it.

    >>> command(["/usr/bin/guie", "run", "a b.yaml", "submit.token=hunter2", "data_root=http://me:pw@host/x"])
    "guie run 'a b.yaml' submit.token=*** data_root=http://me:***@host/x"
    """
    name = Path(words[0]).name if words else ""
    shown = ["guie" if name in ("cli.py", "__main__.py") else name]
    for word in words[1:]:
        key, equals, _ = word.partition("=")
        word = f"{key}=***" if equals and is_secret(key.rpartition(".")[2]) else for_screen(word)
        shown.append(f"'{word}'" if re.search(r"[\s'\"]", word) else word)
    return " ".join(shown)


def machine() -> str:
    """Processor, cores, memory; no name of the machine."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        return model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, {platform.system()}"


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _reset_peak() -> None:
    """Lets the peak of memory count from now on, where the system can: Linux."""
    try:
        _RESET.write_text("5")
    except OSError:
        return


def _peak_mb(of_children: bool) -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _STATUS.open(encoding="ascii") as file:
            kib = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, ValueError, StopIteration):
        pass
    if of_children:
        kib = max(kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return kib * 1024 / 1e6
