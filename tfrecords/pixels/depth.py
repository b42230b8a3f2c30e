"""Samples of more than 8 bits → 8 bits.

A camera or scanner of 10, 12 or 14 bits stores its values in 16 as they are; their upper 8 bits would be black. So
where the file does not say how many bits count (TIFF: BitsPerSample, MaxSampleValue; a PNG with sBIT is always scaled
to all 16), it is the least of BITS that holds the picture's largest value.
"""

import numpy as np

from tfrecords.pixels.rejected import Rejected

BITS = (8, 10, 12, 14, 16)


def used_bits(most: int, declared: int | None = None) -> int:
    """Bits that count of samples up to `most`. Raises Rejected: more than 16.

    >>> used_bits(4000), used_bits(200), used_bits(5000, 12), used_bits(900, 16)
    (12, 8, 14, 16)
    """
    if most >> 16:
        raise Rejected(f"pixels up to {most:,}: beyond 16 bits their range is not known")
    if declared is not None and most < 1 << declared:
        return max(declared, 8)
    return next(bits for bits in BITS if most < 1 << bits)


def to_eight_bits(values: np.ndarray, declared: int | None = None) -> np.ndarray:
    """Integers `[…]` → uint8 `[…]`. Raises Rejected: negative ones, or more than 16 bits."""
    if values.size and int(values.min()) < 0:
        raise Rejected("negative pixels: their range is not known")
    return (values >> used_bits(int(values.max()), declared) - 8).astype(np.uint8)
