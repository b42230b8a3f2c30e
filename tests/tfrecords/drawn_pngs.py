"""Kinds of PNG files, drawn chunk by chunk: those whose pixels are whole, and those of which some are missing.

The kinds are those of PngSuite (named in brackets), of Pillow's test images and of files in the wild. Each: a
photograph of RGB → bytes.
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Way = Callable[[Image.Image], bytes]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB, GREY, PALETTE, GREY_ALPHA, RGBA = 2, 0, 3, 4, 6
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
MODES = {RGB: "RGB", GREY: "L", GREY_ALPHA: "LA", RGBA: "RGBA"}


def chunk(name: bytes, body: bytes, wrong: bool = False) -> bytes:
    """`wrong`: its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ wrong)


def samples(image: Image.Image, colour: int, depth: int) -> np.ndarray:
    """`[H, W, samples]` of `depth` bits."""
    if colour == PALETTE:
        return np.asarray(image.quantize(min(1 << depth, 256))).reshape(image.height, image.width, 1)
    values = np.asarray(image.convert(MODES[colour])).reshape(image.height, image.width, -1).astype(np.uint32)
    return values * 257 if depth == 16 else values >> 8 - depth


def rows(values: np.ndarray, depth: int, filtering: int = 0) -> bytes:
    """The rows as they are compressed; of the filters, those that need no neighbour above the first row."""
    out = b""
    for row in values:
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
            packed = np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
        if filtering == 1:
            step = max(1, values.shape[2] * depth // 8)
            now = np.frombuffer(packed, np.uint8)
            packed = (now - np.concatenate([np.zeros(step, np.uint8), now[:-step]])).astype(np.uint8).tobytes()
        out += bytes([filtering]) + packed
    return out


def raw_data(values: np.ndarray, depth: int, interlaced: bool, filtering: int = 0) -> bytes:
    if not interlaced:
        return rows(values, depth, filtering)
    passes = (values[top::down, left::across] for left, top, across, down in ADAM7)
    return b"".join(rows(part, depth) for part in passes if part.size)


def drawn(
    colour: int = RGB,
    depth: int = 8,
    interlaced: bool = False,
    *,
    size: tuple[int, int] | None = None,
    filtering: int = 0,
    data: Callable[[bytes], bytes] = zlib.compress,
    idats: Callable[[bytes], list[bytes]] = lambda body: [chunk(b"IDAT", body)],
    before: bytes = b"",
    behind: bytes = b"",
    end: bytes = chunk(b"IEND", b""),
    palette: Callable[[bytes], bytes] = lambda colours: chunk(b"PLTE", colours),
    header: Callable[[bytes], bytes] = lambda body: chunk(b"IHDR", body),
) -> Way:
    """A PNG of the photograph; each part may be changed.

    `data` compresses the rows; `idats` makes the data's chunks; `before` and `behind` stand around them.
    """

    def way(photo: Image.Image) -> bytes:
        image = photo if size is None else photo.resize(size)
        body = struct.pack(">IIBBBBB", *image.size, depth, colour, 0, 0, interlaced)
        out = SIGNATURE + header(body)
        if colour == PALETTE:
            colours = image.quantize(min(1 << depth, 256)).palette
            assert colours is not None
            out += palette(colours.palette)
        packed = data(raw_data(samples(image, colour, depth), depth, interlaced, filtering))
        return out + before + b"".join(idats(packed)) + behind + end

    return way


def _pieces(size: int) -> Callable[[bytes], list[bytes]]:
    return lambda body: [chunk(b"IDAT", body[at : at + size]) for at in range(0, len(body), size)]


KINDS = [
    (c, d, i)
    for c, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16)))
    for d in depths
    for i in (False, True)
]

