"""An image file of any kind → the JPEG that is stored, or the reason why it is rejected.

- a whole JPEG, RGB or grey, upright, its shorter side at most the target: stored byte for byte (progressive too);
- a larger JPEG: decoded at a reduced DCT scale that is still at least the target, resized with antialiasing, encoded;
- EXIF orientation: turned upright; CMYK: converted; arithmetic coding: recoded (TensorFlow cannot read it);
- PNG, WebP, GIF (first frame), BMP, TIFF, whatever the file's name: converted; alpha and palette transparency go on
  white; 16-bit grey keeps its upper 8 bits; float pixels are rejected, since their range is not known;
- truncated or damaged data: rejected, also where a decoder would only warn and paint the rest grey;
- more pixels than MAX_PIXELS, or a JPEG of more than MAX_SCANS scans: rejected by the header, not decoded.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from pipeline.errors import reason
from tfrecords.jpeg_markers import ARITHMETIC_FRAMES, START_OF_SCAN, markers

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; no camera photograph of the public sets comes near
MAX_SCANS = 64  # a progressive JPEG has about ten; each costs a pass over all coefficients
# Image.open knows only kinds whose plugin is imported. JPEG opens MPO (a JPEG with a second picture behind it) too.
FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
)
MAX_BLUR_RATIO = 3.0  # beyond it an area average is as fast; larger JPEGs are reduced while they are decoded
WHITE = (255, 255, 255)

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is checked instead


class Rejected(ValueError):
    """An image that cannot be read or stored; the message is the reason, for rejects.csv."""


class Stored(NamedTuple):
    encoded: bytes  # JPEG
    passed: bool  # byte for byte


def transcode(data: bytes, size_px: int, quality: int) -> Stored:
    """The JPEG that is stored for an image file.

    Args:
        data: the file's bytes, of any of FORMATS.
        size_px: the shorter side of the result is at most this.
        quality: of JPEGs that are encoded here, 1 … 100.

    Raises Rejected: not an image, damaged, or too large to be decoded safely.
    """
    image = opened(data)
    with _errors_rejected(f"damaged {image.format}"):
        if image.format in ("JPEG", "MPO"):
            return _from_jpeg(data, image, size_px, quality)
        return Stored(_shrunk_jpeg(_upright(image), size_px, quality, "444"), False)


def read(data: bytes) -> np.ndarray:
    """Decodes an image file at its full size, by the rules of `transcode`: for images that go into no records.

    Returns uint8 `[H, W, 3]`. Raises Rejected: not an image, damaged, or too large to be decoded safely.
    """
    image = opened(data)
    with _errors_rejected(f"damaged {image.format}"):
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            _refuse_many_scans(data)
            return np.ascontiguousarray(_turn(_decode_jpeg(data, image, "RGB", 1), _orientation(image)))
        pixels = _upright(image)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def opened(data: bytes) -> Image.Image:
    """Opens an image file by its header: its size and mode are known, no pixel is decoded.

    Raises Rejected: not an image, damaged, or too large to be decoded safely.
    """
    if not data:
        raise Rejected("empty file")
    with _errors_rejected("damaged header"):
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise Rejected(f"decompression bomb: its header says more than {MAX_PIXELS:,} pixels") from None
        except Image.UnidentifiedImageError:
            raise Rejected(f"not an image ({_kind_of(data)})") from None
    if image.width * image.height > MAX_PIXELS:
        raise Rejected(
            f"decompression bomb: its header says {image.width} × {image.height} pixels, "
            f"at most {MAX_PIXELS:,} are taken"
        )
    return image


# Pillow's plugins raise these on damaged data, as fuzzing them shows.
DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError,
    ZeroDivisionError, RuntimeError, AssertionError, struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def _errors_rejected(what: str) -> Iterator[None]:
    """Turns a decoder's error into Rejected: `what: its reason`."""
    try:
        yield
    except Rejected:
        raise
    except DECODER_ERRORS as error:
        raise Rejected(f"{what}: {reason(error)}") from None


def decode_stored(encoded: bytes) -> np.ndarray:
    """Decodes a stored JPEG strictly: every warning of the decoder is an error.

    Returns uint8 `[H, W, 3]`. Raises Rejected: damaged or no JPEG.
    """
    try:
        return simplejpeg.decode_jpeg(encoded)
    except ValueError as error:
        if "subsampling" in str(error):  # simplejpeg knows only the usual ones
            return read(encoded)
        raise Rejected(f"damaged JPEG: {error}") from None


