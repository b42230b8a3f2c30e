"""LZW as GIF and TIFF have it: how many bytes a stream gives, and whether its codes are possible."""

import numpy as np

from tfrecords.pixels.rejected import Rejected

MOST_BITS = 12


def require_whole(data: bytes, sizes: tuple[int, ...], bits: int = 8, *, lsb: bool, early: int) -> None:
    """Raises Rejected where `data` does not give one of `sizes` bytes and then end.

    Args:
        bits: of the values; codes begin with one bit more.
        lsb: codes begin at a byte's lowest bit (GIF, old TIFF), not at its highest.
        early: codes grow by a bit this many entries before the table needs it (TIFF 1, GIF 0).

    An LZW stream has no checksum: one that gives the right number of other bytes is not told apart.
    """
    found, ended, left = _walk(data, max(sizes), bits, lsb, early)
    if found < min(sizes):
        raise Rejected(f"LZW data give {found:,} of {min(sizes):,} bytes")
    if found not in sizes or not (ended or left < 16):  # fewer bits than a code, and a byte to fill up
        raise Rejected(f"LZW data go on behind the {min(sizes):,} bytes of the picture")


def _walk(data: bytes, most: int, bits: int, lsb: bool, early: int) -> tuple[int, bool, int]:
    """Bytes given, at least one more than `most` where there are more; whether the end code came; bits left."""
    stream = np.frombuffer(data + bytes(4), np.uint8).astype(np.uint32)
    clear, end = 1 << bits, (1 << bits) + 1
    at, total, given = 0, 8 * len(data), 0
    lengths = [1] * clear + [0, 0]
    width, before = bits + 1, 0  # before: length of the last code's bytes; 0 behind a clear code
    while at + width <= total and given <= most:
        # The codes up to where they grow by a bit are cut out in one go.
        grows = (1 << width) - early - len(lengths) + (before == 0)
        count = min(max(grows, 1) if width < MOST_BITS else 4096, (total - at) // width)
        starts = at + width * np.arange(count)
        low, shift = starts >> 3, starts & 7
        if lsb:
            window = stream[low] | stream[low + 1] << 8 | stream[low + 2] << 16
            codes = (window >> shift) & (1 << width) - 1
        else:
            window = stream[low] << 16 | stream[low + 1] << 8 | stream[low + 2]
            codes = (window >> (24 - width - shift)) & (1 << width) - 1
        cleared = False
        for number, code in enumerate(codes.tolist(), 1):
            if code in (clear, end):
                at += width * number
                if code == end:
                    return given, True, total - at
                cleared = True
                break
            known = len(lengths)
            if code > known or (code == known and not before):
                raise Rejected(f"LZW code {code} before it is defined")
            if code < known:
                length = lengths[code]
                if before and known < 1 << MOST_BITS:
                    lengths.append(before + 1)
            else:
                length = before + 1
                if known < 1 << MOST_BITS:
                    lengths.append(length)
            given += length
            before = length
            if given > most:
                return given, False, total - at - width * number
        if cleared:
            del lengths[clear + 2 :]
            width, before = bits + 1, 0
            continue
        at += width * count
        if len(lengths) >= (1 << width) - early and width < MOST_BITS:
            width += 1
    return given, False, total - at
