"""The markers of a JPEG, found by walking its segments as a decoder does."""

import re
from collections.abc import Iterator

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
ARITHMETIC_FRAMES = frozenset((0xC9, 0xCA, 0xCB))

# Within a scan FF 00 is a value and FF D0 … D7 restart the decoder; FF FF and FF 01 are padding anywhere.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def markers(data: bytes) -> Iterator[int]:
    """The second byte of each marker behind SOI, in order, up to and with EOI.

    Data behind EOI (a phone's film, a camera's second picture, junk) is no part of the picture. The contents of a
    segment (a thumbnail, a colour profile) are skipped by its length.

    >>> [f"{marker:x}" for marker in markers(bytes.fromhex("ffd8 ffe0 0004 ffda ffda 0002 11ff0022 ffd9 ffda"))]
    ['e0', 'da', 'd9']
    """
    at = 2
    while match := _MARKER.search(data, at):
        at = match.end()
        yield (marker := data[at - 1])
        if marker == END_OF_IMAGE:
            return
        at += max(int.from_bytes(data[at : at + 2], "big"), 2)