WHOLE: dict[str, Way] = {
    **{f"colour type {c}, {d} bits{', interlaced' * i} [bas{'in'[not i]}{c}]": drawn(c, d, i) for c, d, i in KINDS},
    **{
        f"{side} pixels a side, {'interlaced' if i else 'in rows'} [s{side:02}]": drawn(
            PALETTE, 4, i, size=(side, side)
        )
        for side in (1, 2, 3, 5, 7, 9, 33)
        for i in (False, True)
    },
    **{
        f"compressed at level {level} [z{level:02}]": drawn(data=lambda raw, level=level: zlib.compress(raw, level))
        for level in (0, 3, 6, 9)
    },
    "rows filtered [f01]": drawn(filtering=1),
    "data in chunks of a byte [oi9]": drawn(size=(32, 32), idats=_pieces(1)),
    "data in chunks of 1,000 bytes [oi4]": drawn(idats=_pieces(1000)),
    "empty data chunks": drawn(
        idats=lambda body: [chunk(b"IDAT", one) for one in (b"", body[:99], b"", body[99:], b"")]
    ),
    "a text chunk between the data": drawn(
        idats=lambda body: [chunk(b"IDAT", body[:500]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", body[500:])]
    ),
    "text of a wrong checksum": drawn(before=chunk(b"tEXt", b"Title\0x", wrong=True)),
    "gamma of a wrong checksum": drawn(before=chunk(b"gAMA", bytes(4), wrong=True)),
    "a profile of a wrong checksum": drawn(before=chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(99)), wrong=True)),
    "a profile that does not inflate": drawn(before=chunk(b"iCCP", b"icc\0\0junk")),
    "a profile of another compression": drawn(before=chunk(b"iCCP", b"icc\0\7junk")),
    "gamma of 0 bytes": drawn(before=chunk(b"gAMA", b"")),
    "sRGB, pHYs, cHRM of wrong lengths": drawn(
        before=b"".join(chunk(name, b"\1\2") for name in (b"sRGB", b"pHYs", b"cHRM"))
    ),
    "compressed text that does not inflate": drawn(before=chunk(b"zTXt", b"a\0\0junk")),
    "compressed text that is a bomb": drawn(before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70 << 20)))),
    "international text cut off": drawn(before=chunk(b"iTXt", b"a\0\1")),
    "EXIF that is junk": drawn(before=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "a chunk nobody knows": drawn(before=chunk(b"abCd", b"?" * 99)),
    "transparency of a wrong checksum": drawn(before=chunk(b"tRNS", bytes(6), wrong=True)),
    "transparency longer than the palette": drawn(PALETTE, 2, before=chunk(b"tRNS", b"\xff" * 200)),
    "a suggested palette [ps1]": drawn(before=chunk(b"PLTE", bytes(range(30)))),
    "a suggested palette behind the data": drawn(behind=chunk(b"PLTE", bytes(30))),
    "significant bits [cs3]": drawn(before=chunk(b"sBIT", b"\3\3\3")),
    "a histogram, a time [ch1, cm0]": drawn(
        PALETTE, 8, before=chunk(b"hIST", bytes(512)) + chunk(b"tIME", b"\7\xd0\1\1\0\0\0")
    ),
    "a background [bg]": drawn(RGBA, before=chunk(b"bKGD", bytes(6))),
    "text behind the data of a wrong checksum": drawn(behind=chunk(b"tEXt", b"a\0b", wrong=True)),
    "junk behind its end": drawn(end=chunk(b"IEND", b"") + b"junk" * 500),
    "zeroes behind its end": drawn(end=chunk(b"IEND", b"") + bytes(4096)),
    "no end chunk": drawn(end=b""),
    "half an end chunk": drawn(end=b"\0\0\0\0IE"),
    "an end chunk of a wrong checksum": drawn(end=chunk(b"IEND", b"", wrong=True)),
    "its last checksum missing": drawn(idats=lambda body: [chunk(b"IDAT", body)[:-4]], end=b""),
    "zlib's checksum missing": drawn(data=lambda raw: zlib.compress(raw)[:-4]),
    "cut off within zlib's checksum": drawn(
        data=lambda raw: zlib.compress(raw)[:-2], idats=lambda body: [chunk(b"IDAT", body + bytes(2))[:-6]], end=b""
    ),
    "junk behind the stream": drawn(data=lambda raw: zlib.compress(raw) + b"junk" * 9),
    "more rows than promised": drawn(data=lambda raw: zlib.compress(raw + bytes(5000))),
    "an animation, its second frame damaged": drawn(
        before=chunk(b"acTL", struct.pack(">II", 2, 0)), behind=chunk(b"fcTL", b"??") + chunk(b"fdAT", b"\0\0\0\1junk")
    ),
    "an animation of a wrong count": drawn(before=chunk(b"acTL", b"\xff" * 8)),
}


def _changed(at: int, value: int, wrong: bool = False) -> Callable[[bytes], bytes]:
    """A byte of the header changed; `wrong`: its checksum as well."""
    return lambda body: chunk(b"IHDR", body[:at] + bytes([value]) + body[at + 1 :], wrong)


def _then(way: Way, change: Callable[[bytes], bytes]) -> Way:
    return lambda photo: change(way(photo))


