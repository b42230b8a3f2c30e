"""Embeds images into a store of vectors, in bounded memory; done chunks are skipped.

A chunk is batched by itself: its vectors are the same whichever chunks were done before, and whoever makes it.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.console import Progress
from pipeline.data import parts as data_parts
from pipeline.data import sources
from pipeline.data.parts import Content, Named, Part, image_digest
from pipeline.evaluation.embed import Ready, batches, halves_of, in_turn, read_ahead, stacked
from pipeline.evaluation.embedders import Submission
from pipeline.guards.locks import locked
from pipeline.vectors.chunk_files import Row
from pipeline.vectors.store import REJECTS, Store
from pipeline.vectors.writer import Reject, Writer

IMAGES = 2048  # of a chunk: a kill loses no more
QUICK, CONTENT = "quick", "content"  # of a mark's `made_of`
THREADS, AHEAD = 4, 64  # that compare images


def embed_into(
    folder: Path,
    submission: Submission,
    items: Iterable[Named],
    *,
    chunk: int = IMAGES,
    batch_size: int = 64,
    dtype: str = "float32",
    what: str = "embed",
    total: int | None = None,
    redo: bool = False,
) -> Store:
    """Embeds images into the store in `folder`; goes on where it was killed, and embeds nothing twice.

    A chunk whose images have changed is made anew.

    Args:
        items: (source, image), in the order of the vectors; read once, one chunk of them in memory.
        chunk: images of a chunk. batch_size: images embedded together.
        dtype: float32, float16 or int8, as the vectors are stored.
        what: the work, beside its progress. total: images; without it and of an iterator no progress is shown.
        redo: a store of another embedder, dtype or chunk in `folder` is removed and made anew.

    Returns the store; images that cannot be read are in its rejects.csv alone, and a line says how many.

    Raises BadInput: such a store without `redo`; another process is at work in the folder.
    """
    with locked(folder):
        writer = begin(folder, submission, dtype, chunk, redo)
        writer.remove_partial()
        if total is None and isinstance(items, Sized):
            total = len(items)
        seen, progress = 0, Progress(what, total, "images") if total else None

        def counted() -> Iterator[Part]:
            nonlocal seen
            for part in data_parts.windows(items, chunk):
                seen += 1
                yield part

        def skipped(part: Part) -> None:
            if progress:
                progress.add(part.count(), timed=False)

        todo = pending(writer, enumerate(counted()), what, skipped)
        embed_chunks(writer, submission, todo, batch_size, progress)
        writer.keep(seen)
        store = writer.finish()
    if store.rejects:
        print(f"{what}: {store.rejects:,} images cannot be read: {folder / REJECTS} says why", flush=True)
    return store


def begin(folder: Path, submission: Submission, dtype: str, chunk: int, redo: bool = False) -> Writer:
    """The store in `folder`; raises BadInput as `Writer`."""
    keys = {"images a chunk": chunk}
    return Writer(folder, submission.fingerprint, submission.embedding_dim, dtype, keys=keys, redo=redo)


def pending(
    writer: Writer, parts: Iterable[tuple[int, Part]], what: str = "", skipped: Callable[[Part], None] | None = None
) -> Iterator[tuple[int, Part]]:
    """The parts whose chunk is not done, or is of other images; `skipped` hears of the others.

    Where files have other times the images are read and compared; `what` begins the line that says so.
    """
    said = not what
    for number, part in parts:
        mark, now = writer.mark(number), part.quick()  # before anything is read
        is_done = mark is not None and mark["made_of"].get(QUICK) == now
        if mark is not None and not is_done:
            if not said:
                print(f"{what}: files of chunk {number} have other times: comparing their images", flush=True)
                said = True
            is_done = mark["made_of"].get(CONTENT) == content_of(part)
            if is_done:
                writer.renew(number, mark, {QUICK: now, CONTENT: mark["made_of"][CONTENT]})
        if not is_done:
            yield number, part
        elif skipped:
            skipped(part)


def content_of(part: Part) -> str:
    """The digest that `made_of` holds of a part's images, read again."""

    def read(named: Named) -> tuple[Named, str]:
        return named, image_digest(sources.read_encoded(named[1])[0])

    content = Content()
    for named, held in sources.in_threads(read, part.images(), THREADS, AHEAD):
        content.add(named, held)
    return content.digest()


@dataclass(eq=False)
class _Chunk:
    """A chunk that is being made."""

    number: int
    quick: str
    rows: list[Row] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    content: Content = field(default_factory=Content)
    found: list[tuple[list[int], np.ndarray]] = field(default_factory=list)  # rows, their vectors

    def vectors(self, dim: int) -> np.ndarray:
        """float32 [n, dim]."""
        vectors = np.empty((len(self.rows), dim), np.float32)
        for rows, values in self.found:
            vectors[rows] = values
        return vectors


class _Read(NamedTuple):
    """An image that was read; without one, the end of its chunk."""

    chunk: _Chunk
    image: Named | None = None
    ready: Ready | None = None
    digest: str = ""
    reason: str = ""  # why it is not ready


def embed_chunks(
    writer: Writer,
    submission: Submission,
    todo: Iterable[tuple[int, Part]],
    batch_size: int,
    progress: Progress | None = None,
) -> None:
    """Embeds parts and writes each as the chunk of its number; reads the next one's images meanwhile.

    Raises BadInput as `Part.images` and `Writer.put`.
    """
    halves = halves_of(submission)

    def tasks() -> Iterator[tuple[_Chunk, Named | None]]:
        for number, part in todo:
            chunk = _Chunk(number, part.quick())  # before anything is read
            for named in part.images():
                yield chunk, named
            yield chunk, None

    def read(task: tuple[_Chunk, Named | None]) -> _Read:
        chunk, named = task
        if named is None:
            return _Read(chunk)
        data, image, reason = sources.read_one(named[1])
        ready = None if image is None else Ready(halves.resize(image), {})
        return _Read(chunk, named, ready, image_digest(data), reason)

    def embed(chunk: _Chunk, rows: list[int], images: list[Ready]) -> None:
        chunk.found.append((rows, halves.embed(stacked([image.pixels for image in images]))))

    def finish(chunk: _Chunk) -> None:
        made_of = {QUICK: chunk.quick, CONTENT: chunk.content.digest()}
        writer.put(chunk.number, chunk.vectors(writer.dim), chunk.rows, chunk.rejects, made_of)

    found = sources.in_threads(read, tasks(), *read_ahead(halves))
    with in_turn() as submit:
        for chunk, images in groupby(found, key=lambda each: each.chunk):
            for rows, ready in batches(_kept(images, progress), batch_size):
                submit(embed, chunk, rows, ready)
            submit(finish, chunk)


def _kept(images: Iterable[_Read], progress: Progress | None) -> Iterator[tuple[int, Ready]]:
    """(row of the chunk, image) of those that could be read; the chunk gets the names of all."""
    for chunk, named, ready, digest, reason in images:
        if named is None:
            continue
        if progress:
            progress.add(1)
        chunk.content.add(named, digest)
        source, item = named
        if ready is None:
            chunk.rejects.append((source, item.key, reason))
        else:
            chunk.rows.append(Row(item.key, source, item.class_name, item.also))
            yield len(chunk.rows) - 1, ready
