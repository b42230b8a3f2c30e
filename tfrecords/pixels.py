"""Encoded image of any kind → the JPEG that is stored, or the reason why there is none.

What is done with each kind, on purpose:

- a whole JPEG, RGB or grey, upright, its shorter side at or under the target: passes byte for byte (progressive too);
- a larger one: decoded at a reduced DCT scale that still is at least the target, resized with antialiasing, encoded;
- EXIF orientation: turned upright; CMYK: converted; arithmetic coding: recoded (TensorFlow cannot read it);
- PNG, WebP, GIF (first frame), BMP, TIFF, whatever the file is called: converted; alpha and palette transparency are
  laid on white; 16-bit grey keeps its upper 8 bits; float pixels are rejected, their range is not known;
- truncated or damaged data: rejected, also where a decoder would only warn and paint the rest grey;
- more pixels than MAX_PIXELS, or a JPEG of more than MAX_SCANS scans: rejected by the header, not decoded.
"""

import io
import math
import struct
import warnings
import zlib
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import (  # Image.open does not know a kind whose plugin nobody has imported
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tfrecords.jpeg_markers import ARITHMETIC_FRAMES, START_OF_SCAN, markers

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; no camera photograph of the public sets comes near
MAX_SCANS = 64  # a progressive JPEG has about ten; each costs a pass over all coefficients
FORMATS = (  # JPEG opens MPO (a JPEG with a second picture behind it) too
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
    """What is stored for an image file.

    Args:
        data: the file, of any of FORMATS; its name's suffix plays no part.
        size_px: the shorter side of the result is at most this.
        quality: of JPEGs that are encoded here, 1 … 100.

    Raises:
        Rejected: not an image, damaged, or too large to be decoded safely.
    """
    image = opened(data)
    try:
        if image.format in ("JPEG", "MPO"):
            return _from_jpeg(data, image, size_px, quality)
        pixels = _upright(image)
        height, width = pixels.shape[:2]
        return Stored(_encode(shrink(pixels, *shrunk_size(width, height, size_px)), quality, "444"), False)
    except Rejected:
        raise
    except DECODER_ERRORS as error:
        raise Rejected(f"damaged {image.format}: {error or type(error).__name__}") from None


def read(data: bytes) -> np.ndarray:
    """An image file at its full size, by the rules of `transcode`; for those who embed images without records.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        Rejected: not an image, damaged, or too large to be decoded safely.
    """
    image = opened(data)
    try:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            _refuse_many_scans(data)
            return np.ascontiguousarray(_turn(_decode(data, image, "RGB", 1), _orientation(image)))
        pixels = _upright(image)
    except Rejected:
        raise
    except DECODER_ERRORS as error:
        raise Rejected(f"damaged {image.format}: {error}") from None
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def opened(data: bytes) -> Image.Image:
    """An image file of FORMATS by its header: size and mode are known, no pixel is decoded.

    Raises:
        Rejected: not an image, damaged, or too large to be decoded safely.
    """
    if not data:
        raise Rejected("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Rejected(f"decompression bomb: its header says more than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise Rejected(f"not an image ({_what(data)})") from None
    except Rejected:
        raise
    except DECODER_ERRORS as error:
        raise Rejected(f"damaged header: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise Rejected(
            f"decompression bomb: its header says {image.width} × {image.height} pixels, "
            f"at most {MAX_PIXELS:,} are taken"
        )
    return image


# What Pillow's plugins raise on damaged data, seen by fuzzing them.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)


def decode(encoded: bytes) -> np.ndarray:
    """A stored JPEG, every warning of the decoder an error.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        Rejected: damaged or no JPEG.
    """
    try:
        return simplejpeg.decode_jpeg(encoded)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise Rejected(f"damaged JPEG: {error}") from None
    try:
        return np.asarray(Image.open(io.BytesIO(encoded), formats=FORMATS).convert("RGB"))
    except Rejected:
        raise
    except DECODER_ERRORS as error:
        raise Rejected(f"damaged JPEG: {error}") from None


def shrunk_size(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Width and height scaled so that the shorter is `size_px`; never enlarged.

    >>> shrunk_size(1000, 500, 250), shrunk_size(100, 90, 250)
    ((500, 250), (100, 90))
    """
    factor = size_px / min(width, height)
    if factor >= 1:
        return width, height
    return max(1, round(width * factor)), max(1, round(height * factor))


def shrink(
    pixels: np.ndarray, width: int, height: int, original: tuple[float, float] | None = None
) -> np.ndarray:
    """uint8 `[H, W]` or `[H, W, 3]` → `[height, width]` or `[height, width, 3]`, antialiased.

    A Gaussian takes away what the smaller grid cannot hold, then a cubic reads it: against Pillow's antialiased
    bicubic 45 to 50 dB on detailed photographs (OpenCV's area average: 45), in half that one's time.

    Args:
        original: width and height of what `pixels` shows; may be fractions of a pixel less than they have, after a
            decode at a DCT scale, which rounds up. Taken for the whole, it would shift the far edge by up to half
            a pixel (31 dB).
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
        pixels = _upright(image)
        height, width = pixels.shape[:2]
        return Stored(_encode(shrink(pixels, *shrunk_size(width, height, size_px)), quality, "420"), False)
    turned = _orientation(image)
    width, height = shrunk_size(*image.size, size_px)
    recode = turned != 1 or not ARITHMETIC_FRAMES.isdisjoint(markers(data))
    if (width, height) == image.size and not recode:
        _decode(data, image, "GRAY", 8)  # the whole stream is read, an eighth of the pixels is made
        return Stored(data, True)
    by = reduced_by(image.size, (width, height))
    pixels = _decode(data, image, "GRAY" if image.mode == "L" else "RGB", by)
    pixels = shrink(pixels, width, height, (image.width / by, image.height / by))
    return Stored(_encode(_turn(pixels, turned), quality, "420"), False)


def _refuse_many_scans(data: bytes) -> None:
    scans = (marker for marker in markers(data) if marker == START_OF_SCAN)
    if next(islice(scans, MAX_SCANS, None), None) is not None:
        raise Rejected(f"JPEG of more than {MAX_SCANS} scans: decoding it would take too long")


def _orientation(image: Image.Image) -> int:
    """EXIF's number of how the camera was held, 1 … 8; 1 (upright) where EXIF is missing or damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
    except DECODER_ERRORS:
        return 1
    return value if value in range(1, 9) else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`[H, W, …]` as the camera stored it → upright (sides swapped for 5 … 8)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def reduced_by(original: tuple[int, int], target: tuple[int, int]) -> int:
    """By how much a JPEG is made smaller while it is decoded: 1, 2, 4 or 8.

    The reduced grid is at least as fine as the target's, so nothing that the target can hold is lost. The scales
    between (5/8 …) are slower than a full decode: libjpeg-turbo has no SIMD code for them.

    >>> reduced_by((1000, 800), (480, 384)), reduced_by((700, 500), (538, 384))
    (2, 1)
    """
    return max(
        by
        for by in (1, 2, 4, 8)
        if by == 1 or all(o >= by * t for o, t in zip(original, target, strict=True))
    )


def _decode(data: bytes, image: Image.Image, colorspace: str, by: int) -> np.ndarray:
    """uint8 `[H / by, W / by]` or `[…, 3]`, rounded up; any warning of the decoder is an error."""
    width, height = (-(-side // by) for side in image.size)
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace, min_height=height, min_width=width)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise Rejected(f"damaged JPEG: {error}") from None
        # simplejpeg knows the usual chroma samplings only; Pillow takes the others, as large as they are.
        return cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return pixels[..., 0] if colorspace == "GRAY" else pixels


def _upright(image: Image.Image) -> np.ndarray:
    """Any mode → uint8 `[H, W]` or `[H, W, 3]`, turned as its EXIF says, transparency on white."""
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


def _encode(pixels: np.ndarray, quality: int, subsampling: str) -> bytes:
    pixels = np.ascontiguousarray(pixels)
    if max(pixels.shape[:2]) > 65500:
        raise Rejected(f"{pixels.shape[1]} × {pixels.shape[0]} pixels: longer than a JPEG can be")
    if pixels.ndim == 2:
        return simplejpeg.encode_jpeg(pixels[..., None], quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", subsampling)


def _what(data: bytes) -> str:
    if not any(data[:4096]):
        return "zeroes"
    head = data[:64].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page or SVG"
    return f"begins with {data[:8].hex(' ')}"
