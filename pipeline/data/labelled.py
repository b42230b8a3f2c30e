"""Labelled images of the config's sources: capped and in an order that mixes the classes."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Source, resolve_data_path
from pipeline.data.sources import LabelledImage
from pipeline.errors import BadInput
from tfrecords.sources import list_source

ROOTLESS = ("drawn",)  # layouts with nothing on disk


def labelled_images(sources: Sequence[Source], data_root: str) -> tuple[list[LabelledImage], dict[str, str]]:
    """Lists sources; `cap_per_class` of each holds.

    Returns:
        (images in the order of their keys' hashes, so that the first N are a fair sample and a larger cap only
        adds; keys are `source/key`), (class → what a human calls it).

    Raises:
        BadInput: the layout's, two sources of one name, and where a source has no images.
    """
    images: list[LabelledImage] = []
    names: dict[str, str] = {}
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise BadInput(f"{count} sources are called {name!r}: images are known by it, give each its own")
    for source in sources:
        root = source_root(source, data_root)
        listing = list_source(source.layout, root, dict(source.options))
        found = [
            LabelledImage(f"{source.name}/{item.key}", item.class_name, item.read) for item in listing.items
        ]
        if not found:
            raise BadInput(f"{root}: the layout {source.layout} finds no images there")
        names.update({each: listing.names.get(each, each) for each in listing.classes})
        seen: Counter[str] = Counter()
        for image in sorted(found, key=_hash):
            if source.cap_per_class is None or seen[image.class_name] < source.cap_per_class:
                seen[image.class_name] += 1
                images.append(image)
    return sorted(images, key=_hash), names


def source_root(source: Source, data_root: str) -> Path:
    """Where a source lies.

    Raises:
        BadInput: `config.resolve_data_path`'s, but for a layout with nothing on disk.
    """
    return Path() if source.layout in ROOTLESS else resolve_data_path(source.root, data_root)


def check_shared_names(index: Sequence[Source], queries: Sequence[Source]) -> None:
    """A query's own image in the index is found by source and key, so one name must stand for one place.

    Raises:
        BadInput: a name of both lists has another layout, root or options. Another `split` is the same place: a
            set's keys are of the whole set.
    """
    of_index = {source.name: _place(source) for source in index}
    for source in queries:
        here = of_index.get(source.name, _place(source))
        if here != _place(source):
            raise BadInput(
                f"index and queries both have a source {source.name!r}, of {_shown(here)} and of "
                f"{_shown(_place(source))}: their images would be taken for each other, rename one"
            )


def _place(source: Source) -> tuple[str, str, dict[str, Any]]:
    options = {key: value for key, value in source.options.items() if key != "split"}
    return source.layout, os.path.normpath(source.root), options


def _shown(place: tuple[str, str, dict[str, Any]]) -> str:
    return ":".join([*place[:2], *(f"{key}={value}" for key, value in place[2].items())])


def _hash(image: LabelledImage) -> bytes:
    return hashlib.sha256(image.key.encode("utf-8", "surrogateescape")).digest()
