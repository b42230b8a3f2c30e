"""An image file of any kind → the JPEG that is stored, or the reason why it is rejected.

- a whole JPEG, RGB or grey, upright, its shorter side at most the target: stored byte for byte (progressive too); one
  that decoders warn of, though its pixels are whole: its tables, frame and scans alone;
- a larger JPEG: decoded at a reduced DCT scale that is still at least the target, resized with antialiasing, encoded;
- EXIF orientation: turned upright; CMYK: converted; arithmetic coding: recoded (TensorFlow cannot read it);
- PNG, WebP, GIF (first frame), BMP, TIFF (first page), whatever the file's name: converted; alpha and palette
  transparency go on white; 16-bit samples keep the upper 8 of the bits they use (depth.py); float and 32-bit pixels
  are rejected, since their range is not known;
- missing or damaged pixels: rejected, also where a decoder would only warn and paint the rest grey or black. Each kind
  of file has its module that says when its pixels are whole; damage elsewhere (metadata, profiles, behind the picture)
  is no matter;
- more pixels than MAX_PIXELS, or a JPEG of more than MAX_SCANS scans: rejected by the header, not decoded.
"""

import io
import warnings
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from tfrecords.pixels import bmp, gif, jpeg, png, tiff, webp
from tfrecords.pixels.depth import to_eight_bits, used_bits
from tfrecords.pixels.rejected import DECODER_ERRORS, Rejected, errors_rejected
from tfrecords.pixels.resizing import reduced_by, shrink, shrunk_size

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; no camera photograph of the public sets comes near
# Image.open knows only kinds whose plugin is imported. JPEG opens MPO (a JPEG with a second picture behind it) too.
FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
)
WHITE = (255, 255, 255)

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is checked instead


class Stored(NamedTuple):
    encoded: bytes  # JPEG
    passed: bool  # byte for byte


def transcode(found: bytes, size_px: int, quality: int) -> Stored:
    """The JPEG that is stored for an image file.

    Args:
        found: the file's bytes, of any of FORMATS.
        size_px: the shorter side of the result is at most this.
        quality: of JPEGs that are encoded here, 1 … 100.

    Raises Rejected: not an image, damaged, or too large to be decoded safely.
    """
    image, data = _opened(found)
    with errors_rejected(f"damaged {image.format}"):
        if image.format in ("JPEG", "MPO"):
            return _from_jpeg(found, data, image, size_px, quality)
        return Stored(_shrunk_jpeg(_upright(data, image), size_px, quality, "444"), False)


def read(data: bytes) -> np.ndarray:
    """Decodes an image file at its full size, by the rules of `transcode`: for images that go into no records.

    Returns uint8 `[H, W, 3]`. Raises Rejected: not an image, damaged, or too large to be decoded safely.
    """
    image, data = _opened(data)
    with errors_rejected(f"damaged {image.format}"):
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            decoded, _ = jpeg.decode(data, image.size, "RGB", 1)
            return np.ascontiguousarray(_turn(decoded, _orientation(image)))
        pixels = _upright(data, image)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def opened(data: bytes) -> Image.Image:
    """Opens an image file by its header: its size and mode are known, no pixel is decoded.

    Raises Rejected: not an image, damaged, or too large to be decoded safely.
    """
    return _opened(data)[0]


def _opened(data: bytes) -> tuple[Image.Image, bytes]:
    """The opened image, and the file: of a JPEG that Pillow opens only without its metadata, the bare one."""
    if not data:
        raise Rejected("empty file")
    with errors_rejected("damaged header"):
        try:
            image, data = _open(data)
        except Image.DecompressionBombError:
            raise Rejected(f"decompression bomb: its header says more than {MAX_PIXELS:,} pixels") from None
        except Image.UnidentifiedImageError:
            raise Rejected(f"not an image ({_kind_of(data)})") from None
    if image.width * image.height > MAX_PIXELS:
        raise Rejected(
            f"decompression bomb: its header says {image.width} × {image.height} pixels, "
            f"at most {MAX_PIXELS:,} are taken"
        )
    return image, data


def _open(data: bytes) -> tuple[Image.Image, bytes]:
    """Image.open on what makes the pixels: bad metadata are no reason to fail."""
    if data.startswith(png.SIGNATURE):
        return Image.open(io.BytesIO(png.bare(png.parse(data))), formats=FORMATS), data
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS), data
    except DECODER_ERRORS:
        if not data.startswith(b"\xff\xd8"):
            raise
        with suppress(*DECODER_ERRORS):
            stream = jpeg.bare(data)
            return Image.open(io.BytesIO(stream), formats=FORMATS), stream
        raise


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


