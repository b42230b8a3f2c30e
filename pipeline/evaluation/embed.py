"""Images through an embedder in batches: threads decode and resize ahead, another one runs the models.

`embed_sets` is what scores are computed of, all in memory; `embedding` writes chunks by the same batches.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.console import Progress
from pipeline.data import sources
from pipeline.data.batches import batches_of_one_shape
from pipeline.data.sources import ImageSet
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.halves import Halves, Pixels
from pipeline.retrieval.vectors import unit_length

RAW_PIXELS_SIDE_PX = 32
MAX_BATCH_VALUES = 64_000_000  # numbers of one batch: large images go in small batches
READ_AHEAD = 256  # images at most


@dataclass
class Embedded:
    """The images of one or several sets with their vectors. Images that cannot be read are in `rejects` alone."""

    names: list[str]  # of the domains
    vectors: dict[str, np.ndarray]  # row name → float32 [N, D]; the rows are "embedder" and the references
    domains: np.ndarray  # int64 [N], position in `names`
    labels: np.ndarray  # int64 [N], over all domains; domains of one label space may share a class
    keys: list[str]  # N keys
    rejects: list[tuple[str, str, str]]  # (domain, key, reason)


class Ready(NamedTuple):
    """An image as the models take it."""

    pixels: Pixels  # for the embedder: input name → its pixels
    others: Pixels  # reference → what it is computed from: for "raw_pixels" the row itself, for "features" [S, S, 3]


def embed_sets(
    submission: Submission,
    sets: list[ImageSet],
    batch_size: int,
    what: str,
    labels: dict[tuple[str, str], int],
    references=None,
) -> Embedded:
    """Reads and embeds every image: in full batches where the embedder has halves, else images of one size together.

    Threads decode and resize, a bounded number of images ahead, while another one runs the models.

    Args:
        what: the work, beside its progress.
        labels: `ImageSet.class_of` → label; grows. Index and queries share one.
        references: None, or further rows to compute from the same images, see references.py.
    """
    items = [(domain, item) for domain, each in enumerate(sets) for item in each.items]
    vectors = np.zeros((len(items), submission.embedding_dim), np.float32)
    others: dict[str, dict[int, np.ndarray]] = {}  # reference → row → vector
    rejected: dict[int, str] = {}
    halves = halves_of(submission)

    def ready(image: np.ndarray) -> Ready:
        of_references = {"raw_pixels": raw_pixels(image)}
        if references is not None and references.needs_features:
            of_references["features"] = references.resize(image)
        return Ready(halves.resize(image), of_references)

    def run(rows: list[int], images: list[Ready]) -> None:
        vectors[rows] = halves.embed(stacked([image.pixels for image in images]))
        for name, values in stacked([image.others for image in images]).items():
            found = references.encode(values) if name == "features" else values
            others.setdefault(name, {}).update(zip(rows, found, strict=True))

    read = sources.read_each([item for _, item in items], ready, *read_ahead(halves))
    with in_turn() as submit:
        for rows, images in batches(_counted(read, Progress(what, len(items), "images"), rejected), batch_size):
            submit(run, rows, images)
    kept = [row for row in range(len(items)) if row not in rejected]
    of_references = {name: np.stack([found[row] for row in kept]) for name, found in others.items()}
    if references:
        of_references = references.finish(of_references)
    chosen = [items[row] for row in kept]
    found = [labels.setdefault(sets[domain].class_of(item.class_name), len(labels)) for domain, item in chosen]
    return Embedded(
        names=[each.name for each in sets],
        vectors={"embedder": vectors[kept], **of_references},
        domains=np.array([domain for domain, _ in chosen], np.int64),
        labels=np.array(found, np.int64),
        keys=[item.key for _, item in chosen],
        rejects=[(sets[items[row][0]].name, items[row][1].key, reason) for row, reason in rejected.items()],
    )


def halves_of(submission: Submission) -> Halves:
    """Its halves; of an embedder without them the whole, for images as they are."""
    return submission.halves or Halves(
        lambda image: {"images": image}, lambda pixels: submission.embed(pixels["images"]), 0
    )


def read_ahead(halves: Halves) -> tuple[int, int]:
    """(threads that decode and resize, images that they are ahead), as memory allows."""
    threads = max(4, os.cpu_count() or 1)
    return threads, max(2 * threads, min(READ_AHEAD, 2 * MAX_BATCH_VALUES // max(halves.values, 1)))


@contextmanager
def in_turn() -> Iterator[Callable[..., None]]:
    """Gives a function that has another thread make calls, one after another: one runs, one waits, a third blocks.

    What a call raises is raised by a later one, or at the end; no call is made after one that has failed.
    """
    failed = threading.Event()

    def call(work: Callable[..., Any], *arguments: Any) -> None:
        if not failed.is_set():
            try:
                work(*arguments)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(1) as thread:
        running: deque[Future[None]] = deque()

        def submit(work: Callable[..., Any], *arguments: Any) -> None:
            running.append(thread.submit(call, work, *arguments))
            if len(running) > 1:
                running.popleft().result()

        try:
            yield submit
            for last in running:
                last.result()
        except BaseException:
            thread.shutdown(wait=False, cancel_futures=True)
            raise


def stacked(images: list[Pixels]) -> Pixels:
    return {name: np.stack([image[name] for image in images]) for name in images[0]}


def _counted(
    read: Iterator[tuple[int, Ready | None, str]], progress: Progress, rejected: dict[int, str]
) -> Iterator[tuple[int, Ready]]:
    """(row, image) of those that could be read; of the others row → reason goes into `rejected`."""
    for row, image, reason in read:
        progress.add(1)
        if image is None:
            rejected[row] = reason
        else:
            yield row, image


def batches(images: Iterator[tuple[int, Ready]], batch_size: int) -> Iterator[tuple[list[int], list[Ready]]]:
    """Batches (rows, images) of equal shapes, each as large as `batch_size` and MAX_BATCH_VALUES allow."""

    def shapes(image: Ready) -> tuple:
        return tuple(pixels.shape for pixels in (*image.pixels.values(), *image.others.values()))

    def size(image: Ready) -> int:
        values = sum(pixels.size for pixels in image.pixels.values())
        return max(1, min(batch_size, MAX_BATCH_VALUES // values))

    return batches_of_one_shape(images, shapes, size, 4 * batch_size)


def raw_pixels(image: np.ndarray) -> np.ndarray:
    """The reference that has learned nothing: uint8 [H, W, 3] → float32 [3072], 32 × 32 pixels, mean 0, unit length."""
    small = Image.fromarray(image).resize((RAW_PIXELS_SIDE_PX, RAW_PIXELS_SIDE_PX), Image.Resampling.BOX)
    flat = np.asarray(small, dtype=np.float32).ravel()
    return unit_length(flat - flat.mean())
