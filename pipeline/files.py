"""The run folder: atomic writes, the config as run, metrics, and what is done already."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` (a file or a folder), renamed to `path` when the block ends well.

    A block that raises leaves nothing; a kill leaves at most a `.partial-*` name, which the next writer removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".partial-{path.name}-*"):
        _remove(stale)
    temporary = path.parent / f".partial-{path.name}-{os.getpid()}"
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)  # a folder cannot be renamed over one that holds files
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises BadInput where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"expected {path}, which does not exist: has the stage before it been run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is not whole JSON ({error}): remove it and rerun the stage that writes it"
        ) from None


def fingerprint(value: Any) -> str:
    """16 hex digits of a JSON-able value; equal values, equal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Raises BadInput where the file is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadInput(f"expected {path}, which does not exist: has the stage before it been run?") from None


class Progress:
    """One line on stderr every few seconds: done of total, rate, ETA."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every_seconds: float = 5.0):
        self.what, self.total, self.unit, self.every_seconds = what, total, unit, every_seconds
        self.first = self.done = done
        self.started = self.printed = time.monotonic()

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def add(self, count: int, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if now - self.printed >= self.every_seconds:
            self.printed = now
            eta = (self.total - self.done) / max(self.rate, 1e-9)
            print(
                f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {self.rate:,.0f}/s, "
                f"ETA {int(eta // 60)}:{int(eta % 60):02d}{'  ' + note if note else ''}",
                flush=True,
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
