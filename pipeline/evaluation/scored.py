"""What a run scored: each image's vector, class and role, kept for the pages; and the image sets behind it.

<run_dir>/scored/embeddings.npy [N, D] float32, <run_dir>/scored/items.csv: key,source,class,domain,role,label
No TensorFlow.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.data import sources
from pipeline.data.sources import ImageSet
from pipeline.errors import BadInput, reason
from tfrecords.sources import Item

FOLDER = "scored"
BOTH, INDEX, QUERY = "both", "index", "query"  # roles; BOTH: leave-one-out
COLUMNS = ("key", "source", "class", "domain", "role", "label")
Sets = tuple[list[ImageSet], list[ImageSet]]  # of the index, of the queries


@dataclass(frozen=True)
class Scored:
    """N images in the order of their listing, those of the index first."""

    vectors: np.ndarray  # float32 [N, D], of the embedder
    keys: list[str]
    classes: list[str]
    domains: list[str]  # rows of the score table
    roles: list[str]
    labels: np.ndarray  # int64 [N]; two images match where these are equal

    @property
    def leave_one_out(self) -> bool:
        return BOTH in self.roles

    def rows(self, role: str) -> np.ndarray:
        """The images of a role, int64 [Q]: the n-th query is the n-th of `precisions` of the whole."""
        return np.array([row for row, each in enumerate(self.roles) if each in (role, BOTH)], np.int64)


def write(folder: Path, scored: Scored) -> None:
    """Both files at once, whole or not at all. `source` is the domain: what `guie embed` calls a set of images."""
    columns = (scored.keys, scored.domains, scored.classes, scored.domains, scored.roles, scored.labels.tolist())
    with files.atomic_path(folder) as temporary:
        temporary.mkdir()
        np.save(temporary / "embeddings.npy", scored.vectors)
        files.write_csv(temporary / "items.csv", COLUMNS, zip(*columns, strict=True))


def read(folder: Path) -> Scored:
    """Raises BadInput where the files are missing or damaged, or hold numbers that are not finite."""
    try:
        vectors = np.load(folder / "embeddings.npy")
        with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
            rows = [tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file)]
        keys, _, classes, domains, roles, labels = map(list, zip(*rows, strict=True))
        found = Scored(vectors, keys, classes, domains, roles, np.array(labels, np.int64))
    except (OSError, EOFError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"{folder}: expected embeddings.npy and items.csv of `guie run` ({reason(error)})") from None
    if vectors.ndim != 2 or len(vectors) != len(keys):
        raise BadInput(f"{folder}: expected a vector for each of {len(keys)} rows of items.csv, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise BadInput(f"{folder}/embeddings.npy: expected finite numbers, it holds NaN or infinity")
    return found


def open_sets(index: Sequence[str], queries: Sequence[str]) -> Sets:
    """The image sets of DATA, named as the score table's rows; no query sets in leave-one-out.

    Raises BadInput as `data.sources.open_data`; a --queries without its --index.
    """
    index_sets = _unique_names([each for spec in index for each in sources.open_data(spec)])
    return index_sets, _paired([each for spec in queries for each in sources.open_data(spec)], index_sets)


def images(index: Sequence[str], queries: Sequence[str]) -> dict[tuple[str, str, str], Item]:
    """(domain, role, key) of `Scored` → its image, as far as it is listed today. Raises BadInput as `open_sets`."""
    index_sets, query_sets = open_sets(index, queries)
    roles = {INDEX: index_sets, QUERY: query_sets} if queries else {BOTH: index_sets}
    return {(each.name, role, item.key): item for role, sets in roles.items() for each in sets for item in each.items}


def _unique_names(sets: list[ImageSet]) -> list[ImageSet]:
    """Gives the second set of a name the name with -2."""
    seen: dict[str, int] = {}
    named = []
    for each in sets:
        seen[each.name] = seen.get(each.name, 0) + 1
        named.append(each if seen[each.name] == 1 else replace(each, name=f"{each.name}-{seen[each.name]}"))
    return named


def _paired(query_sets: list[ImageSet], index_sets: list[ImageSet]) -> list[ImageSet]:
    """The query sets in the index sets' order, with their names and label spaces: paired by name, else by order."""
    if not query_sets:
        return []
    by_name = {each.name: each.items for each in query_sets}
    if len(by_name) == len(query_sets) and set(by_name) <= {each.name for each in index_sets}:
        return [replace(each, items=by_name.get(each.name, [])) for each in index_sets]
    if len(query_sets) != len(index_sets):
        names = [[each.name for each in sets] for sets in (query_sets, index_sets)]
        raise BadInput(f"expected one --queries for every --index, got {names[0]} for {names[1]}")
    return [replace(index, items=query.items) for query, index in zip(query_sets, index_sets, strict=True)]