def _zeroed(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes(100) + data[at + 100 :]


DAMAGED: dict[str, Way] = {
    **{
        f"cut off at {share:.0%}, colour type {c}, {d} bits{', interlaced' * i}": _then(
            drawn(c, d, i, size=(45, 31)), lambda data, share=share: data[: int(len(data) * share)]
        )
        for c, d, i in KINDS
        for share in (0.3, 0.6, 0.8)
    },
    **{
        f"a stream of {share:.0%} of the rows, colour type {c}, {d} bits{', interlaced' * i}": drawn(
            c, d, i, size=(45, 31), data=lambda raw, share=share: zlib.compress(raw[: int(len(raw) * share)])
        )
        for c, d, i in KINDS
        for share in (0.0, 0.5, 0.99)
    },
    "a stream without its last byte of a row": drawn(data=lambda raw: zlib.compress(raw[:-1])),
    "a stream that ends early, its chunks right": drawn(data=lambda raw: zlib.compress(raw)[: len(raw) // 5]),
    "an interlaced stream that ends early, its chunks right": drawn(
        interlaced=True, data=lambda raw: zlib.compress(raw)[: len(raw) // 5]
    ),
    "zeroes in the middle": _then(drawn(), _zeroed),
    "zeroes in the middle, its chunks right": drawn(data=lambda raw: _zeroed(zlib.compress(raw))),
    "its second half zeroes": _then(drawn(), lambda data: data[: len(data) // 2] + bytes(len(data) // 2)),
    "its last 12 bytes before the end zeroes": _then(drawn(), lambda data: data[:-24] + bytes(24)),
    "zlib's checksum wrong, its chunks right": drawn(
        data=lambda raw: zlib.compress(raw)[:-1] + bytes([zlib.compress(raw)[-1] ^ 1])
    ),
    "other rows under zlib's checksum": drawn(
        data=lambda raw: zlib.compress(raw, 0)[:900] + b"??" + zlib.compress(raw, 0)[902:]
    ),
    "a data chunk missing": drawn(
        idats=lambda body: [one for number, one in enumerate(_pieces(1000)(body)) if number != 3]
    ),
    "data chunks in another order": drawn(idats=lambda body: _pieces(1000)(body)[::-1]),
    "no data [xdt]": drawn(idats=lambda body: []),
    "empty data": drawn(idats=lambda body: [chunk(b"IDAT", b"")]),
    "data of a wrong checksum [xcs]": drawn(idats=lambda body: [chunk(b"IDAT", body, wrong=True)]),
    "a header of a wrong checksum [xhd]": drawn(header=lambda body: chunk(b"IHDR", body, wrong=True)),
    "no header": drawn(header=lambda body: b""),
    "a header of 12 bytes": drawn(header=lambda body: chunk(b"IHDR", body[:12])),
    "colour type 1 [xc1]": drawn(header=_changed(9, 1)),
    "colour type 9 [xc9]": drawn(header=_changed(9, 9)),
    "0 bits [xd0]": drawn(header=_changed(8, 0)),
    "3 bits [xd3]": drawn(header=_changed(8, 3)),
    "99 bits [xd9]": drawn(header=_changed(8, 99)),
    "another compression": drawn(header=_changed(10, 1)),
    "another filtering": drawn(header=_changed(11, 9)),
    "interlacing 3": drawn(header=_changed(12, 3)),
    "said to be interlaced, of half the width": drawn(
        header=lambda body: chunk(b"IHDR", body[:3] + bytes([255]) + body[4:])
    ),
    "said to be higher": drawn(header=_changed(6, 9)),
    "width 0": drawn(header=lambda body: chunk(b"IHDR", bytes(4) + body[4:])),
    "no palette": drawn(PALETTE, 8, palette=lambda colours: b""),
    "a palette behind the data": drawn(PALETTE, 8, palette=lambda colours: b"", behind=chunk(b"PLTE", bytes(768))),
    "a palette of a wrong checksum": drawn(PALETTE, 8, palette=lambda colours: chunk(b"PLTE", colours, wrong=True)),
    "a palette of 0 colours": drawn(PALETTE, 4, palette=lambda colours: chunk(b"PLTE", b"")),
    **{
        f"{depth} bits, colours beyond the palette": drawn(
            PALETTE, depth, palette=lambda colours: chunk(b"PLTE", colours[:3])
        )
        for depth in (1, 2, 4, 8)
    },
    "the first byte of another bit [xs1]": _then(drawn(), lambda data: b"\x09" + data[1:]),
    "its signature in lower case [xs4]": _then(drawn(), lambda data: data.replace(b"PNG", b"png", 1)),
    "line ends changed [xlf]": _then(drawn(), lambda data: data.replace(b"\r\n", b"\n")),
    "line ends added [xcr]": _then(drawn(), lambda data: data.replace(b"\n", b"\r\n")),
    "a filter that is not": drawn(data=lambda raw: zlib.compress(b"\x09" + raw[1:])),
    "a critical chunk nobody knows": drawn(before=chunk(b"CgBI", bytes(4))),
    "not a zlib stream": drawn(data=lambda raw: raw),
}
