"""Work in several processes: a task a worker at a time, no orphans, nothing that an interrupt could hang.

One process imports what the work needs and forks the workers, which share that memory; each is at the other end of a
socket. No locks, queues or threads stand between: a worker that dies is an end of file, and workers end with their
parent. They never see Ctrl-C or SIGTERM: the parent does, and ends them.
"""

import importlib
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from pipeline.errors import BadInput
from pipeline.guards import interrupts

Task = TypeVar("Task")
Result = TypeVar("Result")

_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tfrecords.processes import serve; serve()"
SECONDS_TO_END = 5.0


def in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int = 0
) -> Generator[tuple[Task, Result], None, None]:
    """`(task, work(task))` in the order in which they finish.

    A worker has one task at a time, so memory does not grow with their number. `work` must be picklable; `workers` 0 is
    one a core that this process may use; without `os.fork` (Windows) this process does it all. Raises what `work`
    raised; BadInput: something killed a worker. All workers have ended when it returns or raises.
    """
    todo = iter(tasks)
    if not hasattr(os, "fork"):
        yield from ((task, work(task)) for task in todo)
        return
    pairs = [socket.socketpair() for _ in range(workers if workers > 0 else cores())]
    idle = [Connection(ours.detach()) for ours, _ in pairs]
    everyone, busy = list(idle), dict[Any, Task]()
    end: Any = object()
    failure: BaseException | None = None
    try:
        forking = _start([theirs for _, theirs in pairs], work)
        try:
            for connection in everyone:
                connection.send(work)
            while True:
                while idle and (task := next(todo, end)) is not end:
                    busy[idle[-1]] = task
                    idle.pop().send(task)
                if not busy:
                    return
                ready: list[Any] = wait(list(busy))
                for connection in ready:
                    good, found = connection.recv()
                    if not good:
                        failure = found
                        raise found
                    task = busy.pop(connection)
                    idle.append(connection)
                    yield task, found
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            if error is failure:
                raise  # the work's own
            raise BadInput(
                "a worker process was killed (out of memory?): the same command goes on from here; fewer workers "
                "(records.workers, --workers) need less"
            ) from None
        finally:
            _close(everyone)
            _end(forking)
    finally:
        _close(everyone)


def cores() -> int:
    """Cores that this process may use; in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(sockets: list[socket.socket], work: Callable) -> subprocess.Popen:
    """Starts the process that forks a worker for each socket, and closes the sockets here.

    Not a fork of this process: it may hold TensorFlow, whose threads a fork does not copy.
    """
    module = getattr(work, "func", work).__module__
    numbers = [each.fileno() for each in sockets]
    words = [json.dumps(sys.path), module, *map(str, numbers)]
    limits = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        with interrupts.blocked():
            return subprocess.Popen(
                [sys.executable, "-c", _SERVE, *words],
                pass_fds=numbers, stdin=subprocess.DEVNULL, env={**os.environ, **limits},
            )  # fmt: skip
    finally:
        for each in sockets:
            each.close()


def serve() -> None:
    """Imports, forks and waits: `sys.argv` is the path of imports, the work's module, the workers' sockets."""
    module, numbers = sys.argv[2], [int(word) for word in sys.argv[3:]]
    try:
        with suppress(ModuleNotFoundError):  # of a module that only this process cannot find: unpickling says so
            importlib.import_module(module)
        for number in numbers:
            if os.fork() == 0:
                for other in numbers:
                    if other != number:
                        os.close(other)
                _work(number)
    except BaseException as error:
        for number in numbers:
            with suppress(OSError):
                Connection(number).send((False, _sendable(error)))
        os._exit(1)
    for number in numbers:
        os.close(number)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _work(number: int) -> None:
    """A worker's life; it ends with its parent, also within a task."""
    code = 1
    try:
        connection = Connection(number)
        threading.Thread(target=_end_with_parent, args=(number,), daemon=True).start()
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(1)
        warnings.simplefilter("ignore")  # decoders warn about images that are then stored, or rejected by name
        work = None
        while True:
            asked = connection.recv_bytes()
            try:
                if work is None:
                    work = pickle.loads(asked)
                    continue
                answer = (True, work(pickle.loads(asked)))
            except BaseException as error:
                answer = (False, _sendable(error))
            connection.send(answer)
    except (EOFError, OSError):
        code = 0  # the parent is gone
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end_with_parent(number: int) -> None:
    poll = select.poll()
    poll.register(number, 0)  # hang-ups and errors alone
    poll.poll()
    os._exit(0)


def _sendable(error: BaseException) -> BaseException:
    """The error with its traceback as a note, or as text where it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"\nin a worker process:\n{text}")
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(text)


def _close(connections: list[Connection]) -> None:
    for each in connections:
        if not each.closed:
            each.close()


def _end(forking: subprocess.Popen) -> None:
    """Waits for the workers, which end when their sockets are closed."""
    try:
        forking.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        forking.kill()
        forking.wait()
