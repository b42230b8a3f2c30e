"""The images that are looked through, with their vectors: a run's scored ones, or those of `guie embed`."""

import csv
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.config import load_from
from pipeline.data import sources
from pipeline.errors import BadInput, reason
from pipeline.evaluation import scored
from pipeline.retrieval.search import nearest
from tfrecords.sources import Item

Near = list[tuple[int, float]]  # rows and their Euclidean distances, nearest first


@dataclass(frozen=True)
class Gallery:
    """N images in order. Neighbours are looked for among the index: all of them in leave-one-out."""

    name: str  # of the folder, as a page calls it
    vectors: np.ndarray  # float32 [N, D]
    keys: list[str]
    sources: list[str]
    labels: np.ndarray  # int64 [N], a position in `classes`; two images match where these are equal
    classes: list[str]  # names; two label spaces may have one name
    images: dict[int, Item]  # by row; one that is gone since is shown without a picture
    queries: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # rows that no neighbour is taken from

    @cached_property
    def index(self) -> np.ndarray:
        """int64 [M], the rows that neighbours are taken from."""
        return np.setdiff1d(np.arange(len(self.keys)), self.queries)

    @cached_property
    def index_vectors(self) -> np.ndarray:
        """float32 [M, D]"""
        return self.vectors[self.index] if len(self.queries) else self.vectors

    @cached_property
    def places(self) -> np.ndarray:
        """int64 [N], the position of each row in `index`; -1 of a query."""
        found = np.full(len(self.keys), -1, np.int64)
        found[self.index] = np.arange(len(self.index))
        return found

    @cached_property
    def texts(self) -> list[str]:
        """What a search by words looks through, of each image: class, source and key in small letters."""
        names = [name.lower() for name in self.classes]
        rows = zip(self.labels.tolist(), self.sources, self.keys, strict=True)
        return [f"{names[label]}\0{source.lower()}\0{key.lower()}" for label, source, key in rows]

    @cached_property
    def digest(self) -> str:
        """8 hex digits of what is shown: pictures that a web browser keeps are of this gallery alone."""
        found = hashlib.sha256(self.vectors.tobytes())
        found.update("\0".join([*self.keys, *self.classes]).encode("utf-8", "surrogatepass"))
        return found.hexdigest()[:8]

    def class_of(self, row: int) -> str:
        return self.classes[self.labels[row]]

    def identity(self, row: int) -> tuple[str, str, bool]:
        """By which the same image is known in another folder of vectors: (source, key, whether it is a query)."""
        return self.sources[row], self.keys[row], row in self._queries

    @cached_property
    def _queries(self) -> set[int]:
        return set(self.queries.tolist())

    def near(self, vector: np.ndarray, count: int, row: int = -1) -> Near:
        """The `count` nearest of the index to a vector float32 [D], without the image `row` itself."""
        itself = self.places[[row]] if row >= 0 else False
        ids, distances = nearest(vector[None], self.index_vectors, count, itself)
        return [(int(self.index[i]), float(d)) for i, d in zip(ids[0], distances[0], strict=True) if i >= 0]


@dataclass(frozen=True)
class Beside:
    """The same images embedded by another: its vectors, and which row of the first gallery each belongs to."""

    other: Gallery
    rows: dict[int, int]  # row of the first → row of the other

    @cached_property
    def back(self) -> dict[int, int]:
        return {there: here for here, there in self.rows.items()}

    def near(self, row: int, count: int) -> Near | None:
        """As `Gallery.near`, in rows of the first; None where the other lacks the image."""
        if row not in self.rows:
            return None
        there = self.rows[row]
        spare = len(self.other.keys) - len(self.rows)  # images that the first lacks are passed over
        found = self.other.near(self.other.vectors[there], count + spare, there)
        return [(self.back[each], distance) for each, distance in found if each in self.back][:count]


