"""Vectors of labelled images, computed once: a file for every 256 images, named after their bytes and the model."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.console import Progress
from pipeline.similar.crop import Box, Detector, cut
from tfrecords import pixels
from tfrecords.sources import Item

IMAGES_A_FILE = 256


@dataclass(frozen=True)
class Stored:
    """Images that could be read, with their vectors.

    Attributes:
        vectors: float32 [N, D]. boxes: what was cut from each image; None: nothing.
        rejects: (key, reason) of the others.
    """

    images: list[Item]
    vectors: np.ndarray
    boxes: list[Box | None]
    rejects: list[tuple[str, str]]


def embed_all(
    images: Sequence[Item],
    embed: Callable[[list[np.ndarray]], np.ndarray],
    made_by: Any,
    folder: Path,
    detector: Detector | None,
    batch_size: int,
    what: str,
) -> Stored:
    """Reads, crops and embeds; a rerun, or one after a kill, computes only what is missing.

    Args:
        embed: uint8 [H, W, 3] pictures → float32 [B, D].
        made_by: JSON-able, changes when the vectors would.
        detector: crops first.
    """
    kept: list[Item] = []
    vectors: list[np.ndarray] = []
    boxes: list[Box | None] = []
    rejects: list[tuple[str, str]] = []
    made_by = [made_by, detector and vars(detector.crop)]
    progress = Progress(what, len(images), "images")
    for start in range(0, len(images), IMAGES_A_FILE):
        readable: list[tuple[Item, bytes]] = []
        for image in images[start : start + IMAGES_A_FILE]:
            try:
                readable.append((image, image.read()))
            except (OSError, ValueError) as error:
                rejects.append((image.key, " ".join(str(error).split())))
        digests = [hashlib.sha256(encoded).hexdigest() for _, encoded in readable]
        path = folder / f"{files.fingerprint([made_by, digests])}.npz"
        if not path.exists():
            _write(path, [encoded for _, encoded in readable], embed, detector, batch_size)
        with np.load(path) as part:
            reasons = part["reasons"].tolist()
            for row, (image, _) in enumerate(readable):
                if reasons[row]:
                    rejects.append((image.key, reasons[row]))
                else:
                    kept.append(image)
                    edges = [int(edge) for edge in part["boxes"][row]]
                    boxes.append((edges[0], edges[1], edges[2], edges[3]) if edges[0] >= 0 else None)
            vectors.append(part["vectors"])
        progress.add(min(IMAGES_A_FILE, len(images) - start))
    stacked = np.concatenate([part for part in vectors if len(part)] or [np.zeros((0, 1), np.float32)])
    return Stored(kept, stacked, boxes, rejects)


def _write(
    path: Path,
    encoded: Sequence[bytes],
    embed: Callable[[list[np.ndarray]], np.ndarray],
    detector: Detector | None,
    batch_size: int,
) -> None:
    reasons, boxes, vectors = [], [], []
    waiting: list[np.ndarray] = []
    for each in encoded:
        box = None
        try:
            picture = pixels.read(each)
            box = detector.box(picture) if detector else None
            waiting.append(cut(picture, box))
            reasons.append("")
        except ValueError as error:
            reasons.append(" ".join(str(error).split()) or "unreadable")
        boxes.append(box or (-1, -1, -1, -1))
        if len(waiting) == batch_size:
            vectors.append(embed(waiting))
            waiting = []
    if waiting:
        vectors.append(embed(waiting))
    stacked = np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float32)
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            vectors=stacked,
            boxes=np.array(boxes, np.int64).reshape(-1, 4),
            reasons=np.array(reasons, dtype=np.str_),
        )
