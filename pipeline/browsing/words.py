"""Images found by words: both towers of a CLIP or SigLIP. What it makes of the images is kept beside their vectors."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.browsing.findings import Once
from pipeline.browsing.gallery import Gallery, Near
from pipeline.config import Encoder, ImageTextModel
from pipeline.data.array_cache import ArrayCache, content_key
from pipeline.errors import BadInput
from pipeline.quiet import import_quietly
from pipeline.retrieval.search import nearest
from tfrecords import pixels

FOLDER = "text_vectors"
BLOCK, THREADS = 64, 4
LONGEST = 300  # letters; a tower reads 64 or 77 tokens


@dataclass(frozen=True)
class Ready:
    """The towers, and the images that could be read."""

    encoder: Any  # models.dual_encoder.DualEncoder
    rows: np.ndarray  # int64 [M], of the gallery
    vectors: np.ndarray  # float32 [M, D], unit length


@dataclass
class Words:
    """Asks `ready` for what is computed in a thread of its own, then `near`."""

    ready: Once[Ready]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def near(self, ready: Ready, text: str, count: int) -> Near:
        """Rows and cosines of the images that fit a text best."""
        with self._lock:
            vector = ready.encoder.encode_texts([text])
        ids, distances = nearest(vector, ready.vectors, count)
        found = zip(ids[0].tolist(), distances[0].tolist(), strict=True)
        return [(int(ready.rows[i]), 1 - distance**2 / 2) for i, distance in found if i >= 0]


def open_words(gallery: Gallery, folder: Path, name: str, weights: str) -> Words:
    """Searches by the text tower of an encoder of the catalogue; `folder` keeps the vectors of its images.

    Raises BadInput: an unknown encoder, or one without a text tower.
    """
    facts = import_quietly("pipeline.models.catalogue").find(name).facts
    if not facts.joint_pooling:
        raise BadInput(f"--text {name}: expected a CLIP or a SigLIP, it has no text tower")
    model = ImageTextModel(Encoder(name=name, weights=weights))
    return Words(Once(partial(_compute, gallery, folder / FOLDER, model)))


def _compute(gallery: Gallery, folder: Path, model: ImageTextModel, tell: Callable[[float], None]) -> Ready:
    """Loads both towers and encodes the images that were not yet: a kill loses one block."""
    encoder = import_quietly("pipeline.models.dual_encoder").DualEncoder(model)
    cache = ArrayCache(folder, [encoder.identity])
    resize = partial(import_quietly("pipeline.data.preprocessing").resize_to_square, preprocess=encoder.preprocess)
    keys: dict[int, str] = {}
    rows = [row for row in gallery.index.tolist() if row in gallery.images]
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            found = dict(_read(pool, gallery, block))
            contents = {content_key(data): data for data in found.values()}
            new = cache.missing(contents)
            images = dict(zip(new, pool.map(partial(_resized, resize), [contents[key] for key in new]), strict=True))
            whole = {key: image for key, image in images.items() if image is not None}
            if whole:
                cache.put(list(whole), vectors=encoder.encode_images(np.stack(list(whole.values()))))
            keys |= {row: key for row, data in found.items() if (key := content_key(data)) in cache}
            tell((start + len(block)) / len(rows))
    if not keys:
        raise BadInput("expected images to search by words, none can be read")
    return Ready(encoder, np.array(list(keys), np.int64), np.asarray(cache.get(list(keys.values()))["vectors"]))


def _read(pool: ThreadPoolExecutor, gallery: Gallery, rows: list[int]) -> Iterator[tuple[int, bytes]]:
    def read(row: int) -> bytes | None:
        try:
            return gallery.images[row].read()
        except (OSError, ValueError):
            return None

    return ((row, data) for row, data in zip(rows, pool.map(read, rows), strict=True) if data is not None)


def _resized(resize: Callable[[np.ndarray], np.ndarray], data: bytes) -> np.ndarray | None:
    try:
        return resize(pixels.read(data))
    except (OSError, ValueError):
        return None
