"""A disk that is far away: every read of it waits, and may fail or give less than asked."""

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from pipeline.data.read_ahead import RecordsAhead
from pipeline.data.records import RecordSet


class Faults:
    """What happens to reads, by file name; counts them, and how many are under way at once."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds  # that each read waits
        self.failing: dict[str, int] = {}  # file's name → how many of its reads still fail
        self.short: dict[str, int] = {}  # … give half of what was asked
        self.reads = self.bytes = self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def read(self, name: str, length: int, read: Callable[[int], bytes]) -> bytes:
        with self._lock:
            self.reads += 1
            self.bytes += length
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            fails, short = self._due(self.failing, name), self._due(self.short, name)
        try:
            time.sleep(self.seconds)
            if fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(length // 2 if short else length)
        finally:
            with self._lock:
                self.at_once -= 1

    def _due(self, faults: dict[str, int], name: str) -> bool:
        faults[name] = faults.get(name, 0) - 1
        return faults[name] >= 0


def mount(monkeypatch: Any, faults: Faults) -> None:
    """Every `os.pread` of this process is as of a mounted far disk."""
    pread = os.pread

    def far(file: int, length: int, offset: int) -> bytes:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{file}"))
        return faults.read(name, length, lambda most: pread(file, most, offset))

    monkeypatch.setattr(os, "pread", far)


class FarFileSystem(LocalFileSystem):
    """Local files as `far://PATH`, read with the faults of `FarFileSystem.faults`."""

    protocol = "far"
    faults = Faults()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        path = self._strip_protocol(path)
        begin, end = start or 0, os.path.getsize(path) if end is None else end

        def read(most: int) -> bytes:
            with open(path, "rb") as file:
                file.seek(begin)
                return file.read(most)

        return self.faults.read(os.path.basename(path), end - begin, read)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("far://")

    def unstrip_protocol(self, name: str) -> str:
        return f"far://{self._strip_protocol(name)}"


fsspec.register_implementation("far", FarFileSystem, clobber=True)


def read(records: RecordSet, items: np.ndarray) -> list[bytes]:
    """The encoded images of `items`, as one batch of training reads them."""
    return RecordsAhead(records, lambda number: items[number * len(items) :][: len(items)], len(items)).images(0)
