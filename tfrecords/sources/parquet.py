"""Hugging Face's parquet shards: a column `image` of {bytes, path}, a column `label` of int64.

Listing reads the label column alone. Images are read a row group at a time (the smallest unit that parquet can seek
to; 100 rows in the published sets), and a worker keeps the last few row groups.
"""

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput, missing, reason
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder
from tfrecords.listing.layout import Layout


def parquet(root: Path, split: str = "train") -> Listing:
    """Lists the shards `<split>-*.parquet` in `root` or `root/data`, classes in the order of their labels.

    Raises BadInput: no such shard, one that cannot be read or lacks a column, or pyarrow is not installed.
    """
    found = shards(existing_folder(root, "a folder of parquet shards"), split)
    if not found:
        raise BadInput(f"layout parquet expects {split}-*.parquet in {root} or {root / 'data'}: found none")
    return parquet_listing(found, [], {})


def shards(root: Path, split: str) -> list[Path]:
    folders = (root / "data", root) if root.is_dir() else ()
    return next((found for folder in folders if (found := sorted(folder.glob(f"{split}-*.parquet")))), [])


def parquet_listing(paths: list[Path], classes: list[str], names: dict[str, str]) -> Listing:
    """Lists shards.

    `classes`: in label order; empty: the names of the shards' own metadata, else the labels that are present. `names`:
    class → human-readable name; empty: those of the metadata. Raises BadInput as `parquet`, a label beyond `classes`,
    or no label at all.
    """
    named = _label_names(_open(paths[0]))
    if classes:
        of_label = dict(enumerate(classes))
    else:
        present = range(len(named)) if named else sorted(_present(paths))
        of_label = {label: f"{label:04d}" for label in present}
    if not of_label:
        raise BadInput(f"{paths[0]}: expected labels of 0 or more in column label, its {len(paths)} shards hold none")
    names = names or dict(zip(of_label.values(), named, strict=False))
    return Listing(list(of_label.values()), Lazily(_items, paths, of_label), names)


def _items(paths: list[Path], of_label: dict[int, str]) -> Iterator[Item]:
    for path in paths:
        for group, labels in _labels(path):
            for row, label in enumerate(labels):
                if label not in of_label:
                    raise BadInput(f"{path}: row group {group} has the label {label} of {len(of_label)} classes")
                key = f"{path.name}/{group:05d}/{row:05d}"
                yield Item(key, of_label[label], partial(read_row, str(path), group, row))


def read_row(path: str, group: int, row: int) -> bytes:
    image = _row_group(path, group)[row].as_py()
    if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
        raise ValueError(f"{path}: row {row} of group {group} holds no image bytes")
    return image["bytes"]


@lru_cache(maxsize=4)
def _row_group(path: str, group: int) -> Any:
    return _pyarrow().ParquetFile(path).read_row_group(group, columns=["image"])["image"]


def _labels(path: Path) -> Iterator[tuple[int, list[int]]]:
    file = _open(path)
    for group in range(file.num_row_groups):
        labels = file.read_row_group(group, columns=["label"])["label"].to_pylist()
        if not all(type(label) is int for label in labels):
            raise BadInput(f"{path}: row group {group}: expected whole numbers in the column label")
        yield group, labels


def _present(paths: list[Path]) -> set[int]:
    """The labels of the shards; those below 0 are left out (-1: the label is withheld)."""
    return {label for path in paths for _, labels in _labels(path) for label in labels if label >= 0}


def _open(path: Path) -> Any:
    try:
        file = _pyarrow().ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise BadInput(f"{path} cannot be read as parquet ({reason(error)}): is it whole?") from None
    for column in ("image", "label"):
        if column not in file.schema_arrow.names:
            raise BadInput(f"{path}: expected the column {column}, found {', '.join(file.schema_arrow.names)}")
    return file


def _label_names(file: Any) -> list[str]:
    """The class names that Hugging Face keeps in the shard's metadata; empty where there are none."""
    try:
        names = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise missing("parquet shards need", "pyarrow", "parquet") from None
    return pyarrow.parquet


LAYOUT = Layout("parquet", parquet)
