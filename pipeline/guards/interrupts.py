"""SIGINT and SIGTERM end a command in one line, within seconds, wherever it is: imports, C++, Python's own end.

Python's own way takes as long as the call that runs (a step of TensorFlow, a compilation), prints a traceback a thread,
and a second Ctrl-C breaks what the first one cleans up. Here a thread hears of the signal first, says the one line and
mutes the rest; the main thread unwinds as by KeyboardInterrupt, so temporary files go, and after GRACE_SECONDS the
process ends in any case. What was cut then is what a kill leaves: every file of a run is whole or absent.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 2.0  # for unwinding
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class _Ending:
    """Of this process; nothing is ended before `handled`."""

    begun = threading.Lock()  # held from the first signal on, and never given back
    said = threading.Event()  # the line is written, and what follows is muted
    number = 0  # of the first signal
    raised = False
    over = False  # the command is done, Python's own end goes on
    stderr = 2  # a copy: `import_quietly` points 2 elsewhere


@contextmanager
def handled() -> Iterator[None]:
    """The signals end this process while the block runs, and after it. To be entered once, in the main thread.

    A signal that the parent ignores (`nohup guie … &`) stays ignored.
    """
    # No file or thread can be opened any more: the command itself will say so. ValueError: not the main thread.
    with suppress(OSError, RuntimeError, ValueError):
        _listen()
    try:
        yield
    finally:
        if _Ending.number:
            _exit()
        _Ending.over = True


def _listen() -> None:
    _Ending.stderr = os.dup(2)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    atexit.register(_ignore)  # the first to be registered is the last to run
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def left_to_the_command() -> None:
    """Ctrl-C is KeyboardInterrupt from here on: for a command that serves until then."""
    if signal.getsignal(signal.SIGINT) is _on_signal:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def blocked() -> Iterator[None]:
    """A process that this thread starts in the block never sees the signals; another thread here still does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(reading: int) -> None:
    while number := os.read(reading, 1):
        if signal.getsignal(number[0]) is _on_signal:  # training takes SIGTERM itself, see `Stopping`
            _begin(number[0])
            time.sleep(GRACE_SECONDS)
            _exit()


def _on_signal(number: int, _frame: FrameType | None) -> None:
    first, _Ending.raised = not _Ending.raised, True  # a second signal may come while `_begin` says the line
    _begin(number)
    if first:
        _Ending.said.wait(GRACE_SECONDS)  # the thread may be at it still: unwinding would say another line
        raise KeyboardInterrupt


def _begin(number: int) -> None:
    """Says the line and mutes what unwinding says; the first signal alone does."""
    if not _Ending.begun.acquire(blocking=False):
        return
    command = " ".join(["guie", *(word for word in sys.argv[1:2] if not word.startswith("-"))])
    said = f"{command}: {_WORDS[signal.Signals(number)]}; the same command goes on from here\n"
    with suppress(OSError, ValueError):
        bar = "\n" if os.isatty(_Ending.stderr) else ""  # below a progress bar, or the ^C
        if select.select([], [_Ending.stderr], [], 1.0)[1]:  # nobody reads a pipe that is full
            os.write(_Ending.stderr, (bar + said).encode())
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        sys.stderr = os.fdopen(null, "w")
    _Ending.number = number
    _Ending.said.set()
    if _Ending.over:
        _exit()


def _exit() -> None:
    """Ends what this process started, flushes stdout for a second, and ends it: 130 for SIGINT, 143 for SIGTERM."""
    for child in _children():
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    with suppress(RuntimeError):  # no thread can be started any more
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        flushing.join(1.0)
    os._exit(128 + _Ending.number)


def _flush() -> None:
    with suppress(Exception):
        sys.stdout.flush()


def _children() -> list[int]:
    """Living processes whose parent this one is; none where there is no /proc: workers end with their parent."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.name))
    return found


def _ignore() -> None:
    """While Python takes itself down no handler runs any more, and the command is done."""
    if not _Ending.number:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
