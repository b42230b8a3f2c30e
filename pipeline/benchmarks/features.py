"""Vectors that are there already as EMBEDDER: stores of `guie bench` or `guie embed`, UnED's descriptors, ILIAS's HDF5.

A store is taken as it is, once its images are known to be the benchmark's; a file is copied into stores.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks import descriptors
from pipeline.benchmarks.ilias import hdf5
from pipeline.benchmarks.table import Part
from pipeline.errors import BadInput
from pipeline.vectors.store import MARKS, REJECTS, Store, Vectors, folders_in, open_store
from pipeline.vectors.writer import KEYS, Writer
from tfrecords.sources import Item

ListedBy = Callable[[Part], Iterator[Item]]
DESCRIPTORS = (".json", ".pkl")  # the official code writes its JSON as .pkl
COPIED = {"copied from": "descriptors"}  # of a store's keys: what may be made anew from another file


def are_there(embedder: str) -> bool:
    """Whether EMBEDDER is features, not a model."""
    path = Path(embedder)
    if path.is_dir():
        return bool(_stores(path)) or hdf5.path_of(path, hdf5.POSITIVES).is_file()
    return path.is_file() and path.suffix in DESCRIPTORS


def _stores(folder: Path) -> dict[str, Path]:
    """Part → its store: of the folder itself the name is ""."""
    below = folder / "vectors"  # of what `guie bench` wrote
    return folders_in(below if below.is_dir() else folder)


def opened(
    embedder: str, benchmark: str, parts: Sequence[Part], out: Path, listed: ListedBy
) -> Callable[[Part], Vectors]:
    """Part → its store, or its file as ILIAS's authors have it.

    Args:
        out: folder that a file's vectors are copied to. listed: the benchmark's images of a part.

    Raises BadInput: a part that is missing, other images, another number of vectors, a file of another form.
    """
    path = Path(embedder)
    if path.is_file():
        if benchmark != "uned":
            raise BadInput(f"{path}: expected a model or stores of vectors; a file of descriptors is UnED's form alone")
        return _of_descriptors(path, parts, out, listed)
    stores = _stores(path)
    if not stores:
        if benchmark != "ilias":
            raise BadInput(f"{path}: expected a model or stores of vectors; HDF5 is ILIAS's form alone")
        return lambda part: hdf5.Features(hdf5.path_of(path, part.name))

    def opens(part: Part) -> Store:
        found = stores.get(part.name) or (stores.get("") if len(parts) == 1 else None)
        if found is None:
            raise BadInput(f"{path}: expected a store of vectors of {part.name}, it has {', '.join(stores) or 'none'}")
        store = open_store(found)
        _expect_images(store, part, listed)
        return store

    return opens


def _expect_images(store: Store, part: Part, listed: ListedBy) -> None:
    """Raises BadInput where a store is of other images, classes or of another order than the benchmark's."""
    rejected: set[str] = set()
    if (store.folder / REJECTS).is_file():
        with (store.folder / REJECTS).open(encoding="utf-8", newline="") as file:
            rejected = {row["key"] for row in csv.DictReader(file)}
    held = store.items()
    for number, item in enumerate(listed(part)):
        if item.key in rejected:
            continue
        row = next(held, None)
        if row is None or (row.key, row.class_name, tuple(row.also)) != (item.key, item.class_name, item.also):
            came = "no more vectors" if row is None else f"{row.key} of class {row.class_name}"
            raise BadInput(
                f"{store.folder}: {part.name}: image {number + 1} is {item.key} of class {item.class_name}, got {came}"
            )
    if (row := next(held, None)) is not None:
        raise BadInput(f"{store.folder}: {part.name}: {row.key} is none of its images")


def _of_descriptors(path: Path, parts: Sequence[Part], out: Path, listed: ListedBy) -> Callable[[Part], Store]:
    wanted = {(part.domain, str(part.options["split"])): part for part in parts}
    identity = files.identity(path)
    done = {part.name: store for part in parts if (store := _whole(out / part.name, identity))}
    if len(done) < len(wanted):
        for domain, split, blocks in descriptors.read(path, lambda domain, split: (domain, split) in wanted):
            if part := wanted.get((domain, split)):
                print(f"bench: reads {part.name} of {path.name}", flush=True)
                done[part.name] = _copied(blocks, part, identity, out / part.name, listed, path)

    def opens(part: Part) -> Store:
        if part.name not in done:
            raise BadInput(f"{path}: it has no descriptors of {part.domain}: {part.options['split']}")
        return done[part.name]

    return opens


def _whole(folder: Path, identity: str) -> Store | None:
    try:
        store = open_store(folder)
    except BadInput:
        return None
    return store if store.fingerprint == identity else None


def _is_copy(folder: Path) -> bool:
    """Whether a store was copied from a file: what a model embedded is never removed for one."""
    try:
        held = files.read_json(folder / MARKS / KEYS)
    except BadInput:
        return False
    return isinstance(held, dict) and COPIED.items() <= held.items()


def _copied(
    blocks: Iterator[np.ndarray], part: Part, identity: str, folder: Path, listed: ListedBy, path: Path
) -> Store:
    items = listed(part)
    writer: Writer | None = None
    number = count = 0
    for block in blocks:
        if writer is None:
            writer = Writer(folder, identity, block.shape[1], keys=COPIED, redo=_is_copy(folder))
        rows = [(item.key, part.domain, item.class_name, item.also) for item in islice(items, len(block))]
        count += len(block)
        if len(rows) < len(block):
            raise BadInput(
                f"{path}: {part.name} has more vectors than its list has images, {count - len(block) + len(rows):,}"
            )
        writer.put(number, block, rows)
        number += 1
    if writer is None or next(items, None) is not None:
        raise BadInput(f"{path}: {part.name} has {count:,} vectors, fewer than its list has images")
    writer.keep(number)
    return writer.finish()