def shrunk_size(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Width and height scaled so that the shorter one is `size_px`; never enlarged.

    >>> shrunk_size(1000, 500, 250), shrunk_size(100, 90, 250)
    ((500, 250), (100, 90))
    """
    factor = size_px / min(width, height)
    if factor >= 1:
        return width, height
    return max(1, round(width * factor)), max(1, round(height * factor))


def shrink(pixels: np.ndarray, width: int, height: int, original: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 `[H, W]` or `[H, W, 3]` → `[height, width]` or `[height, width, 3]`, antialiased.

    A Gaussian removes the frequencies that the smaller grid cannot hold, then cubic interpolation samples it: 45 to 50
    dB against Pillow's antialiased bicubic on detailed photographs (OpenCV's area average: 45), in half the time.
    `original`: width and height of the picture in `pixels`, where a decode at a DCT scale has rounded its sides up:
    fractions of a pixel less than the array has. Without it the far edge would shift by up to half a pixel (31 dB).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    shown_width, shown_height = original or (pixels.shape[1], pixels.shape[0])
    ratio = min(shown_width / width, shown_height / height)
    if ratio > MAX_BLUR_RATIO:
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    sigma = 0.37 * ratio  # best of 0.35 … 0.5 on photographs and on a zone plate, for ratios 1.1 to 2.6
    side = 2 * math.ceil(2.5 * sigma) + 1
    pixels = cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    across, down = width / shown_width, height / shown_height
    return cv2.resize(pixels, None, fx=across, fy=down, interpolation=cv2.INTER_CUBIC)[:height, :width]


def _from_jpeg(data: bytes, image: Image.Image, size_px: int, quality: int) -> Stored:
    _refuse_many_scans(data)
    if image.mode not in ("RGB", "L"):  # CMYK
        return Stored(_shrunk_jpeg(_upright(image), size_px, quality, "420"), False)
    turned = _orientation(image)
    width, height = shrunk_size(*image.size, size_px)
    recode = turned != 1 or not ARITHMETIC_FRAMES.isdisjoint(markers(data))
    if (width, height) == image.size and not recode:
        _decode_jpeg(data, image, "GRAY", 8)  # reads the whole stream, computes an eighth of each side
        return Stored(data, True)
    by = reduced_by(image.size, (width, height))
    pixels = _decode_jpeg(data, image, "GRAY" if image.mode == "L" else "RGB", by)
    pixels = shrink(pixels, width, height, (image.width / by, image.height / by))
    return Stored(_encode(_turn(pixels, turned), quality, "420"), False)


def _refuse_many_scans(data: bytes) -> None:
    scans = (marker for marker in markers(data) if marker == START_OF_SCAN)
    if next(islice(scans, MAX_SCANS, None), None) is not None:
        raise Rejected(f"JPEG of more than {MAX_SCANS} scans: decoding it would take too long")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 … 8; 1 (upright) where EXIF is missing or damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
    except DECODER_ERRORS:
        return 1
    return value if value in range(1, 9) else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns `[H, W, …]` upright; an orientation of 5 … 8 swaps its sides."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def reduced_by(original: tuple[int, int], target: tuple[int, int]) -> int:
    """The factor by which a JPEG is reduced while it is decoded: 1, 2, 4 or 8.

    The reduced picture is at least as large as the target, so no detail of the target is lost. The scales in between
    (5/8 …) are slower than a full decode: libjpeg-turbo has no SIMD code for them.

    >>> reduced_by((1000, 800), (480, 384)), reduced_by((700, 500), (538, 384))
    (2, 1)
    """
    return max(by for by in (1, 2, 4, 8) if by == 1 or all(o >= by * t for o, t in zip(original, target, strict=True)))


def _decode_jpeg(data: bytes, image: Image.Image, colorspace: str, by: int) -> np.ndarray:
    """uint8 `[H / by, W / by]` or `[…, 3]`, sides rounded up; any warning of the decoder is an error."""
    width, height = (-(-side // by) for side in image.size)
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace, min_height=height, min_width=width)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise Rejected(f"damaged JPEG: {error}") from None
        # simplejpeg knows only the usual chroma samplings; Pillow decodes the others, at full size.
        return cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return pixels[..., 0] if colorspace == "GRAY" else pixels


def _upright(image: Image.Image) -> np.ndarray:
    """Decodes any mode → uint8 `[H, W]` or `[H, W, 3]`, turned upright by EXIF, transparency on white."""
    image.load()
    turned = _orientation(image)
    if image.mode == "F":
        raise Rejected("float pixels: their range is not known")
    if image.mode.startswith("I"):
        return _turn((np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8), turned)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(ground, image).convert("RGB")
    if image.mode not in ("RGB", "L"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return _turn(np.asarray(image), turned)


def _shrunk_jpeg(pixels: np.ndarray, size_px: int, quality: int, subsampling: str) -> bytes:
    height, width = pixels.shape[:2]
    return _encode(shrink(pixels, *shrunk_size(width, height, size_px)), quality, subsampling)


def _encode(pixels: np.ndarray, quality: int, subsampling: str) -> bytes:
    pixels = np.ascontiguousarray(pixels)
    if max(pixels.shape[:2]) > 65500:
        raise Rejected(f"{pixels.shape[1]} × {pixels.shape[0]} pixels: longer than a JPEG can be")
    if pixels.ndim == 2:
        return simplejpeg.encode_jpeg(pixels[..., None], quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", subsampling)


def _kind_of(data: bytes) -> str:
    """What a file that is no image seems to be."""
    if not any(data[:4096]):
        return "zeroes"
    head = data[:64].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page or SVG"
    return f"begins with {data[:8].hex(' ')}"
