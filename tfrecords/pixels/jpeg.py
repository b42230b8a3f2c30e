"""JPEG: decoded strictly, so that nothing is painted grey; what is no pixel (metadata, stray bytes) is left aside.

A stream that libjpeg-turbo decodes without a warning is whole. Where it warns, the stream is built anew from what makes
the pixels (tables, frame, scans) and decoded strictly again: a wrong ICC chunk, JFIF version or Adobe code, stray bytes
before a marker and a missing end mark fall away, missing or broken scan data does not.

Not told apart: a flipped bit may leave a stream that decodes to the right number of blocks without a warning, since a
JPEG has no checksum. Bytes left over behind the last block are the trace of such a bit, so they are damage, unless they
are zeroes that fill a file up.
"""

import io
import re
from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from tfrecords.pixels import jpeg_huffman
from tfrecords.pixels.jpeg_markers import (
    APP0,
    APP14,
    COMMENT,
    END_OF_IMAGE,
    FRAMES,
    HUFFMAN_TABLES,
    PROGRESSIVE_FRAMES,
    QUANTISERS,
    RESTART_INTERVAL,
    SEQUENTIAL_FRAMES,
    START_OF_SCAN,
    Segment,
    markers,
    segments,
)
from tfrecords.pixels.rejected import Rejected

MAX_SCANS = 64  # a progressive JPEG has about ten; each costs a pass over all coefficients
PASSED_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # Huffman-coded DCT: what every TensorFlow decodes
_ARITHMETIC_TABLES = 0xCC
_KEPT = FRAMES | {HUFFMAN_TABLES, QUANTISERS, RESTART_INTERVAL, START_OF_SCAN, _ARITHMETIC_TABLES}
_AHEAD_BYTES = 8  # what the decoder has read ahead it does not count
_STANDARD_SHORTEST = 0x01  # of luma, where a file has no tables: a coefficient of one bit
_ZEROES = bytes(32)
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def decode(data: bytes, size: tuple[int, int], colorspace: str, by: int) -> tuple[np.ndarray, bytes]:
    """Decodes a JPEG of `size` (width, height) at 1 / `by` of its sides, strictly.

    Returns the pixels (uint8 `[H / by, W / by]` of GRAY, `[…, 3]` of RGB, `[…, 4]` of CMYK; sides rounded up) and the
    stream that decodes without a warning: `data` itself, or what `bare` made of it.
    Raises Rejected: damaged, scans missing, too many scans.
    """
    require_all_scans(data)
    if _ZEROES in data:
        _refuse_zeroes(data)
    try:
        return _strictly(data, size, colorspace, by), data
    except ValueError as error:
        problem = error
    stream = bare(data)
    try:
        return _strictly(stream, size, colorspace, by), stream
    except ValueError as error:
        problem = error
    if "subsampling" in str(problem):
        return _unusually_sampled(stream, size, colorspace, by), stream
    for filled in _without_filling(stream, problem):
        with suppress(ValueError):
            return _strictly(filled, size, colorspace, by), filled
    raise Rejected(f"damaged JPEG: {problem}")


def recoding_needed(data: bytes) -> bool:
    """Whether TensorFlow cannot read the frame (arithmetic coding, lossless)."""
    return not PASSED_FRAMES.issuperset(FRAMES.intersection(markers(data)))


def bare(data: bytes) -> bytes:
    """The stream of the same picture from its tables, frame, scans and colour transform alone, with an end mark.

    Raises Rejected: a marker that no decoder knows.
    """
    parts, found = [b"\xff\xd8"], list(segments(data))
    jfif = any(one.marker == APP0 and data[one.start + 4 : one.start + 9] == b"JFIF\0" for one in found)
    parts += [b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"] * jfif
    if (transform := _adobe_transform(data, found)) is not None:
        parts.append(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]))
    sequential = any(one.marker in SEQUENTIAL_FRAMES for one in found)
    for one, following in zip(found, [*found[1:], None], strict=True):
        body = data[one.start : one.end]
        if one.marker == START_OF_SCAN:
            if sequential:  # a decoder reads all coefficients whatever the header says; it warns
                body = body[:-3] + b"\0\x3f\0"
            coded = data[one.end : following.start if following else len(data)].rstrip(b"\xff")
            parts += [body, coded]
        elif one.marker in _KEPT:
            parts.append(body)
        elif one.marker != END_OF_IMAGE and not (APP0 <= one.marker <= 0xEF or one.marker == COMMENT):
            raise Rejected(f"damaged JPEG: marker {one.marker:02x} is unknown")
    return b"".join((*parts, b"\xff\xd9"))


