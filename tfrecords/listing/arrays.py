"""Sets that are files of pixel arrays: the build gets each image as a PNG, which is lossless.

A worker keeps the last few arrays that it has loaded, so a few files bound its memory.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image

from tfrecords.listing.archives import Reader


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] as PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()


@dataclass(frozen=True)
class Batch:
    """A file of many images, in hashable fields: it is the cache key of the array that a worker has loaded."""

    # `parse(*parse_arguments, file bytes)` → uint8 [N, H, W] or [N, H, W, 3]; raises ValueError
    parse: Callable[..., np.ndarray]
    parse_arguments: tuple
    read: Callable[..., bytes]  # `read(*read_arguments)` → the file's bytes
    read_arguments: tuple


def batch(reader: Reader, parse: Callable[..., np.ndarray], *parse_arguments: Any) -> Batch:
    assert isinstance(reader, partial)  # as every reader of items.py and archives.py is
    return Batch(parse, parse_arguments, reader.func, reader.args)


@lru_cache(maxsize=6)  # CIFAR-10 has six batches, 31 MB each
def load(file: Batch) -> np.ndarray:
    return file.parse(*file.parse_arguments, file.read(*file.read_arguments))


def read_image(file: Batch, index: int) -> bytes:
    """One image of the array as PNG bytes."""
    images = load(file)
    if index >= len(images):
        raise ValueError(f"image {index} of {len(images)}")
    return png(images[index])
