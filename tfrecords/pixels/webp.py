"""WebP: does the decoder need its data to the last bytes?

A WebP has no checksum. Where zeroes or junk stand for a part of its data, the decoder goes on with them, and uses up
more or fewer bytes than there are. More: it says so. Fewer: it would not notice if the last bytes were missing. In
whole files, of any quality, at most 3 bytes at the end are not needed.
"""

import io
import struct
from collections.abc import Iterator

from PIL import Image

from tfrecords.pixels.rejected import DECODER_ERRORS, Rejected

NOT_NEEDED_BYTES = 4
_HEADER_BYTES = 16  # of the least frame


def require_whole(data: bytes) -> None:
    """Checks the picture of the file, of an animation the first frame. Raises Rejected: damaged."""
    name, start, end = _picture(data)
    if end > len(data):
        raise Rejected("damaged WebP: the file ends before its picture does")
    if end - start < _HEADER_BYTES + NOT_NEEDED_BYTES:
        return
    if _decodes(_still(name, data[start : end - NOT_NEEDED_BYTES])):
        raise Rejected("damaged WebP: its data go on behind the last pixel")


def _picture(data: bytes) -> tuple[bytes, int, int]:
    """Name and place of the chunk with the first picture. Raises Rejected: there is none."""
    for name, start, end in _chunks(data, 12):
        if name == b"ANMF":
            name, start, end = next(((*one,) for one in _chunks(data, start + 16) if one[0] != b"ALPH"), (b"", 0, 0))
        if name in (b"VP8 ", b"VP8L"):
            return name, start, end
    raise Rejected("damaged WebP: no picture")


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk's contents."""
    while at + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        yield name, at + 8, at + 8 + length
        at += 8 + length + (length & 1)


def _still(name: bytes, picture: bytes) -> bytes:
    """A file of one picture without transparency's own chunk."""
    chunk = name + struct.pack("<I", len(picture)) + picture + b"\0" * (len(picture) & 1)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _decodes(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            image.load()
    except DECODER_ERRORS:
        return False
    return True
