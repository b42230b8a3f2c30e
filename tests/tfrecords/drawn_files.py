"""Kinds of TIFF, GIF, BMP and WebP files: those whose pixels are whole, and those of which some are missing.

Each: a photograph of RGB → bytes.
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.tfrecords.damage import encoded

Way = Callable[[Image.Image], bytes]
Change = Callable[[bytes], bytes]
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR = (
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
    284,
)
COMPRESSIONS = {
    "raw": "RGB",
    "tiff_adobe_deflate": "RGB",
    "tiff_lzw": "RGB",
    "packbits": "RGB",
    "jpeg": "RGB",
    "lzma": "RGB",
    "zstd": "RGB",
    "tiff_ccitt": "1",
    "group3": "1",
    "group4": "1",
}


def tiff(pieces: list[bytes], tags: dict[int, tuple[int, ...]], order: str = "<") -> bytes:
    """A TIFF of strips (or tiles, where the tags have 322) and tags; those of the pieces' places are added."""
    places, out = [], bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 0))
    for piece in pieces:
        places.append(len(out))
        out += piece + b"\0" * (len(piece) & 1)
    at, length = (324, 325) if 322 in tags else (OFFSETS, COUNTS)
    tags = {at: tuple(places), length: tuple(map(len, pieces)), **tags}
    entries = b""
    for tag, values in sorted(tags.items()):
        body = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            start = len(out)
            out += body
            body = struct.pack(order + "I", start)
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + body
    struct.pack_into(order + "I", out, 4, len(out))
    return bytes(out) + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def tags_of(image: Image.Image, compression: int = 1, **others: int) -> dict[int, tuple[int, ...]]:
    samples = len(image.getbands())
    return {
        WIDTH: (image.width,),
        HEIGHT: (image.height,),
        BITS: (8,) * samples,
        COMPRESSION: (compression,),
        PHOTOMETRIC: (2 if samples == 3 else 1,),
        SAMPLES: (samples,),
        ROWS: (others.get("rows", image.height),),
    }


def strips(
    compress: Change = bytes,
    compression: int = 1,
    rows: int = 16,
    order: str = "<",
    change: Callable = lambda pieces, tags: None,
) -> Way:
    """Strips of `rows`; `change` alters the pieces and the tags in place."""

    def way(photo: Image.Image) -> bytes:
        raw, step = photo.tobytes(), photo.width * 3
        pieces = [compress(raw[top * step : (top + rows) * step]) for top in range(0, photo.height, rows)]
        tags = tags_of(photo, compression, rows=rows)
        change(pieces, tags)
        return tiff(pieces, tags, order)

    return way


def tiles(
    compress: Change = bytes, compression: int = 1, side: int = 32, change: Callable = lambda pieces, tags: None
) -> Way:
    def way(photo: Image.Image) -> bytes:
        pieces = [
            compress(photo.crop((left, top, left + side, top + side)).tobytes())
            for top in range(0, photo.height, side)
            for left in range(0, photo.width, side)
        ]
        tags = tags_of(photo, compression) | {322: (side,), 323: (side,)}
        del tags[ROWS]
        change(pieces, tags)
        return tiff(pieces, tags)

    return way


def saved(compression: str, **options) -> Way:
    """As Pillow writes it."""
    return lambda photo: encoded(photo.convert(COMPRESSIONS[compression]), "TIFF", compression=compression, **options)


def in_strip(way: Way, change: Change, number: int = -1) -> Way:
    """A strip's bytes changed in place; what `change` leaves off is left off at the end of its count."""

    def changed(photo: Image.Image) -> bytes:
        data = way(photo)
        with Image.open(io.BytesIO(data)) as image:
            tags = dict(image.tag_v2)
        start, count = tags[OFFSETS][number], tags[COUNTS][number]
        piece = change(data[start : start + count])
        assert len(piece) == count
        return data[:start] + piece + data[start + count :]

    return changed


def zeroed(start: float, end: float) -> Change:
    def change(data: bytes) -> bytes:
        low, high = int(len(data) * start), int(len(data) * end)
        return data[:low] + bytes(high - low) + data[high:]

    return change