def require_all_scans(data: bytes) -> None:
    """Raises Rejected where the scans leave out a component or, of a progressive JPEG, a coefficient's last bits.

    No decoder warns: it shows the component grey and the picture coarse.
    """
    frame, components, scans = 0, b"", 0
    missing: dict[int, set[int]] = {}  # of each component: the coefficients whose last bit has not come
    for one in segments(data):
        if one.marker in FRAMES and not frame:
            frame = one.marker
            components = data[one.start + 10 : one.end : 3]
            per_component = range(64 if frame in PROGRESSIVE_FRAMES else 1)
            missing = {component: set(per_component) for component in components}
        elif one.marker == START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise Rejected(f"JPEG of more than {MAX_SCANS} scans: decoding it would take too long")
            head = data[one.start + 4 : one.end]
            first, last, bits = (head[-3], head[-2], head[-1] & 15) if len(head) >= 6 else (0, 0, 1)
            for component in head[1:-3:2]:
                if frame not in PROGRESSIVE_FRAMES:
                    missing.get(component, set()).clear()
                elif bits == 0:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    if scans and len(set(components)) == len(components) and any(missing.values()):
        what = "coefficients" if frame in PROGRESSIVE_FRAMES else "colour components"
        raise Rejected(f"damaged JPEG: scans are missing, {what} never come")


def _refuse_zeroes(data: bytes) -> None:
    """Raises Rejected where zeroes stand for a scan's data: by its Huffman table they are coefficients without end.

    Where the code of zeroes ends a block, they may be a plain surface, and too many of them are left over at the end.
    """
    shortest = dict.fromkeys(range(4), _STANDARD_SHORTEST)  # of the tables for AC: the symbol of a code of zeroes
    progressive = False
    found = list(segments(data))
    for one, following in zip(found, [*found[1:], None], strict=True):
        head = data[one.start + 4 : one.end]
        if one.marker in FRAMES:
            progressive = one.marker in PROGRESSIVE_FRAMES
        elif one.marker == HUFFMAN_TABLES:
            at = 0
            while at + 17 < len(head):
                if head[at] >> 4:
                    shortest[head[at] & 15] = head[at + 17]
                at += 17 + sum(head[at + 1 : at + 17])
        elif one.marker == START_OF_SCAN and len(head) >= 6:
            coefficients = not progressive or (head[-3] > 0 and not head[-1] >> 4)
            coded = data[one.end : following.start if following else len(data)].rstrip(b"\0")
            if coefficients and _ZEROES in coded and shortest.get(head[2] & 15, 0) & 15:
                raise Rejected("damaged JPEG: zeroes stand for a part of its data")


def _strictly(data: bytes, size: tuple[int, int], colorspace: str, by: int) -> np.ndarray:
    """Raises ValueError with the decoder's first warning."""
    width, height = (-(-side // by) for side in size)
    pixels = simplejpeg.decode_jpeg(data, colorspace, min_height=height, min_width=width)
    return pixels[..., 0] if colorspace == "GRAY" else pixels


def _unusually_sampled(stream: bytes, size: tuple[int, int], colorspace: str, by: int) -> np.ndarray:
    """simplejpeg knows only the usual chroma samplings: the scans are walked, Pillow decodes them at full size."""
    jpeg_huffman.require_whole_scans(stream)
    with Image.open(io.BytesIO(stream)) as image:
        pixels = np.asarray(image.convert({"GRAY": "L"}.get(colorspace, colorspace)))
    width, height = (-(-side // by) for side in size)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _without_filling(stream: bytes, problem: ValueError) -> Iterator[bytes]:
    """The stream without the zeroes before its end mark, where these were left over: with none, one, two of them.

    Zeroes decode as blocks, too: where many of them were decoded, they may stand for lost data, and nothing is given.
    """
    left_over = _LEFT_OVER.search(str(problem))
    coded = stream[:-2].rstrip(b"\0")
    zeroes = len(stream) - 2 - len(coded)
    if left_over is not None and int(left_over[1]) <= zeroes <= int(left_over[1]) + _AHEAD_BYTES:
        for kept in range(3):  # the last byte of the blocks may be a zero
            yield coded + bytes(kept) + b"\xff\xd9"


def _adobe_transform(data: bytes, found: list[Segment]) -> int | None:
    """0: the components are RGB or CMYK; 1: YCbCr; 2: YCCK. None without a whole Adobe segment."""
    transform = None
    components = 3
    for one in found:
        if one.marker in FRAMES:
            components = data[one.start + 9] if one.start + 9 < len(data) else 3
        if one.marker == APP14 and data[one.start + 4 : one.start + 9] == b"Adobe" and one.end - one.start >= 16:
            transform = data[one.start + 15]
    if transform is None or transform in (0, 1, 2):
        return transform
    return 1 if components == 3 else 2  # what decoders take an unknown code for
