"""COMMAND  embedder + images → vectors.

guie embed EMBEDDER DATA --out DIR
→ DIR/embeddings.npy [N, 64] float32, DIR/items.csv: key,source,class (row n is vector n), DIR/rejects.csv
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline import files
from pipeline.console import Progress
from pipeline.data import sources
from pipeline.data.sources import ImageSet
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.halves import Halves, Pixels
from pipeline.retrieval.vectors import unit_length

RAW_PIXELS_SIDE_PX = 32
MAX_BATCH_VALUES = 64_000_000  # numbers of one batch: large images go in small batches
READ_AHEAD = 256  # images at most


@dataclass(frozen=True)
class Options:
    embedder: str
    data: str
    out: str
    batch_size: int = 64
    trust: bool = False  # load an embedder that reaches files, the network or Python


@dataclass
class Embedded:
    """The images of one or several sets with their vectors. Images that cannot be read are in `rejects` alone."""

    names: list[str]  # of the domains
    vectors: dict[str, np.ndarray]  # row name → float32 [N, D]; the rows are "embedder" and the references
    domains: np.ndarray  # int64 [N], position in `names`
    labels: np.ndarray  # int64 [N], over all domains; domains of one label space may share a class
    keys: list[str]  # N keys
    rejects: list[tuple[str, str, str]]  # (domain, key, reason)


def main(options: Options) -> None:
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: expected a folder, it is a file")
    submission = embedders.load(options.embedder, options.trust)
    for warning in submission.warnings:
        print(f"embed: warning: {options.embedder} {warning}")
    labels: dict[tuple[str, str], int] = {}
    found = embed_sets(
        submission, sources.open_data(options.data), options.batch_size, "embed", labels, with_raw_pixels=False
    )
    class_names = [class_name for _, class_name in labels]  # labels count up from 0, in this order
    rows = [
        (key, found.names[domain], class_names[label])
        for key, domain, label in zip(found.keys, found.domains.tolist(), found.labels.tolist(), strict=True)
    ]
    vectors = found.vectors["embedder"]
    with files.atomic_path(out / "embeddings.npy") as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    files.write_csv(out / "items.csv", ("key", "source", "class"), rows)
    files.write_csv(out / "rejects.csv", ("source", "key", "reason"), found.rejects)
    print(f"embed: {len(rows):,} vectors of {vectors.shape[1]}, {len(found.rejects)} left out → {out}/embeddings.npy")


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
    with_raw_pixels: bool = True,
) -> Embedded:
    """Reads and embeds every image: in full batches where the embedder has halves, else images of one size together.

    Threads decode and resize, a bounded number of images ahead, while another one runs the models.

    Args:
        what: the work, beside its progress.
        labels: `ImageSet.class_of` → label; grows. Index and queries share one.
        references: None, or further rows to compute from the same images, see references.py.
        with_raw_pixels: compute that row.
    """
    items = [(domain, item) for domain, each in enumerate(sets) for item in each.items]
    vectors = np.zeros((len(items), submission.embedding_dim), np.float32)
    others: dict[str, dict[int, np.ndarray]] = {}  # reference → row → vector
    rejected: dict[int, str] = {}
    halves = submission.halves or Halves(_as_it_is, lambda pixels: submission.embed(pixels["images"]), 0)

    def ready(image: np.ndarray) -> Ready:
        of_references = {"raw_pixels": raw_pixels(image)} if with_raw_pixels else {}
        if references is not None and references.needs_features:
            of_references["features"] = references.resize(image)
        return Ready(halves.resize(image), of_references)

    def run(rows: list[int], images: list[Ready]) -> None:
        vectors[rows] = halves.embed(_stacked([image.pixels for image in images]))
        for name, values in _stacked([image.others for image in images]).items():
            found = references.encode(values) if name == "features" else values
            others.setdefault(name, {}).update(zip(rows, found, strict=True))

    threads = max(4, os.cpu_count() or 1)
    ahead = max(2 * threads, min(READ_AHEAD, 2 * MAX_BATCH_VALUES // max(halves.values, 1)))
    read = sources.read_each([item for _, item in items], ready, threads, ahead)
    with ThreadPoolExecutor(1) as model:
        running: deque[Future[None]] = deque()
        try:
            for rows, images in _batches(_counted(read, Progress(what, len(items), "images"), rejected), batch_size):
                running.append(model.submit(run, rows, images))
                if len(running) > 1:  # one batch runs, one waits for it
                    running.popleft().result()
            for last in running:
                last.result()
        except BaseException:
            model.shutdown(wait=False, cancel_futures=True)  # what waits need not run any more
            raise
    kept = [row for row in range(len(items)) if row not in rejected]
    stacked = {name: np.stack([found[row] for row in kept]) for name, found in others.items()}
    if references:
        stacked = references.finish(stacked)
    chosen = [items[row] for row in kept]
    found = [labels.setdefault(sets[domain].class_of(item.class_name), len(labels)) for domain, item in chosen]
    return Embedded(
        names=[each.name for each in sets],
        vectors={"embedder": vectors[kept], **stacked},
        domains=np.array([domain for domain, _ in chosen], np.int64),
        labels=np.array(found, np.int64),
        keys=[item.key for _, item in chosen],
        rejects=[(sets[items[row][0]].name, items[row][1].key, reason) for row, reason in rejected.items()],
    )


def _stacked(images: list[Pixels]) -> Pixels:
    return {name: np.stack([image[name] for image in images]) for name in images[0]}


def _as_it_is(image: np.ndarray) -> Pixels:
    return {"images": image}


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


def _batches(images: Iterator[tuple[int, Ready]], batch_size: int) -> Iterator[tuple[list[int], list[Ready]]]:
    """Batches (rows, images) of equal shapes, each as large as `batch_size` and MAX_BATCH_VALUES allow."""
    waiting: dict[tuple, list[tuple[int, Ready]]] = {}  # shapes of the pixels → (row, image)

    def taken(shapes: tuple) -> tuple[list[int], list[Ready]]:
        group = waiting.pop(shapes)
        return [row for row, _ in group], [image for _, image in group]

    for row, image in images:
        shapes = tuple(pixels.shape for pixels in (*image.pixels.values(), *image.others.values()))
        waiting.setdefault(shapes, []).append((row, image))
        values = sum(pixels.size for pixels in image.pixels.values())
        if len(waiting[shapes]) >= max(1, min(batch_size, MAX_BATCH_VALUES // values)):
            yield taken(shapes)
        if sum(map(len, waiting.values())) > 4 * batch_size:  # many sizes: do not hold them all
            yield taken(max(waiting, key=lambda shapes: len(waiting[shapes])))
    for shapes in list(waiting):
        yield taken(shapes)


def raw_pixels(image: np.ndarray) -> np.ndarray:
    """The reference that has learned nothing: uint8 [H, W, 3] → float32 [3072], 32 × 32 pixels, mean 0, unit length."""
    small = Image.fromarray(image).resize((RAW_PIXELS_SIDE_PX, RAW_PIXELS_SIDE_PX), Image.Resampling.BOX)
    flat = np.asarray(small, dtype=np.float32).ravel()
    return unit_length(flat - flat.mean())