def _from_jpeg(found: bytes, data: bytes, image: Image.Image, size_px: int, quality: int) -> Stored:
    """`found`: the file; `data`: the file, or what `_opened` made of it."""
    if image.mode not in ("RGB", "L"):  # CMYK
        return Stored(_shrunk_jpeg(_upright(data, image), size_px, quality, "420"), False)
    turned = _orientation(image)
    width, height = shrunk_size(*image.size, size_px)
    if (width, height) == image.size and turned == 1 and not jpeg.recoding_needed(data):
        # Reads the whole stream, computes an eighth of each side.
        _, stream = jpeg.decode(data, image.size, "GRAY", 8)
        return Stored(stream, stream is found)
    by = reduced_by(image.size, (width, height))
    pixels, _ = jpeg.decode(data, image.size, "GRAY" if image.mode == "L" else "RGB", by)
    pixels = shrink(pixels, width, height, (image.width / by, image.height / by))
    return Stored(_encode(_turn(pixels, turned), quality, "420"), False)


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


def _upright(data: bytes, image: Image.Image) -> np.ndarray:
    """Decodes any mode → uint8 `[H, W]` or `[H, W, 3]`, turned upright by EXIF, transparency on white.

    Raises Rejected: the pixels are not whole, or of an unknown range.
    """
    image, declared_bits, deep = _loaded(data, image)
    turned = _orientation(image)
    if image.mode == "F":
        raise Rejected("float pixels: their range is not known")
    if image.mode.startswith("I"):
        return _turn(to_eight_bits(np.asarray(image).astype(np.int64), declared_bits), turned)
    if deep is not None and (narrow := _narrow_colours(deep, declared_bits)) is not None:
        image = narrow
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(ground, image).convert("RGB")
    if image.mode not in ("RGB", "L"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return _turn(np.asarray(image), turned)


def _loaded(data: bytes, image: Image.Image) -> tuple[Image.Image, int | None, bytes | None]:
    """Checks that the pixels are whole, by the rules of the file's kind, and decodes them.

    Returns the loaded image; the bits of a sample that the file says to use; the file, where it has colours of 16 bits,
    of which Pillow keeps the upper 8. Raises Rejected.
    """
    match image.format:
        case "JPEG" | "MPO":  # CMYK
            _, stream = jpeg.decode(data, image.size, "CMYK", 8)
            if stream is not data:
                image = Image.open(io.BytesIO(stream), formats=FORMATS)
            image.load()
        case "PNG":
            parsed = png.whole(png.parse(data))
            stream = png.bare(parsed)
            image = Image.open(io.BytesIO(stream), formats=FORMATS)
            image.load()
            if parsed.palette and image.mode == "P":
                gif.require_colours(image, (0, 0, *image.size), parsed.palette, "PNG")
            deep = parsed.header.depth == 16 and image.mode in ("RGB", "RGBA", "LA")
            return image, 16 if parsed.has_sbit else None, stream if deep else None
        case "GIF":
            colours = gif.require_whole(data)
            frame = image.tile[0][1]  # type: ignore[attr-defined]
            image.load()
            gif.require_colours(image, frame, colours, "GIF")
        case "BMP":
            bmp.require_whole(data, image.size)
            image.load()
            if image.mode == "P":
                gif.require_colours(image, (0, 0, *image.size), bmp.colours(data), "BMP")
        case "TIFF":
            tags = tiff.require_whole(data, image)
            image.load()
            tiff.require_whole_fax(data, tags, image)
            deep = tiff.is_deep(tags) and image.mode in ("RGB", "RGBA")
            return image, tiff.significant_bits(tags), data if deep else None
        case "WEBP":
            webp.require_whole(data)
            image.load()
    return image, None, None


def _narrow_colours(data: bytes, declared_bits: int | None) -> Image.Image | None:
    """Colours of 16 bits of which fewer are used, scaled to 8; None where all are used, or cv2 cannot decode them."""
    pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if (
        pixels is None
        or pixels.dtype != np.uint16
        or pixels.ndim != 3
        or used_bits(int(pixels[..., :3].max()), declared_bits) == 16
    ):
        return None
    colours = to_eight_bits(pixels[..., 2::-1], declared_bits)
    if pixels.shape[2] == 4:
        colours = np.concatenate([colours, (pixels[..., 3:] >> 8).astype(np.uint8)], axis=2)
    return Image.fromarray(np.ascontiguousarray(colours))


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
