"""GIF: the first frame's codes give every pixel, and each pixel's colour is in the palette.

Later frames are not looked at: of an animation the first frame is stored.
"""

import numpy as np
from PIL import Image

from tfrecords.pixels import lzw
from tfrecords.pixels.rejected import Rejected

_EXTENSION, _FRAME = 0x21, 0x2C


def require_whole(data: bytes) -> int:
    """Checks the first frame's codes; returns the number of colours in its palette.

    Raises Rejected: no frame, codes missing or impossible, no palette.
    """
    try:
        colours, least_bits, (width, height), at = _first_frame(data)
        coded, _ = _blocks(data, at)
    except IndexError:
        raise Rejected("damaged GIF: it ends before its first frame") from None
    if not 1 <= least_bits <= 11:
        raise Rejected(f"damaged GIF: codes of {least_bits} bits")
    if not colours:
        raise Rejected("damaged GIF: its palette is missing")
    try:
        lzw.require_whole(coded, (width * height,), least_bits, lsb=True, early=0)
    except Rejected as error:
        raise Rejected(f"damaged GIF: {error}") from None
    return colours


def require_colours(image: Image.Image, frame: tuple[int, int, int, int], colours: int, kind: str) -> None:
    """Raises Rejected where a pixel of a decoded palette image, within `frame`, has a number beyond the palette."""
    if image.mode in ("P", "L") and (most := int(np.asarray(image.crop(frame)).max())) >= colours:
        raise Rejected(f"damaged {kind}: colour {most} of a palette of {colours}")


def _first_frame(data: bytes) -> tuple[int, int, tuple[int, int], int]:
    """Colours of its palette, the least bits of a code, width and height, where its blocks begin."""
    colours, at = _palette(data, 10)
    while data[at] != _FRAME:
        if data[at] != _EXTENSION:
            raise Rejected("damaged GIF: no frame where one should begin")
        _, at = _blocks(data, at + 2)
    size = (int.from_bytes(data[at + 5 : at + 7], "little"), int.from_bytes(data[at + 7 : at + 9], "little"))
    own, end = _palette(data, at + 9, 1)
    return own or colours, data[end], size, end + 1


def _palette(data: bytes, at: int, rest: int = 3) -> tuple[int, int]:
    """Colours of the palette that the flags at `at` promise; where it ends. `rest`: bytes from the flags to it."""
    flags = data[at]
    colours = 2 << (flags & 7) if flags & 0x80 else 0
    return colours, at + rest + 3 * colours


def _blocks(data: bytes, at: int) -> tuple[bytes, int]:
    """The contents of the blocks from `at` to the empty one, or the end of the file; where the next thing begins."""
    parts = []
    while at < len(data) and (length := data[at]):
        parts.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return b"".join(parts), at + 1
