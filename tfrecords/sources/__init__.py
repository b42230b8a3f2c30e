"""Public image sets in the layouts their users have on disk: a function root → Listing for each."""

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import Source, resolve_data_path
from pipeline.errors import BadInput
from tfrecords.sources.cifar import cifar10, cifar100
from tfrecords.sources.csv_table import csv_table
from tfrecords.sources.cub200 import cub200
from tfrecords.sources.drawn import drawn
from tfrecords.sources.folder import folder
from tfrecords.sources.idx import fashion_mnist, mnist
from tfrecords.sources.imagenet import imagenet
from tfrecords.sources.items import Item, Listing, read_file
from tfrecords.sources.landmarks import landmarks
from tfrecords.sources.parquet import parquet
from tfrecords.sources.products10k import products10k
from tfrecords.sources.shards import existing_shards

__all__ = ["LAYOUTS", "Item", "Listing", "list_configured", "list_source", "read_file"]

LAYOUTS: dict[str, Callable[..., Listing]] = {
    "folder": folder,
    "drawn": drawn,
    "imagenet": imagenet,
    "products10k": products10k,
    "landmarks": landmarks,
    "cub200": cub200,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "parquet": parquet,
    "csv": csv_table,
    "tfrecords": existing_shards,
}

ROOTLESS = ("drawn",)  # layouts with nothing on disk


def list_source(layout: str, root: Path, options: dict[str, Any] | None = None) -> Listing:
    """Lists a source, its layout and options checked first.

    Args:
        layout: a name in LAYOUTS.
        root: the set's folder (or archive, or file, where the layout says so).
        options: keyword arguments of the layout's function.

    Raises:
        BadInput: an unknown layout or option (the nearest ones are named), an option of the wrong type, or
            what the layout itself finds missing.
    """
    if layout not in LAYOUTS:
        near = difflib.get_close_matches(layout, LAYOUTS, n=3, cutoff=0.4) or sorted(LAYOUTS)
        raise BadInput(f"unknown layout {layout!r}; nearest known: {', '.join(near)}")
    known = dict(list(inspect.signature(LAYOUTS[layout]).parameters.items())[1:])  # without root
    for key, value in (options or {}).items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or sorted(known)
            raise BadInput(f"layout {layout} has no option {key!r}; it has: {', '.join(near) or 'none'}")
        wanted = known[key].annotation
        if type(value) is not wanted:
            raise BadInput(f"layout {layout}: option {key} expects {wanted.__name__}, got {value!r}")
    try:
        return LAYOUTS[layout](root, **(options or {}))
    except OSError as error:  # permissions, a disk that goes
        raise BadInput(f"layout {layout}: {root} cannot be listed: {error}") from None


def list_configured(source: Source, data_root: str) -> Listing:
    """Lists a source of a config: its root, unless absolute, lies below `data_root`.

    Raises:
        BadInput: as `list_source` and `resolve_data_path`.
    """
    root = Path() if source.layout in ROOTLESS else resolve_data_path(source.root, data_root)
    return list_source(source.layout, root, dict(source.options))
