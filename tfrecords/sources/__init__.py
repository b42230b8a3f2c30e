"""Public image sets as their users have them on disk. Each file defines a layout: how it is listed, its size.

Those of `tfrecords.benchmarks` are listed by the same names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import ImageSource, resolve_data_path
from pipeline.errors import BadInput, nearest
from tfrecords import benchmarks
from tfrecords.listing.items import Item, Listing, read_file
from tfrecords.listing.layout import Layout
from tfrecords.sources import (
    cifar,
    csv_table,
    cub200,
    drawn,
    folder,
    idx,
    imagenet,
    landmarks,
    parquet,
    products10k,
    shards,
)

__all__ = ["LAYOUTS", "Item", "Layout", "Listing", "find_layout", "list_configured", "list_source", "read_file"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        folder.LAYOUT, drawn.LAYOUT, imagenet.LAYOUT, products10k.LAYOUT, landmarks.LAYOUT, cub200.LAYOUT,
        cub200.RETRIEVAL,
        cifar.CIFAR10, cifar.CIFAR100, idx.MNIST, idx.FASHION_MNIST, parquet.LAYOUT, csv_table.LAYOUT, shards.LAYOUT,
        *benchmarks.LAYOUTS,
    )
}  # fmt: skip


def find_layout(name: str) -> Layout:
    """Raises BadInput for an unknown name; the nearest known ones are named."""
    if name not in LAYOUTS:
        raise BadInput(f"unknown layout {name!r}; nearest known: {nearest(name, sorted(LAYOUTS))}")
    return LAYOUTS[name]


def list_source(layout: str, root: Path, options: Mapping[str, Any] | None = None) -> Listing:
    """Lists an image set; checks its layout and options first.

    Args:
        layout: a name in LAYOUTS.
        root: the set's folder (or archive, or file, where the layout says so).
        options: the layout's own, see its listing function.

    Raises BadInput: an unknown layout, a wrong option, or what the layout does not find on disk.
    """
    found = find_layout(layout)
    checked = found.options(options or {})
    try:
        return found.listing(root, **checked)
    except OSError as error:  # permissions, a disk that goes
        raise BadInput(f"layout {layout}: {root} cannot be listed: {error}") from None


def list_configured(source: ImageSource, data_root: str) -> Listing:
    """Lists a source of a config; a relative root starts at `data_root`.

    Raises BadInput as `list_source` and `resolve_data_path`.
    """
    rooted = find_layout(source.layout).rooted
    root = resolve_data_path(source.root, data_root) if rooted else Path()
    return list_source(source.layout, root, source.options)