def junk(data: bytes) -> bytes:
    at = len(data) // 3
    return data[:at] + np.random.default_rng(4).bytes(len(data) // 3) + data[at + len(data) // 3 :]


def _jpeg(raw: bytes) -> bytes:
    """Rows of the photograph's 130 pixels as a JPEG."""
    return encoded(Image.frombytes("RGB", (130, len(raw) // 390), raw), quality=90, subsampling=0)


def jpeg_strips(change: Callable = lambda pieces, tags: None) -> Way:
    def all_changes(pieces: list[bytes], tags: dict[int, tuple[int, ...]]) -> None:
        tags |= {PHOTOMETRIC: (6,), 530: (1, 1)}
        change(pieces, tags)

    return strips(_jpeg, 7, change=all_changes)


def _zstd(change: Change) -> Way:
    def way(photo: Image.Image) -> bytes:
        data = saved("zstd")(photo)
        with Image.open(io.BytesIO(data)) as image:
            start, count = image.tag_v2[OFFSETS][0], image.tag_v2[COUNTS][0]
        return tiff([change(data[start : start + count])], tags_of(photo, 50000))

    return way


def _drop(number: int) -> Callable:
    return lambda pieces, tags: pieces.pop(number)


def _set(tag: int, *values: int) -> Callable:
    return lambda pieces, tags: tags.__setitem__(tag, values)


def _piece(number: int, change: Change) -> Callable:
    return lambda pieces, tags: pieces.__setitem__(number, change(pieces[number]))


def _packed(data: bytes) -> bytes:
    """PackBits of literal runs alone."""
    return b"".join(bytes([len(data[at : at + 128]) - 1]) + data[at : at + 128] for at in range(0, len(data), 128))


def _fax(photo: Image.Image) -> Image.Image:
    """A page of text, as fax data are made for: few runs a row."""
    return photo.convert("L").resize((400, 200)).point(lambda value: 255 * (value > 120)).convert("1")


_deflate = zlib.compress


def riff(name: bytes, picture: bytes) -> bytes:
    """A WebP of one picture with sizes that are right."""
    body = name + struct.pack("<I", len(picture)) + picture + b"\0" * (len(picture) & 1)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp(lossless: bool, change: Change = bytes) -> Way:
    """The compressed data changed, behind the frame's header; the sizes in the file are right again."""

    def way(photo: Image.Image) -> bytes:
        data = encoded(photo, "WEBP", lossless=lossless, quality=80)
        length = int.from_bytes(data[16:20], "little")
        return riff(data[12:16], data[20:50] + change(data[50 : 20 + length]))

    return way


def gif(change: Change = bytes, colours: int = 256, palette: Change = bytes) -> Way:
    """The first frame's compressed data changed, then cut into blocks again."""

    def way(photo: Image.Image) -> bytes:
        data = encoded(photo.quantize(colours), "GIF")
        flags = data[10]
        end = 13 + 3 * (2 << (flags & 7))
        frame = data.index(b"\x2c", end)
        at, coded = frame + 11, b""
        while length := data[at]:
            coded += data[at + 1 : at + 1 + length]
            at += 1 + length
        coded = change(coded)
        blocks = b"".join(bytes([len(coded[i : i + 255])]) + coded[i : i + 255] for i in range(0, len(coded), 255))
        head = palette(data[:end])
        return head + data[end : frame + 11] + blocks + b"\0;"

    return way


def rle_bmp(change: Change = bytes, colours: int = 256) -> Way:
    """8-bit run lengths, a run of one pixel each."""

    def way(photo: Image.Image) -> bytes:
        image = photo.quantize(256)
        rows = [b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in np.asarray(image)[::-1]]
        body = change(b"".join(rows) + b"\0\1")
        assert image.palette is not None
        table = np.frombuffer(image.palette.palette.ljust(768, b"\0"), np.uint8).reshape(256, 3)[:colours, ::-1]
        palette = np.pad(table, ((0, 0), (0, 1))).tobytes()
        start = 54 + len(palette)
        head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
        head += struct.pack("<IiiHHIIiiII", 40, *image.size, 1, 8, 1, len(body), 0, 0, colours, 0)
        return head + palette + body

    return way


def _no_palette(head: bytes) -> bytes:
    return head[:10] + bytes([head[10] & 0x7F]) + head[11:13]


def _first_colours(head: bytes) -> bytes:
    return head[:10] + bytes([head[10] & 0xF8]) + head[11 : 13 + 6]


def _animation(kind: str) -> Way:
    return lambda photo: encoded(photo, kind, save_all=True, append_images=[photo.rotate(90), photo.rotate(180)])


WHOLE: dict[str, Way] = {
    **{f"TIFF, {name}": saved(name) for name in COMPRESSIONS},
    **{f"TIFF, {name}, strips of 16 rows": saved(name, tiffinfo={ROWS: 16}) for name in COMPRESSIONS},
    **{
        f"TIFF, {name}, odd tags": saved(name, tiffinfo={270: "?" * 99, 65000: "unknown", 306: "no date"})
        for name in COMPRESSIONS
    },
    "TIFF, JPEG of a strip each": jpeg_strips(),
    "TIFF, a zstd strip": _zstd(bytes),
    "TIFF, raw, big-endian": strips(order=">"),
    "TIFF, raw, counts of 0": strips(change=_set(COUNTS, *[0] * 7)),
    "TIFF, raw, no counts": strips(change=_set(COUNTS, 1)),
    "TIFF, raw, junk behind": lambda photo: strips()(photo) + b"junk" * 99,
    "TIFF, deflate, junk behind a strip's stream": strips(lambda raw: _deflate(raw) + b"junk", 8),
    "TIFF, deflate, the last strip filled up": strips(lambda raw: _deflate(raw.ljust(16 * 390, b"\0")), 8),
    "TIFF, PackBits of literals": strips(_packed, 32773),
    "TIFF, raw tiles": tiles(),
    "TIFF, deflate tiles": tiles(_deflate, 8),
    "TIFF, planes apart": lambda photo: tiff(
        [band.tobytes() for band in photo.split()], tags_of(photo) | {PLANAR: (2,)}
    ),
    "TIFF, deflate, planes apart": lambda photo: tiff(
        [_deflate(band.tobytes()) for band in photo.split()], tags_of(photo, 8) | {PLANAR: (2,)}
    ),
    "TIFF, two pages, the second missing": lambda photo: encoded(photo, "TIFF", save_all=True, append_images=[photo])[
        :-300
    ],
    **{
        f"TIFF, {name}, orientation {turn}": saved(name, tiffinfo={274: turn})
        for name in ("group4", "tiff_lzw")
        for turn in (3, 6, 8)
    },
    "TIFF, text by group 4": lambda photo: encoded(_fax(photo), "TIFF", compression="group4"),
    "TIFF, text by group 3": lambda photo: encoded(_fax(photo), "TIFF", compression="group3"),
    "GIF": gif(),
    "GIF of 2 colours": gif(colours=2),
    "GIF of 16 colours": gif(colours=16),
    "GIF without its end": lambda photo: gif()(photo)[:-1],
    "GIF without an end code's block": lambda photo: gif()(photo)[:-2],
    "GIF, junk behind": lambda photo: gif()(photo) + b"junk" * 99,
    "GIF, interlaced": lambda photo: encoded(photo.quantize(64), "GIF", interlace=True),
    "GIF of one colour": lambda photo: encoded(Image.new("P", (900, 700)), "GIF"),
    "GIF, an animation": _animation("GIF"),
    "GIF, an animation, later frames missing": lambda photo: _animation("GIF")(photo)[: len(gif()(photo)) * 3 // 2],
    **{
        f"BMP of {mode}": lambda photo, mode=mode: encoded(photo.convert(mode), "BMP")
        for mode in ("RGB", "L", "P", "1")
    },
    "BMP, junk behind": lambda photo: encoded(photo, "BMP") + b"junk" * 99,
    "BMP, run lengths": rle_bmp(),
    "BMP, run lengths, no end code": rle_bmp(lambda body: body[:-2]),
    "WebP": webp(False),
    "WebP, lossless": webp(True),
    "WebP, transparent": lambda photo: encoded(photo.convert("RGBA"), "WEBP", quality=70),
    "WebP, junk behind": lambda photo: webp(False)(photo) + b"junk" * 99,
    "WebP of one colour": lambda photo: encoded(Image.new("RGB", (900, 700), "white"), "WEBP"),
    "WebP of one colour, lossless": lambda photo: encoded(Image.new("RGB", (900, 700), "red"), "WEBP", lossless=True),
    "WebP of 1 pixel": lambda photo: encoded(photo.resize((1, 1)), "WEBP"),
    "WebP of 1 pixel, lossless": lambda photo: encoded(photo.resize((1, 1)), "WEBP", lossless=True),
    "WebP with EXIF": lambda photo: encoded(photo, "WEBP", exif=b"Exif\0\0junk"),
    "WebP, an animation": _animation("WEBP"),
}

DAMAGED: dict[str, Way] = {
    **{
        f"TIFF, {name}, {what}": in_strip(saved(name), change)
        for name in COMPRESSIONS
        if name not in ("raw", "zstd")
        for what, change in (
            ("its last half zeroes", zeroed(0.5, 1)),
            ("zeroes in the middle", zeroed(0.4, 0.6)),
            ("junk in the middle", junk),
        )
        # Literals, of PackBits and of zstd, are pixels as they are: others in their place are no damage that shows.
        if not (name == "packbits" and what == "junk in the middle")
    },
    **{
        f"TIFF, {name}, a strip of zeroes": in_strip(saved(name, tiffinfo={ROWS: 16}), zeroed(0, 1), 2)
        for name in COMPRESSIONS
        if name not in ("raw", "zstd")
    },
    "TIFF, raw, a strip missing": strips(change=_drop(3)),
    "TIFF, raw, a strip behind the end": strips(change=_set(OFFSETS, 8, 6248, 12488, 18728, 9_999_999, 300, 300)),
    "TIFF, raw, a strip at 0": strips(change=_set(OFFSETS, 8, 6248, 0, 12488, 18728, 300, 300)),
    "TIFF, raw, its last strip over the end": strips(change=_set(OFFSETS, 8, 8, 8, 8, 8, 8, 40_000)),
    "TIFF, raw, said to be higher": strips(change=_set(HEIGHT, 300)),
    "TIFF, deflate, a strip missing": strips(_deflate, 8, change=_drop(3)),
    "TIFF, deflate, a strip that gives fewer rows": strips(
        _deflate, 8, change=_piece(2, lambda piece: _deflate(zlib.decompress(piece)[:-9]))
    ),
    "TIFF, deflate, a strip cut off": strips(_deflate, 8, change=_piece(2, lambda piece: piece[: len(piece) // 2])),
    "TIFF, deflate, a strip without its checksum": strips(_deflate, 8, change=_piece(2, lambda piece: piece[:-4])),
    "TIFF, deflate, an empty strip": strips(_deflate, 8, change=_piece(2, lambda piece: b"")),
    "TIFF, deflate, said to be higher": strips(_deflate, 8, change=_set(HEIGHT, 300)),
    "TIFF, PackBits, a strip cut off": strips(_packed, 32773, change=_piece(4, lambda piece: piece[: len(piece) // 2])),
    "TIFF, JPEG, a strip cut off": jpeg_strips(_piece(2, lambda piece: piece[: len(piece) * 2 // 3])),
    "TIFF, JPEG, a strip missing": jpeg_strips(_drop(3)),
    "TIFF, JPEG, a strip of fewer rows": jpeg_strips(_piece(2, lambda piece: _jpeg(bytes(8 * 390)))),
    **{
        f"TIFF, zstd, cut off at {share:.0%}": _zstd(lambda data, share=share: data[: int(len(data) * share)])
        for share in (0.1, 0.5, 0.95)
    },
    "TIFF, raw, a tile missing": tiles(change=_drop(5)),
    "TIFF, deflate, a tile missing": tiles(_deflate, 8, change=_drop(5)),
    "TIFF, deflate, a tile cut off": tiles(_deflate, 8, change=_piece(5, lambda piece: piece[:99])),
    "TIFF, a plane missing": lambda photo: tiff(
        [band.tobytes() for band in photo.split()[:2]], tags_of(photo) | {PLANAR: (2,)}
    ),
    "TIFF, no palette": lambda photo: tiff(
        [photo.quantize(256).tobytes()], tags_of(photo.quantize(256)) | {PHOTOMETRIC: (3,)}
    ),
    **{
        f"TIFF, text by {name}, {what}": in_strip(
            lambda photo, name=name: encoded(_fax(photo), "TIFF", compression=name), change
        )
        for name in ("group3", "group4")
        for what, change in (
            ("its last half zeroes", zeroed(0.5, 1)),
            ("zeroes in the middle", zeroed(0.4, 0.6)),
            ("junk in the middle", junk),
        )
    },
    **{
        f"TIFF cut off at {share:.0%}": lambda photo, share=share: (lambda data: data[: int(len(data) * share)])(
            encoded(photo, "TIFF")
        )
        for share in (0.1, 0.5, 0.98)
    },
    **{
        f"GIF cut off at {share:.0%}, its blocks right": gif(
            lambda coded, share=share: coded[: int(len(coded) * share)]
        )
        for share in (0.0, 0.3, 0.9, 0.99)
    },
    "GIF cut off": lambda photo: gif()(photo)[:-900],
    "GIF, its last half zeroes": gif(zeroed(0.5, 1)),
    "GIF, zeroes in the middle": gif(zeroed(0.4, 0.6)),
    "GIF, junk in the middle": gif(junk),
    "GIF, codes missing in the middle": gif(lambda coded: coded[:999] + coded[1200:]),
    "GIF, no palette": gif(palette=_no_palette),
    "GIF, colours beyond the palette": gif(palette=_first_colours),
    "GIF, only its header": lambda photo: gif()(photo)[:800],
    "GIF, an animation cut off in its first frame": lambda photo: _animation("GIF")(photo)[: len(gif()(photo)) // 2],
    **{
        f"BMP of {mode} cut off": lambda photo, mode=mode: encoded(photo.convert(mode), "BMP")[:-40]
        for mode in ("RGB", "L", "P", "1")
    },
    "BMP, run lengths, cut off": rle_bmp(lambda body: body[: len(body) // 2]),
    "BMP, run lengths, an end code in the middle": rle_bmp(
        lambda body: body[: len(body) // 4 * 2] + b"\0\1" + body[len(body) // 4 * 2 :]
    ),
    "BMP, run lengths, zeroes in the middle": rle_bmp(lambda body: zeroed(0.4, 0.6)(body)),
    "BMP, run lengths, a jump over pixels": rle_bmp(lambda body: body[:20] + b"\0\2\x09\0" + body[40:]),
    "BMP, colours beyond the palette": rle_bmp(colours=9),
    **{
        f"WebP{', lossless' * kind}, {what}": webp(kind, change)
        for kind in (False, True)
        for what, change in (
            ("its last half zeroes", zeroed(0.5, 1)),
            ("its last tenth zeroes", zeroed(0.9, 1)),
            ("cut off, its sizes right", lambda data: data[: len(data) // 2]),
            ("its last tenth cut off, its sizes right", lambda data: data[: len(data) * 9 // 10]),
            ("zeroes in the middle", zeroed(0.4, 0.6)),
            ("junk in the middle", junk),
        )
    },
    "WebP cut off": lambda photo: webp(False)(photo)[:-400],
    "WebP, transparent, cut off": lambda photo: encoded(photo.convert("RGBA"), "WEBP", quality=70)[:-400],
    "WebP, an animation cut off in its first frame": lambda photo: _animation("WEBP")(photo)[
        : len(webp(False)(photo)) // 2
    ],
}
