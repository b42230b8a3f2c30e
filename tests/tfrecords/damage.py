"""Ways to damage an image file, for the tests of the build. Each: (whole JPEG, random generator) → bytes."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Way = Callable[[bytes, np.random.Generator], bytes]


def photograph(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colours with edges and grain: what JPEG was made for."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[: height // 3, width // 4 : width // 2] = rng.integers(0, 256, 3)
    pixels += rng.integers(-6, 7, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _truncated(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(1, len(data))]


def _flipped_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(0, len(data), 8):
        changed[at] ^= int(rng.integers(1, 256))
    return bytes(changed)


def _flipped_bit(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def _zeroed_middle(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(2, len(data) - 64))
    return data[:start] + bytes(64) + data[start + 64 :]


def _deleted_middle(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(2, len(data) - 64))
    return data[:start] + data[start + 40 :]


def _inserted_junk(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(2, len(data)))
    return data[:start] + rng.bytes(50) + data[start:]


def _said_to_be(side: int) -> Way:
    """The frame header's height and width changed, the pixels left."""

    def way(data: bytes, rng: np.random.Generator) -> bytes:
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]

    return way


def png_bomb(side: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes whose header promises `side`² pixels."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(10_000))) + part(b"IEND", b"")
    )


def many_scans(data: bytes, rng: np.random.Generator) -> bytes:
    """A progressive JPEG whose last scan is repeated a thousand times."""
    with Image.open(io.BytesIO(data)) as image:
        progressive = encoded(image, progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return progressive[:-2] + scan * 1000 + b"\xff\xd9"


def _as(kind: str, part: float, **options) -> Way:
    """The image as another kind of file, of which a share of the bytes is kept."""

    def way(data: bytes, rng: np.random.Generator) -> bytes:
        with Image.open(io.BytesIO(data)) as image:
            other = encoded(image, kind, **options)
        return other[: int(len(other) * part)]

    return way


def _png_flipped(data: bytes, rng: np.random.Generator) -> bytes:
    return _flipped_bytes(_as("PNG", 1.0)(data, rng), rng)


WAYS: dict[str, Way] = {
    "truncated": _truncated,
    "only a header": lambda data, rng: data[:200],
    "empty": lambda data, rng: b"",
    "bytes flipped": _flipped_bytes,
    "a bit flipped": _flipped_bit,
    "zeroes in the middle": _zeroed_middle,
    "zeroes at the end": lambda data, rng: data[: len(data) // 2] + bytes(len(data) // 2),
    "all zeroes": lambda data, rng: bytes(len(data)),
    "bytes missing": _deleted_middle,
    "junk in the middle": _inserted_junk,
    "random bytes": lambda data, rng: rng.bytes(len(data)),
    "a web page": lambda data, rng: b"<!DOCTYPE html><html><body>404</body></html>",
    "a bomb in PNG": lambda data, rng: png_bomb(),
    "a bomb in JPEG": _said_to_be(65_000),
    "said to be larger": _said_to_be(4_000),
    "said to be smaller": _said_to_be(16),
    "a thousand scans": many_scans,
    "PNG cut off": _as("PNG", 0.6),
    "PNG bytes flipped": _png_flipped,
    "WebP cut off": _as("WEBP", 0.5),
    "GIF cut off": _as("GIF", 0.5),
    "TIFF cut off": _as("TIFF", 0.3),
}

# Ways that may strike what no decoder looks at: a comment, a quantiser, a pixel's value. All others must be rejected.
MAY_GO_UNNOTICED = frozenset(
    (
        "bytes flipped",
        "a bit flipped",
        "zeroes in the middle",
        "bytes missing",
        "junk in the middle",
        "PNG bytes flipped",
    )
)

HARMLESS: dict[str, Way] = {  # these must be stored
    "whole": lambda data, rng: data,
    "PNG called .jpg": _as("PNG", 1.0),
    "WebP called .jpg": _as("WEBP", 1.0, lossless=True),
    "GIF called .jpg": _as("GIF", 1.0),
    "junk behind its end": lambda data, rng: data + rng.bytes(100),
    "without its last byte": lambda data, rng: data[:-1],
}
