"""The package in Python: load an embedder, embed images, search, score; `import pipeline` has these names.

import pipeline
embedder = pipeline.load("runs/demo/submission.zip")
vectors = embedder.embed(["a.jpg", "b.jpg"])
"""

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from pipeline.errors import BadInput
from pipeline.guards import machine
from pipeline.quiet import import_quietly
from pipeline.retrieval.precisions import precisions
from pipeline.retrieval.search import nearest
from tfrecords import pixels
from tfrecords.listing.items import read_file

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from pipeline.evaluation.embedders import Submission

Picture = Union[str, "os.PathLike[str]", np.ndarray, "PillowImage"]  # a path, uint8 [H, W, 3], or of Pillow
THREADS = 4  # that decode and resize
LARGEST = 1e17  # of a vector's numbers: float32 holds their squares and the sum


class Embedder:
    """Images → vectors. `load` makes it."""

    def __init__(self, submission: "Submission"):
        self._submission = submission

    @property
    def embedding_dim(self) -> int:
        """D, numbers of a vector; at most 64."""
        return self._submission.embedding_dim

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where it departs from the competition's contract, such as vectors of another length; a line each."""
        return self._submission.warnings

    def embed(self, images: Iterable[Picture] | np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Embeds images of any sizes.

        Args:
            images: paths, Pillow images or uint8 arrays [H, W, 3], mixed as you like; or one uint8 array [N, H, W, 3].
            batch_size: images embedded together.

        Returns:
            float32 [N, D], row n of image n; of unit length, as the competition asks of embedders.

        Raises:
            BadInput: a file that is missing or is no image.
            ValueError: an array of another shape or type, one image instead of a list, a Pillow image of 16 or 32 bits.
        """
        if isinstance(images, str | os.PathLike):
            raise ValueError(f"expected a list of images, got one path: write embed([{str(images)!r}])")
        if hasattr(images, "convert"):
            raise ValueError("expected a list of images, got one of Pillow: write embed([image])")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise ValueError(f"expected uint8 [N, H, W, 3] or a list of images, got an array {list(images.shape)}")
        images = images if isinstance(images, np.ndarray) else list(images)
        vectors = np.zeros((len(images), self.embedding_dim), np.float32)
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(images), batch_size):
                ready = pool.map(self._ready, images[start : start + batch_size])
                by_shape: dict[tuple, list[tuple[int, dict[str, np.ndarray]]]] = defaultdict(list)
                for row, each in enumerate(ready, start):
                    by_shape[tuple(part.shape for part in each.values())].append((row, each))
                for group in by_shape.values():
                    stacked = {name: np.stack([each[name] for _, each in group]) for name in group[0][1]}
                    vectors[[row for row, _ in group]] = self._embedded(stacked)
        return vectors

    def _ready(self, picture: Picture) -> dict[str, np.ndarray]:
        """Input name → one image as the model takes it."""
        image = _pixels(picture)
        halves = self._submission.halves
        return halves.resize(image) if halves else {"images": image}

    def _embedded(self, stacked: dict[str, np.ndarray]) -> np.ndarray:
        halves = self._submission.halves
        return halves.embed(stacked) if halves else self._submission.embed(stacked["images"])


def load(embedder: str | os.PathLike[str], trust: bool = False) -> Embedder:
    """Loads an embedder; the first call imports TensorFlow.

    Args:
        embedder: submission.zip, SavedModel folder, run folder of `guie run` or `guie fit`, or TensorFlow Hub handle.
        trust: load it although it reaches files, the network or Python.

    Raises:
        BadInput: nothing there, or a model that does not keep the competition's contract.
    """
    handle = str(embedder)
    if (inside := Path(handle) / "submission.zip").is_file():
        handle = str(inside)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    return Embedder(import_quietly("pipeline.evaluation.embedders").load(handle, trust))


def search(queries: np.ndarray, index: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of the index for every query, exactly, by Euclidean distance.

    >>> positions, distances = search(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 0.5]]), k=2)
    >>> positions.tolist(), [round(float(each), 3) for each in distances[0]]
    ([[1, 0]], [0.5, 1.414])

    Args:
        queries: float [Q, D]. index: float [N, D].
        k: neighbours a query.

    Returns:
        (positions int64 [Q, k], distances float32 [Q, k]), nearest first, ties by the smaller position. Where the index
        has fewer than k rows the rest is -1 and inf.

    Raises:
        ValueError: arrays of other shapes, numbers that are not finite or above 1e17, k below 1.
    """
    found = _vectors("queries", queries), _vectors("index", index)
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(
            f"expected as many numbers a row, got {found[0].shape[1]} in queries, {found[1].shape[1]} in index"
        )
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k: expected a whole number of 1 or more, got {k!r}")
    return nearest(*found, int(k))


def score(
    vectors: np.ndarray,
    labels: Sequence[Hashable] | np.ndarray,
    queries: np.ndarray | None = None,
    query_labels: Sequence[Hashable] | np.ndarray | None = None,
) -> float:
    """Mean Precision@5, the competition's: the share of right answers among the first min(5, matches) neighbours.

    Without `queries` every row queries all others (leave-one-out).

    >>> score(np.array([[0.0], [0.1], [9.0], [9.2]]), ["cat", "cat", "dog", "dog"])
    1.0
    >>> score(np.array([[0.0], [9.0]]), ["cat", "dog"], np.array([[0.2], [8.0], [1.0]]), ["cat", "dog", "dog"])
    0.6666666666666666

    Args:
        vectors: float [N, D], the index. labels: N classes, numbers or texts.
        queries: float [Q, D]. query_labels: Q classes.

    Returns:
        0 … 1.

    Raises:
        ValueError: arrays of other shapes, not a label a row, a label that is NaN or a list, no query with a match.
    """
    if (queries is None) != (query_labels is None):
        raise ValueError("expected queries and query_labels, or neither")
    index, classes = _labelled("vectors", vectors, labels)
    if queries is None or query_labels is None:
        sizes: dict[Hashable, int] = defaultdict(int)
        for each in classes:
            sizes[each] += 1
        if max(sizes.values(), default=0) < 2:
            raise ValueError("expected a class of at least two rows: no query has a match")
        numbers = {name: number for number, name in enumerate(sizes)}
        return float(precisions((index, np.array([numbers[each] for each in classes]))).mean())
    asked, wanted = _labelled("queries", queries, query_labels)
    if asked.shape[1] != index.shape[1]:
        raise ValueError(
            f"expected as many numbers a row, got {asked.shape[1]} in queries, {index.shape[1]} in vectors"
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*classes, *wanted]))}
    if not set(wanted) & set(classes):
        raise ValueError("expected a class of the queries among the labels: no query has a match")
    found = [np.array([numbers[each] for each in names]) for names in (classes, wanted)]
    return float(precisions((index, found[0]), (asked, found[1])).mean())


