"""Images → what is computed from their pixels, kept in an `ArrayCache` by their bytes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.console import Progress
from pipeline.data.array_cache import ArrayCache, content_key
from pipeline.errors import reason
from tfrecords import pixels
from tfrecords.listing.items import as_text
from tfrecords.sources import Item


@dataclass(frozen=True)
class CachedImages:
    items: list[Item]  # those that could be read, in order
    keys: list[str]  # their cache keys, one an item; equal images have equal keys
    rejects: list[tuple[str, str]]  # (the item's key, the reason) of the others


def cache_images(
    cache: ArrayCache,
    items: Sequence[Item],
    compute: Callable[[list[np.ndarray]], dict[str, np.ndarray]],
    what: str,
    batch_size: int,
    images_per_part: int = 256,
    threads: int = 4,
) -> CachedImages:
    """Reads all images and computes the rows that the cache lacks, equal images once.

    An image that cannot be read is a reject. It leaves nothing in the cache, so the next call tries it again.

    Args:
        compute: pictures, uint8 [H, W, 3] of any sizes, at most `batch_size` → name → [n, …].
        what: the work, for the progress.
        images_per_part: rows written at a time: the most that a kill loses.
        threads: that read and decode.
    """
    found = CachedImages([], [], [])
    batch: dict[str, np.ndarray] = {}  # key → picture
    part: dict[str, list[np.ndarray]] = {}  # name → arrays computed, not written yet
    part_keys: list[str] = []

    def compute_batch() -> None:
        if batch:
            for name, array in compute(list(batch.values())).items():
                part.setdefault(name, []).append(array)
            part_keys.extend(batch)
            batch.clear()

    def write_part() -> None:
        compute_batch()
        cache.put(part_keys, **{name: np.concatenate(arrays) for name, arrays in part.items()})
        part.clear()
        part_keys.clear()

    progress = Progress(what, len(items), "images")
    new: set[str] = set()
    for item, (key, picture, why) in zip(items, _read_ahead(items, cache, threads), strict=True):
        progress.add(1)
        if why:
            found.rejects.append((item.key, why))
            continue
        found.items.append(item)
        found.keys.append(key)
        if picture is not None and key not in new:
            new.add(key)
            batch[key] = picture
            if len(part_keys) + len(batch) == images_per_part:
                write_part()
            elif len(batch) == batch_size:
                compute_batch()
    write_part()
    return found


def _read_ahead(items: Sequence[Item], cache: ArrayCache, threads: int) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """(key, picture, reason) of each, in order; no picture where the cache has the key."""

    def read(item: Item) -> tuple[str, np.ndarray | None, str]:
        try:
            encoded = item.read()
            key = content_key(encoded)
            return key, None if key in cache else pixels.read(encoded), ""
        except (ValueError, OSError) as error:
            return "", None, as_text(reason(error))

    following = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(read, item) for item in islice(following, 4 * threads))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(read, item) for item in islice(following, 1))
            yield result
