"""Work in several processes: a bounded number of tasks at once, no fork, no orphans."""

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import cv2

from pipeline.errors import BadInput

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int = 0
) -> Iterator[tuple[Task, Result]]:
    """`(task, work(task))` in the order in which they finish.

    At most two tasks a worker are submitted at once, so memory does not grow with their number. `work` must be
    picklable; `workers` 0 is one a core that this process may use. Raises BadInput: something killed a worker.
    """
    todo = iter(tasks)
    workers = workers if workers > 0 else cores()
    # No fork: the parent may hold TensorFlow, whose threads a fork does not copy.
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
    if os.name != "nt":
        context.set_forkserver_preload(["tfrecords.chunks"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    waiting: dict[Future[Result], Task] = {}
    try:
        while True:
            for task in islice(todo, 2 * workers - len(waiting)):
                waiting[pool.submit(work, task)] = task
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise BadInput(
            "a worker process was killed (out of memory?): the same command goes on from here; fewer workers need less"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use; in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Limits a worker to one thread, and ends it when its parent is killed: it would wait for work for ever."""
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # decoders warn about images that are then stored, or rejected by name
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