def _pixels(picture: Any) -> np.ndarray:
    """uint8 [H, W, 3] of a path, an array or a Pillow image."""
    if isinstance(picture, str | os.PathLike):
        try:
            return pixels.read(read_file(os.fspath(picture)))
        except (ValueError, OSError) as error:
            if machine.refuses(error):
                raise
            raise BadInput(f"{picture} cannot be read as an image: {error}") from None
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"expected an image as uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
        return picture
    if hasattr(picture, "convert"):
        return _of_pillow(picture)
    raise ValueError(f"expected a path, a uint8 array [H, W, 3] or a Pillow image, got {type(picture).__name__}")


def _of_pillow(image: "PillowImage") -> np.ndarray:
    """Pixels as its file would give them: upright by EXIF, transparency on white."""
    from PIL import Image, ImageOps

    if image.mode.startswith(("I", "F")):
        raise ValueError(f"expected a Pillow image of 8 bits a channel, got mode {image.mode}: give its path")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _vectors(name: str, given: Any) -> np.ndarray:
    found = np.asarray(given, np.float32)
    if found.ndim != 2:
        raise ValueError(f"{name}: expected float [N, D], got an array {list(found.shape)}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: expected finite numbers, it holds NaN or infinity")
    if found.size and (most := float(np.abs(found).max())) > LARGEST:
        raise ValueError(f"{name}: expected numbers up to {LARGEST:g}, got {most:g}: scale queries and index alike")
    return found


def _labelled(name: str, vectors: Any, labels: Any) -> tuple[np.ndarray, list[Hashable]]:
    found = _vectors(name, vectors)
    # A tensor's entries are tensors, each unlike all others.
    classes = np.asarray(labels).tolist() if hasattr(labels, "__array__") else list(labels)
    classes = [each.item() if hasattr(each, "item") else each for each in classes]
    if wrong := next((each for each in classes if not isinstance(each, Hashable) or each != each), None):
        raise ValueError(f"{name}: expected a number or a text as label, got {wrong!r}")
    if len(classes) != len(found):
        raise ValueError(f"{name}: expected a label a row, got {len(classes):,} labels for {len(found):,} rows")
    return found, classes
