"""Labelled images of the config's sources: capped and in an order that mixes the classes."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from pipeline.config import Source, resolve_data_path
from pipeline.data import LabelledImage
from tfrecords.errors import BadInput
from tfrecords.sources import list_source


def labelled_images(sources: Sequence[Source], data_root: str) -> tuple[list[LabelledImage], dict[str, str]]:
    """Lists sources; `cap_per_class` of each holds.

    Returns:
        (images in the order of their keys' hashes, so that the first N are a fair sample and a larger cap only
        adds; keys are `source/key`), (class → what a human calls it).

    Raises:
        BadInput: the layout's, and where a source has no images.
    """
    images: list[LabelledImage] = []
    names: dict[str, str] = {}
    for source in sources:
        root = resolve_data_path(source.root, data_root)
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


def _hash(image: LabelledImage) -> bytes:
    return hashlib.sha256(image.key.encode("utf-8", "surrogateescape")).digest()
