"""The segments of a JPEG, found by walking them as a decoder does."""

import re
from collections.abc import Iterator
from typing import NamedTuple

START_OF_SCAN, END_OF_IMAGE, HUFFMAN_TABLES, RESTART_INTERVAL, QUANTISERS = 0xDA, 0xD9, 0xC4, 0xDD, 0xDB
APP0, APP14, COMMENT = 0xE0, 0xEE, 0xFE
SEQUENTIAL_FRAMES, PROGRESSIVE_FRAMES = frozenset((0xC0, 0xC1, 0xC9)), frozenset((0xC2, 0xCA))
ARITHMETIC_FRAMES = frozenset((0xC9, 0xCA, 0xCB))
FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))

# Within a scan FF 00 is a value and FF D0 … D7 restart the decoder; FF FF and FF 01 are padding anywhere.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


class Segment(NamedTuple):
    """`data[start:end]` is the segment from its FF to its last byte by its length, without a scan's compressed data."""

    marker: int
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """The segments behind SOI, in order, up to and with EOI.

    Data behind EOI (a phone's film, a camera's second picture, junk) is no part of the picture. The contents of a
    segment (a thumbnail, a colour profile) are skipped by its length.
    """
    at = 2
    while match := _MARKER.search(data, at):
        at = match.end()
        if (marker := data[at - 1]) == END_OF_IMAGE:
            yield Segment(marker, at - 2, at)
            return
        end = at + max(int.from_bytes(data[at : at + 2], "big"), 2)
        yield Segment(marker, at - 2, end)
        at = end


def markers(data: bytes) -> Iterator[int]:
    """The second byte of each marker of `segments`.

    >>> [f"{marker:x}" for marker in markers(bytes.fromhex("ffd8 ffe0 0004 ffda ffda 0002 11ff0022 ffd9 ffda"))]
    ['e0', 'da', 'd9']
    """
    return (segment.marker for segment in segments(data))
