"""Perceptual hashes: bits of a picture that its copies nearly share, and the search for those that are few bits apart.

The hash is "pHash" (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) of 256 bits: the
low frequencies of the cosine transform of a grey thumbnail, each above their median or not. A photograph that is
recoded, resized or brightened keeps nearly all of them; docs/leaks.md says how many copies of each kind are found.
"""

from collections.abc import Iterator

import cv2
import numpy as np

BYTES = 32  # of a hash
MAX_DISTANCE = 40  # bits of 256 that two copies of a picture may differ in
SIDE_PX, FREQUENCIES = 64, 16  # of the thumbnail; of each side of its transform
FLAT = 3.0  # grey levels: a thumbnail of a smaller standard deviation has no hash
ROWS = 4096  # whose neighbours are in memory at a time


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] → the grey thumbnail, float32 [64, 64]; its mirror image is `thumbnail[:, ::-1]`."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey.astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """float32 [64, 64], see `thumbnail` → uint8 [32]; all 0 where the picture is flat, and has no hash."""
    if grey.std() < FLAT:
        return np.zeros(BYTES, np.uint8)
    low = cv2.dct(np.ascontiguousarray(grey))[:FREQUENCIES, :FREQUENCIES]
    return np.packbits(low > np.median(low))


def is_flat(hashes: np.ndarray) -> np.ndarray:
    """uint8 [N, 32] → bool [N], where there is no hash."""
    return hashes.max(axis=1, initial=0) == 0


def near(
    queries: np.ndarray, index: np.ndarray, distance: int = MAX_DISTANCE
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every pair of hashes at most `distance` bits apart, by comparing all; a part of the queries at a time.

    Equal hashes should be given once each: a thousand equal ones on both sides are a million pairs.

    Args:
        queries, index: uint8 [Q, 32], [N, 32].

    Yields (row of a query, row of the index, bits), int64 [P] each, by query.
    """
    import faiss  # here: workers that hash need none of it

    if not len(queries) or not len(index):
        return
    search = faiss.IndexBinaryFlat(8 * BYTES)
    search.add(np.ascontiguousarray(index))
    for start in range(0, len(queries), ROWS):
        block = np.ascontiguousarray(queries[start : start + ROWS])
        limits, bits, found = search.range_search(block, distance + 1)  # strictly less
        sizes: np.ndarray = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
        yield start + np.repeat(np.arange(len(block)), sizes), found, bits.astype(np.int64)
