"""TIFF: is every strip or tile of the first page there, and does it give every byte of its pixels?

libtiff, which decodes for Pillow, paints what is missing and passes over what a code cannot mean. So each strip is
decoded here as well, by its compression's own rule: deflate and LZMA by their checksums, LZW and PackBits by the number
of bytes they give, JPEG as a JPEG, raw data by their place in the file. Fax data (CCITT) have neither length nor
checksum, but one way only to be written: the decoded strip is encoded again and must give the same bits. Odd tags are
no matter where Pillow can open the file.
"""

import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image, ImageChops, TiffImagePlugin

from tfrecords.pixels import jpeg, lzw
from tfrecords.pixels.deflate import inflated
from tfrecords.pixels.rejected import Rejected

RAW, RLE, GROUP3, GROUP4, LZW, OLD_JPEG, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD = (
    1, 2, 3, 4, 5, 6, 7, 8, 32946, 32773, 34925, 50000,
)  # fmt: skip
FAX = {RLE: "tiff_ccitt", GROUP3: "group3", GROUP4: "group4"}
_YCBCR, _WHITE_IS_ZERO, _PLANES_APART = 6, 0, 2
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))

_TURNED_BACK = {  # orientation → what undoes it: Pillow turns a TIFF upright as it loads it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Part(NamedTuple):
    """A strip or tile."""

    data: bytes
    rows: int  # that the picture shows
    sizes: tuple[int, ...]  # bytes of its pixels; a last strip may be filled up to a full one
    width: int
    height: int


def require_whole(data: bytes, image: Image.Image) -> dict[int, Any]:
    """Returns the first page's tags.

    Raises Rejected: a strip or tile is missing, ends early or is damaged; its compression cannot be checked.

    `image` is the opened file; fax data are checked by `require_whole_fax`, when it is decoded.
    """
    tags = _tags(image)
    compression = tags.get(259, RAW)
    if compression == OLD_JPEG:
        _require_whole_old_jpeg(data, tags)
        return tags
    if compression in FAX or compression == ZSTD:
        for _ in _parts(data, tags, compression):  # they lie within the file; libtiff refuses zstd that ends early
            pass
        return tags
    if compression not in (RAW, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA):
        raise Rejected(f"TIFF of compression {compression}: whether it is whole cannot be told")
    for number, part in enumerate(_parts(data, tags, compression)):
        try:
            _require_whole_part(part, compression, tags)
        except (zlib.error, lzma.LZMAError, Rejected) as error:
            raise Rejected(f"damaged TIFF: strip or tile {number}: {error}") from None
    return tags


def require_whole_fax(data: bytes, tags: dict[int, Any], image: Image.Image) -> None:
    """Encodes a decoded page of fax data again, strip by strip. Raises Rejected: its bits are not the file's."""
    compression = tags.get(259, RAW)
    if compression not in FAX:
        return
    bits = image.convert("1")
    if (turned := tags.get(274, 1)) in _TURNED_BACK:
        bits = bits.transpose(_TURNED_BACK[turned])
    if tags.get(262, _WHITE_IS_ZERO) == _WHITE_IS_ZERO:
        bits = ImageChops.invert(bits)
    if 322 in tags:
        raise Rejected("TIFF of fax data in tiles: whether it is whole cannot be told")
    top = 0
    for number, part in enumerate(_parts(data, tags, compression)):
        file = io.BytesIO()
        options = {278: part.rows} | ({292: tags[292]} if 292 in tags else {})
        strip = bits.crop((0, top, bits.width, top + part.rows))
        strip.save(file, "TIFF", compression=FAX[compression], tiffinfo=options)
        file.seek(0)
        with Image.open(file, formats=["TIFF"]) as again:
            (start,), (count,) = _tags(again)[273], _tags(again)[279]
        expected = file.getvalue()[start : start + count]
        if compression == GROUP4:  # its end mark may be left out: 24 bits and what fills the byte
            expected = expected[:-4]
        if not part.data.startswith(expected):
            raise Rejected(f"damaged TIFF: strip {number}: its fax codes are not those of its pixels")
        top += part.rows


def is_deep(tags: dict[int, Any]) -> bool:
    """Whether samples have 16 bits."""
    return _values(tags.get(258, 1))[0] == 16


def significant_bits(tags: dict[int, Any]) -> int | None:
    """Bits of a sample, where the file says it: fewer than 16 BitsPerSample, or a MaxSampleValue."""
    bits = _values(tags.get(258, 16))[0]
    if 281 in tags and 0 < (most := max(_values(tags[281]))) < 65536:
        bits = min(bits, most.bit_length())
    return bits if (258 in tags and bits < 16) or 281 in tags else None


def _tags(image: Image.Image) -> dict[int, Any]:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return dict(image.tag_v2)


def _values(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def _parts(data: bytes, tags: dict[int, Any], compression: int) -> Iterator[Part]:
    """The strips or tiles in order, each plane's after the other's. Raises Rejected: fewer than the picture needs."""
    width, height = tags[256], tags[257]
    samples = tags.get(277, 1)
    bits = _values(tags.get(258, 1))
    bits = bits * samples if len(bits) == 1 else bits[:samples]
    planes = samples if tags.get(284, 1) == _PLANES_APART else 1
    tiled = 324 in tags
    part_width = tags[322] if tiled else width
    part_height = tags[323] if tiled else min(tags.get(278, height), height) or height
    across, down = -(-width // part_width), -(-height // part_height)
    offsets = _values(tags[324 if tiled else 273])
    counts = _values(tags.get(325 if tiled else 279, ()))
    if len(offsets) < across * down * planes:
        raise Rejected(f"damaged TIFF: {len(offsets)} of {across * down * planes} strips or tiles")
    for number in range(across * down * planes):
        plane, place = divmod(number, across * down)
        top = place // across * part_height
        rows = min(part_height, height - top)
        per_pixel = bits[plane] if planes > 1 else sum(bits)

        def size(of_rows: int, per_pixel: int = per_pixel) -> int:
            if tags.get(262) == _YCBCR and planes == 1 and compression != JPEG:
                h, v = _values(tags.get(530, (2, 2)))[:2]
                return -(-part_width // h) * -(-of_rows // v) * (h * v + 2)
            return of_rows * -(-part_width * per_pixel // 8)

        sizes = (size(part_height),) if tiled else (size(rows), size(part_height))
        # Raw data are read by their size, whatever the tag says; a count that is missing reaches to the end.
        count = sizes[0] if compression == RAW else counts[number] if number < len(counts) else len(data)
        start = offsets[number]
        if start <= 0 or start >= len(data) or count <= 0:
            raise Rejected(f"damaged TIFF: strip or tile {number} lies behind the end of the file or is empty")
        found = data[start : start + count]
        if tags.get(266, 1) == 2 and compression not in (RAW, JPEG):
            found = found.translate(_REVERSED)
        yield Part(found, rows, sizes, part_width, part_height if tiled else rows)


def _require_whole_part(part: Part, compression: int, tags: dict[int, Any]) -> None:
    least, most = min(part.sizes), max(part.sizes)
    if compression in (DEFLATE, OLD_DEFLATE):
        given, ended = inflated(part.data, most + 65536)
        if not ended or given < least:
            raise Rejected(f"the data give {given:,} of {least:,} bytes" if given < least else "no checksum at its end")
    elif compression == LZW:
        old = part.data[0] == 0 and part.data[1:2] > b"\0" and part.data[1] & 1
        lzw.require_whole(part.data, part.sizes, lsb=bool(old), early=0 if old else 1)
    elif compression == LZMA:
        stream = lzma.LZMADecompressor()
        given = len(stream.decompress(part.data, most))
        if given < least:
            raise Rejected(f"the data give {given:,} of {least:,} bytes")
        if not stream.eof:
            stream.decompress(b"", 1)  # its checksum stands behind the last byte
        if not stream.eof:
            raise Rejected("no checksum at its end")
    elif compression == PACKBITS:
        if (given := _unpacked(part.data, most)) not in part.sizes:
            raise Rejected(f"the data give {given:,} of {least:,} bytes")
    elif compression == JPEG:
        _require_whole_jpeg(part, tags.get(347, b""))
    elif len(part.data) < least:
        raise Rejected(f"{len(part.data):,} of {least:,} bytes are in the file")


def _unpacked(data: bytes, most: int) -> int:
    """Bytes that PackBits data give; one more than `most` where they go on behind them."""
    at = given = 0
    while at < len(data):
        head = data[at]
        if head == 128:
            at += 1
        elif given >= most:
            return most + 1
        elif head < 128:
            given += min(head + 1, len(data) - at - 1)
            at += head + 2
        else:
            given += 257 - head if at + 1 < len(data) else 0
            at += 2
    return given


def _require_whole_jpeg(part: Part, tables: bytes) -> None:
    """A strip of JPEG is a JPEG whose tables stand in a tag."""
    stream = tables[:-2] + part.data[2:] if tables else part.data
    require_whole_jpeg(stream, (part.width, part.rows))


def _require_whole_old_jpeg(data: bytes, tags: dict[int, Any]) -> None:
    """The first kind of JPEG in TIFF: where the tags name one whole JPEG, that is checked."""
    start, count = (_values(tags.get(tag, 0))[0] for tag in (513, 514))
    stream = data[start : start + count] if count else data[start:]
    if not start or stream[:2] != b"\xff\xd8" or b"\xff\xda" not in stream:
        raise Rejected("TIFF of old JPEG compression in pieces: whether it is whole cannot be told")
    require_whole_jpeg(stream, (tags[256], tags[257]))


def require_whole_jpeg(stream: bytes, least: tuple[int, int]) -> None:
    """Raises Rejected: damaged, or smaller than `least` (width, height)."""
    with Image.open(io.BytesIO(stream), formats=["JPEG"]) as image:
        if image.width < least[0] or image.height < least[1]:
            raise Rejected(f"a JPEG of {image.width} × {image.height} pixels for {least[0]} × {least[1]}")
        jpeg.decode(stream, image.size, "CMYK" if image.mode == "CMYK" else "GRAY", 8)
