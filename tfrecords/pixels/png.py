"""PNG: the chunks that make the pixels are checked, the others are left aside.

Whole is: the checksums of header, palette and data are right, the data inflate to every byte that the header promises,
with zlib's own checksum where the stream has come to its end, and no palette index lies beyond the palette. A wrong
checksum or content of any other chunk, data behind the picture and a missing IEND are no matter.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tfrecords.pixels.deflate import inflated
from tfrecords.pixels.rejected import Rejected

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE = 3
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Header(NamedTuple):
    width: int
    height: int
    depth: int  # bits of a sample
    colour: int
    interlaced: bool


class Png(NamedTuple):
    """The chunks of a PNG that matter."""

    header: Header
    shown: list[bytes]  # whole chunks: palette, transparency, orientation
    palette: int  # its number of colours
    has_sbit: bool  # it says itself how many bits are significant
    data: bytes  # all IDAT


def parse(data: bytes) -> Png:
    """Raises Rejected: the header, the palette or the data are damaged or missing."""
    header: Header | None = None
    shown: list[bytes] = []
    parts: list[bytes] = []
    palette, has_sbit = 0, False
    for name, chunk, sum_right in _chunks(data):
        if name == b"IEND":
            break
        body = chunk[8:-4]
        critical = not name[0] & 32
        if critical and sum_right is False:
            raise Rejected(f"damaged PNG: the checksum of {name.decode('latin-1')} is wrong")
        if header is None:
            if name != b"IHDR" or not sum_right:
                raise Rejected("damaged PNG: no header")
            header = _header(body)
        elif name == b"IDAT":
            parts.append(body if sum_right else chunk[8:])
        elif name == b"PLTE" and sum_right and not parts:
            palette = len(body) // 3
            shown = [*(one for one in shown if one[4:8] != b"PLTE"), chunk]
        elif name == b"sBIT" and sum_right:
            has_sbit = True
        elif sum_right and not parts and (name in (b"tRNS", b"eXIf") or body.startswith(b"Raw profile type exif\0")):
            shown.append(chunk)
        elif critical and name not in (b"PLTE", b"IHDR") and sum_right:
            raise Rejected(f"damaged PNG: a critical chunk {name.decode('latin-1')!r} that no decoder knows")
    if header is None:
        raise Rejected("damaged PNG: no header")
    if not parts:
        raise Rejected("damaged PNG: no image data")
    if header.colour == _PALETTE and not palette:
        raise Rejected("damaged PNG: its palette is missing")
    return Png(header, shown, palette, has_sbit, b"".join(parts))


def bare(png: Png) -> bytes:
    """A PNG of the same picture, of its critical chunks, transparency and orientation alone."""
    header = struct.pack(">IIBBBBB", *png.header[:4], 0, 0, png.header.interlaced)
    pieces = [_chunk(b"IHDR", header), *png.shown, _chunk(b"IDAT", png.data), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(pieces)


def whole(png: Png) -> Png:
    """The PNG, its data cut where the compressed stream ends. Raises Rejected: they do not give every byte."""
    expected = promised_bytes(png.header)
    try:
        given, ended = inflated(png.data, 2 * expected + 65536)
    except zlib.error as error:
        raise Rejected(f"damaged PNG: {error}") from None
    if given < expected:
        raise Rejected(f"damaged PNG: the data give {given:,} of {expected:,} bytes")
    if ended:
        return png
    # Every byte has come, the checksum at the end has not: the stream is closed anew.
    raw = zlib.decompressobj().decompress(png.data, expected)
    return png._replace(data=zlib.compress(raw, 1))


def promised_bytes(header: Header) -> int:
    """Bytes of the inflated data: of each row its pixels and the number of its filter."""
    bits = header.depth * _SAMPLES[header.colour]
    if not header.interlaced:
        return header.height * (1 + -(-header.width * bits // 8))
    total = 0
    for left, top, across, down in _ADAM7:
        columns, rows = -(-(header.width - left) // across), -(-(header.height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _header(body: bytes) -> Header:
    if len(body) != 13:
        raise Rejected("damaged PNG: no header")
    width, height, depth, colour, compression, filtering, interlacing = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlacing > 1 or not width * height:
        raise Rejected(
            f"damaged PNG: its header says {width} × {height} pixels of {depth} bits, colour type {colour}, "
            f"interlacing {interlacing}"
        )
    return Header(width, height, depth, colour, bool(interlacing))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool | None]]:
    """Name, the chunk with its length and checksum, whether that is right; None where the file ends before it."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if not name.isalpha() or length >> 31:
            raise Rejected("damaged PNG: a chunk has no name")
        if end > len(data):
            yield name, data[at:], None
            return
        right = zlib.crc32(memoryview(data)[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        yield name, data[at:end], right
        at = end


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
