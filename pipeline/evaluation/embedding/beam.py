"""The same chunks made by more than one machine, as an Apache Beam pipeline (extra `beam`).

    guie embed EMBEDDER DATA --out DIR --runner beam --beam-options "--runner=FlinkRunner --flink_master=HOST:PORT"

Beam distributes the parts to its workers; each loads the embedder once and writes whole chunks with the same code, so a
pipeline that broke off is run again and skips what is done. All machines must see EMBEDDER, DATA and DIR under the same
paths (a shared file system) and have guie installed. Without options Beam runs in this process (DirectRunner).

A worker imports this module: TensorFlow is imported where it embeds, as a command imports it.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import files
from pipeline.config.schema import LARGEST_DIM
from pipeline.data.parts import Part
from pipeline.errors import BadInput
from pipeline.guards import machine
from pipeline.quiet import import_quietly
from pipeline.vectors.store import MARKS
from tfrecords.beam import distribute

if TYPE_CHECKING:
    from pipeline.evaluation.embedders import Submission

Task = tuple[int, Part]  # number of the chunk, what it is made of


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    folder: Path  # of the store, begun already
    embedder: str
    trust: bool
    any_width: bool
    fingerprint: str
    dtype: str
    images: int  # of a chunk
    batch_size: int


def embed_chunks(work: Work, todo: Sequence[Task], options: Sequence[str]) -> None:
    """Makes a chunk of every part. Images that no worker can take do not stop the others.

    Raises BadInput: Beam is not installed, or refuses an option; a chunk that a worker refused or did not leave here.
    """
    for stale in _refusals(work):
        stale.unlink()
    distribute(partial(_embed_chunk, work), todo, options, "--runner beam", "--beam-options")
    if refused := _refusals(work):
        more = f" ({len(refused):,} chunks are refused)" if len(refused) > 1 else ""
        raise BadInput(refused[0].read_text(encoding="utf-8") + more)


def _refusals(work: Work) -> list[Path]:
    """What workers have written of chunks that they cannot make, a line each."""
    return sorted((work.folder / MARKS).glob("*.refused"))


def _embed_chunk(work: Work, task: Task) -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    chunks = import_quietly("pipeline.evaluation.embedding.chunks")
    try:
        submission = _loaded(work)
        writer = chunks.begin(work.folder, submission, work.dtype, work.images)
        for number, part in chunks.pending(writer, [task]):  # another worker may have been faster
            chunks.embed_chunks(writer, submission, [(number, part)], work.batch_size)
    except Exception as error:
        line = str(error) if isinstance(error, BadInput) else machine.line(error)
        if line is None:
            raise
        try:  # Beam would try it again, and say it among tracebacks
            files.write_text(work.folder / MARKS / f"{task[0]:05d}.refused", line)
        except OSError:  # on a full disk there is no room for it
            raise error from None
    return task[0]


_submissions: dict[tuple[str, str], Any] = {}  # of this process
_loading = threading.Lock()  # a worker's threads begin together


def _loaded(work: Work) -> "Submission":
    with _loading:
        known = work.embedder, work.fingerprint
        if known not in _submissions:
            widest = None if work.any_width else LARGEST_DIM
            found = import_quietly("pipeline.evaluation.embedders").load(work.embedder, work.trust, widest)
            if found.fingerprint != work.fingerprint:
                raise BadInput(f"{work.embedder} is another embedder on a worker: all must see the same files")
            _submissions[known] = found
        return _submissions[known]
