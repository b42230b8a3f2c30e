"""One run at a time in a run folder: a second one is refused, and told who is there."""

import functools
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import BadInput
from pipeline.guards import machine

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_held: set[Path] = set()  # by this process: `guie run` calls commands that ask for the same folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock while the block runs, and makes the folder; a caller within this process passes.

    The kernel holds the lock for the process, so a kill leaves none, whatever the file says. NFS passes it on to its
    server, from Linux 2.6.12 on, where the mount does not say `nolock`. A disk that cannot be written needs no lock.

    Raises BadInput: another process holds it; names its id, host and start.
    """
    whole = folder.absolute().resolve()
    there = whole.is_dir()
    if fcntl is None or whole in _held or (there and not _can_be_written(whole)):
        yield
        return
    file = _opened(whole / NAME)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(error, BlockingIOError):  # ENOSYS of Lustre without `flock`, ENOLCK
            print(f"warning: {folder} cannot be locked ({error.strerror}): see that no other run is in it", flush=True)
            with file:
                yield
            return
        with file:
            raise BadInput(
                f"{folder} is in use by {_said(file)}: wait for it, end it, or choose another run_dir (--out)"
            ) from None
    with file:
        if not _is_that_of(file, whole / NAME):  # its last holder has removed it meanwhile: another may lock a new one
            raise BadInput(f"{folder} was in use until now: run the command again")
        _held.add(whole)
        try:
            _write_holder(file, whole)
            yield
        finally:
            _held.discard(whole)
            (whole / NAME).unlink(missing_ok=True)
            if not there:
                with suppress(OSError):
                    whole.rmdir()  # the command was refused before it wrote anything


def one_at_a_time(main: Callable[..., Any]) -> Callable[..., Any]:
    """A command's `main(run, …)` that holds the lock of `run.run_dir`.

    Of several hosts that train together in one folder the first does; a rehearsal writes nothing.
    """

    @functools.wraps(main)
    def alone(run: Any, *arguments: Any, **options: Any) -> Any:
        if run.devices.rehearse or (run.devices.hosts and run.devices.host_index):
            return main(run, *arguments, **options)
        with locked(Path(run.run_dir)):
            return main(run, *arguments, **options)

    return alone


def _write_holder(file: TextIO, folder: Path) -> None:
    began = datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": began}
    try:
        file.truncate(0)
        os.write(file.fileno(), json.dumps(holder).encode())  # what a buffer keeps, closing would try to write again
    except OSError as error:
        machine.note(error, folder)
        raise


def _opened(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="utf-8")


def _is_that_of(file: TextIO, path: Path) -> bool:
    """Whether an open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _said(file: TextIO) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        file.seek(0)
        holder = json.load(file)
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    return "another process"


def _can_be_written(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and not (
        hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    )
