"""Seconds and peak memory of a command's steps, also where they overlap."""

import resource
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import console

SAMPLE_SECONDS = 0.01
STATM = Path("/proc/self/statm")  # Linux


class Meter:
    """`with meter: … with meter.step("loading", items=64): …`.

    A step's seconds are those in which at least one thread was in it. Its peak is the largest memory of the whole
    process while it ran (sampled every 10 ms), so steps that overlap share what either of them holds.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.items: Counter[str] = Counter()
        self.peak_bytes: dict[str, int] = {}
        self._active: dict[str, tuple[int, float]] = {}  # step → (threads in it, since when)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Meter":
        self.start_bytes = resident_bytes()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()

    @contextmanager
    def step(self, name: str, items: int = 0) -> Iterator[None]:
        with self._lock:
            threads, since = self._active.get(name, (0, time.monotonic()))
            self._active[name] = (threads + 1, since)
        self._record(name)
        try:
            yield
        finally:
            self._record(name)
            with self._lock:
                threads, since = self._active[name]
                if threads > 1:
                    self._active[name] = (threads - 1, since)
                else:
                    del self._active[name]
                    self.seconds[name] += time.monotonic() - since
                self.items[name] += items

    def rows(self) -> list[dict[str, Any]]:
        """One row a step, in the order in which they first ended."""
        return [
            {
                "step": name,
                "items": self.items[name],
                "seconds": round(seconds, 3),
                "items/s": round(self.items[name] / seconds, 1) if seconds else None,
                "peak MB": round(self.peak_bytes[name] / 1e6, 1),
                "above start MB": round((self.peak_bytes[name] - self.start_bytes) / 1e6, 1),
            }
            for name, seconds in self.seconds.items()
        ]

    def table(self) -> str:
        shown = [
            [
                row["step"], f"{row['items']:,}", f"{row['seconds']:.2f}",
                "" if row["items/s"] is None else f"{row['items/s']:,.1f}",
                f"{row['peak MB']:,.0f}", f"{row['above start MB']:,.0f}",
            ]
            for row in self.rows()
        ]  # fmt: skip
        return console.table(["step", "items", "seconds", "items/s", "peak MB", "above start"], shown)

    def _record(self, name: str) -> None:
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), resident_bytes())

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            now = resident_bytes()
            with self._lock:
                for name in self._active:
                    self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), now)


def resident_bytes() -> int:
    """Memory of this process now; where the system does not say, its largest so far."""
    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
