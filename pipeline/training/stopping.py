"""Ends training before it is done, at a checkpoint: on SIGTERM, and before `train.hours` are over."""

import signal
import threading
import time
from types import FrameType
from typing import Any


class Stopping:
    """A context in which SIGTERM is noted and hours are counted from when it was made."""

    def __init__(self, hours: float | None):
        self.hours, self.began, self.terminated = hours, time.monotonic(), False
        self._before: Any = None
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Stopping":
        if self._in_main_thread:  # no other may set what a signal does
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def due(self, seconds: float) -> str:
        """Why training shall stop now, where its next piece takes `seconds`; "" where it goes on."""
        if self.terminated:
            return "SIGTERM"
        spent = time.monotonic() - self.began
        if self.hours is not None and spent + seconds > 3600 * self.hours:
            return f"train.hours={self.hours:g}: {spent / 3600:.2f} are over"
        return ""

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.terminated = True