def open_gallery(folder: Path, data: str = "") -> Gallery:
    """Of a run's folder, or of `guie embed`'s with the DATA that was embedded.

    Raises BadInput: neither of them, tables and vectors that do not fit, vectors that are not finite, images that are
    not where they were.
    """
    if data:
        return _embedded(folder, data)
    if not (folder / scored.FOLDER).is_dir():
        if seeds := sorted(path.parent for path in folder.glob(f"seed-*/{scored.FOLDER}")):
            raise BadInput(f"{folder}: expected one run, it has one a seed: guie browse {seeds[0]}")
        raise BadInput(f"{folder}: expected the folder of a run that was scored, or VECTORS_DIR and its DATA")
    return _of_run(folder)


def open_beside(first: Gallery, folder: Path) -> Beside:
    """Raises BadInput as `open_gallery`, and where the two share no image."""
    there = folder / scored.FOLDER
    other = _read_table(there if there.is_dir() else folder, folder.resolve().name)
    known = {other.identity(row): row for row in range(len(other.keys))}
    found = {row: known.get(first.identity(row), -1) for row in range(len(first.keys))}
    rows = {here: row for here, row in found.items() if row >= 0}
    if not rows:
        raise BadInput(f"--beside {folder}: expected vectors of the same images, none is the same by source and key")
    return Beside(other, rows)


def _of_run(folder: Path) -> Gallery:
    found = _read_table(folder / scored.FOLDER, folder.resolve().name)
    known = scored.images(*load_from(folder).scored_data)
    of_index = scored.INDEX if len(found.queries) else scored.BOTH
    for row in range(len(found.keys)):
        source, key, is_query = found.identity(row)
        if item := known.get((source, scored.QUERY if is_query else of_index, key)):
            found.images[row] = item
    return found


def _embedded(folder: Path, data: str) -> Gallery:
    sets = sources.open_data(data)
    found = _read_table(folder)
    items = {(each.name, item.key): item for each in sets for item in each.items}
    spaces = {each.name: each for each in sets}
    places: dict[tuple[str, str], int] = {}
    labels = []
    for row, (source, key, label) in enumerate(zip(found.sources, found.keys, found.labels.tolist(), strict=True)):
        name = found.classes[label]
        place = spaces[source].class_of(name) if source in spaces else (source, name)
        labels.append(places.setdefault(place, len(places)))
        if (source, key) in items:
            found.images[row] = items[source, key]
    names = [name for _, name in places]
    return Gallery(
        found.name, found.vectors, found.keys, found.sources, np.array(labels, np.int64), names, found.images
    )


def _read_table(folder: Path, name: str = "") -> Gallery:
    """embeddings.npy and items.csv, of `guie embed` or of a run; without pictures. Raises BadInput."""
    try:
        vectors = np.ascontiguousarray(np.load(folder / "embeddings.npy"), np.float32)
        with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        keys, names, classes = ([row[column] for row in rows] for column in ("key", "source", "class"))
        places: dict[tuple[str, str], int] = {}  # a class is known by its label where a run says so, else by its source
        spaces = [row.get("label") or source for row, source in zip(rows, names, strict=True)]
        found = [places.setdefault(place, len(places)) for place in zip(spaces, classes, strict=True)]
        queries = [row for row, each in enumerate(rows) if each.get("role") == scored.QUERY]
    except (OSError, EOFError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"{folder}: expected embeddings.npy and items.csv of `guie embed` ({reason(error)})") from None
    if vectors.ndim != 2 or len(vectors) != len(rows) or not rows:
        came = f"{vectors.shape} and {len(rows)} rows"
        raise BadInput(f"{folder}: expected one vector for each row of items.csv, got {came}")
    if not np.isfinite(vectors).all():
        raise BadInput(f"{folder}/embeddings.npy: expected finite numbers, it holds NaN or infinity")
    labels = np.array(found, np.int64)
    title = name or folder.resolve().name
    return Gallery(title, vectors, keys, names, labels, [each for _, each in places], {}, np.array(queries, np.int64))
