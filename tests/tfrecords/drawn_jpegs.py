"""Kinds of JPEG files, drawn from a whole one: those whose pixels are whole, and those of which some are missing.

The kinds are those of Pillow's test images, of libjpeg-turbo's warnings and of files in the wild. Whether pixels are
missing is known from how a kind is drawn. Each: a whole baseline JPEG of three components → bytes.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.tfrecords.damage import encoded, many_scans

Way = Callable[[bytes], bytes]
SOS, DHT, DQT, SOF, EOI = b"\xff\xda", b"\xff\xc4", b"\xff\xdb", b"\xff\xc0", b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def parts(data: bytes) -> tuple[list[bytes], bytes]:
    """The segments from SOI to SOS of a JPEG of one scan, and its compressed data without EOI."""
    found, at = [data[:2]], 2
    while True:
        assert data[at] == 0xFF, "not a clean JPEG"
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(data[at:end])
        at = end
        if found[-1].startswith(SOS):
            assert data.endswith(EOI)
            return found, data[at:-2]


def joined(segments: list[bytes], coded: bytes) -> bytes:
    return b"".join(segments) + coded + EOI


def before(marker: bytes, what: bytes) -> Way:
    """`what` before the first segment of a marker; it may go before several, the last of them first."""

    def way(data: bytes) -> bytes:
        at = data.index(marker)
        return data[:at] + what + data[at:]

    return way


def first(what: bytes) -> Way:
    return lambda data: data[:2] + what + data[2:]


def without(marker: bytes) -> Way:
    return lambda data: joined([one for one in parts(data)[0] if not one.startswith(marker)], parts(data)[1])


def with_coded(change: Callable[[bytes], bytes]) -> Way:
    """The compressed data changed."""
    return lambda data: joined(parts(data)[0], change(parts(data)[1]))


def with_segment(marker: bytes, change: Callable[[bytes], bytes]) -> Way:
    def way(data: bytes) -> bytes:
        segments, coded = parts(data)
        return joined([change(one) if one.startswith(marker) else one for one in segments], coded)

    return way


def again(**options) -> Callable[[Way], Way]:
    """The picture encoded with other options before it goes another way."""
    return lambda way: lambda data: way(encoded(Image.open(io.BytesIO(data)), quality=85, **options))


def with_frame(at: int, value: bytes) -> Way:
    """Bytes of the frame header changed, counted from its marker."""
    return with_segment(SOF, lambda one: one[:at] + value + one[at + len(value) :])


def cut(share: float, end: bytes = b"") -> Way:
    """Only a share of the compressed data; `end`: what stands behind."""
    return lambda data: b"".join(parts(data)[0]) + parts(data)[1][: int(len(parts(data)[1]) * share)] + end


def in_scans(samplings: list[tuple[int, int]], left_out: int | None = None) -> Way:
    """A scan a component, each of any sampling: three grey JPEGs in one frame."""

    def way(data: bytes) -> bytes:
        planes = Image.open(io.BytesIO(data)).convert("YCbCr").split()
        across, down = (max(factors) for factors in zip(*samplings, strict=True))
        width, height = planes[0].size
        frame = struct.pack(">BHHB", 8, height, width, 3)
        head, scans = [], b""
        for number, (plane, (h, v)) in enumerate(zip(planes, samplings, strict=True)):
            size = (-(-width * h // across), -(-height * v // down))
            segments, coded = parts(encoded(plane.resize(size), quality=90))
            head = head or [one for one in segments if one.startswith((DQT, DHT))]
            frame += bytes([number + 1, h * 16 + v, 0])
            if number != left_out:
                scans += segment(0xDA, bytes([1, number + 1, 0, 0, 63, 0])) + coded
        return b"\xff\xd8" + segment(0xC0, frame) + b"".join(head) + scans + EOI

    return way


def _restarts(change: Callable[[bytes], bytes]) -> Way:
    return again(restart_marker_blocks=4)(with_coded(change))


def _scans_left(count: int, end: bytes = EOI) -> Way:
    """A progressive JPEG that ends at the border of two scans."""

    def way(data: bytes) -> bytes:
        at = -1
        for _ in range(count + 1):
            at = data.index(SOS, at + 1)
        tables = data.rindex(DHT, 0, at) if data[:at].rfind(DHT) > data[:at].rfind(SOS) else at
        return data[:tables] + end

    return again(progressive=True)(way)


def _icc(number: int, count: int, size: int = 300) -> bytes:
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + bytes(range(256))[:size])


_exif = b"Exif\0\0II*\0\x08\0\0\0"
_second_table = segment(0xC4, b"\x01" + bytes([0, 1, *[0] * 14]) + b"\0")


def _cmyk(way: Way) -> Way:
    return lambda data: way(encoded(Image.open(io.BytesIO(data)).convert("CMYK"), quality=85))


WHOLE: dict[str, Way] = {
    "untouched": lambda data: data,
    "stray bytes before the first marker": first(b"\x12\x34\x56"),
    "FF 00 before a marker": before(DQT, b"\xff\0\xff\0"),
    "stray bytes before the quantisers": before(DQT, b"junk of 20 bytes ..."),
    "stray bytes before the frame": before(SOF, b"\0\0\0"),
    "stray bytes before the Huffman tables": before(DHT, bytes(range(64))),
    "stray bytes before the scan": before(SOS, b"\xfe\0\x7f"),
    "stray bytes at three places": lambda data: before(DQT, b"1")(before(DHT, b"22")(before(SOS, b"333")(data))),
    "fill bytes before every segment": lambda data: joined(
        [data[:2], *(b"\xff\xff" + one for one in parts(data)[0][1:])], parts(data)[1]
    ),
    "fill bytes before its end": lambda data: data[:-2] + b"\xff\xff\xff" + EOI,
    "TEM and restart markers in the header": before(DQT, b"\xff\x01\xff\xd0"),
    "ICC profile of a wrong count": first(_icc(1, 3)),
    "ICC profile twice number one": first(_icc(1, 2) + _icc(1, 2)),
    "ICC profile of number 0 of 0": first(_icc(0, 0)),
    "ICC profile of which the second part is missing": first(_icc(1, 2)),
    "ICC profile cut off": first(segment(0xE2, b"ICC_PROFILE\0")),
    "ICC profile behind the frame": before(DHT, _icc(1, 1)),
    "ICC profile that is junk": first(_icc(1, 1)),
    "EXIF cut off": first(segment(0xE1, _exif[:9])),
    "EXIF of a bad directory": first(segment(0xE1, _exif + b"\xff\xff" + b"\x12\x01" * 20)),
    "EXIF twice": first(segment(0xE1, _exif + b"\0\0\0\0\0\0") * 2),
    "EXIF of orientation 77": first(segment(0xE1, _exif + b"\1\0\x12\1\3\0\1\0\0\0\x4d\0\0\0\0\0\0\0")),
    "XMP that is no XML": first(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + bytes(40))),
    "XMP without its prefix": first(segment(0xE1, b"<?xpacket begin=''?>")),
    "a comment that is no text": first(segment(0xFE, bytes(range(128, 256)) * 200)),
    "an empty comment": first(segment(0xFE, b"")),
    "Photoshop's segment cut off": first(segment(0xED, b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\xff\xff")),
    "JFIF of version 9": with_segment(b"\xff\xe0", lambda one: one[:9] + b"\x09" + one[10:]),
    "JFIF cut off": with_segment(b"\xff\xe0", lambda one: segment(0xE0, one[4:11])),
    "JFIF that promises a thumbnail": with_segment(b"\xff\xe0", lambda one: one[:16] + b"\x40\x40" + one[18:]),
    "no JFIF": without(b"\xff\xe0"),
    "Adobe of an unknown transform": lambda data: first(segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07"))(
        without(b"\xff\xe0")(data)
    ),
    "Adobe cut off": first(segment(0xEE, b"Adobe\0")),
    "a bad MPO header": first(segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")),
    "no end mark": lambda data: data[:-2],
    "half an end mark": lambda data: data[:-1],
    "no end mark, filled up with zeroes": lambda data: data[:-2] + bytes(3000),
    "zeroes before its end mark": lambda data: data[:-2] + bytes(500) + EOI,
    "junk behind its end": lambda data: data + b"\xff\xda\xff\xc4junk" * 99,
    "a second picture behind its end": lambda data: data + data,
    "zeroes behind its end": lambda data: data + bytes(4096),
    "Huffman tables twice": lambda data: joined(
        [*parts(data)[0][:-1], *_tables(data), parts(data)[0][-1]], parts(data)[1]
    ),
    "no Huffman tables, a frame of Motion JPEG": without(DHT),
    "a Huffman table that is not used": before(SOS, segment(0xC4, b"\x03" + bytes([0, 1, *[0] * 14]) + b"\0")),
    "quantisers twice": lambda data: before(SOS, next(one for one in parts(data)[0] if one.startswith(DQT)))(data),
    "quantisers of 16 bits": with_segment(
        DQT, lambda one: segment(0xDB, bytes([one[4] | 16]) + b"".join(bytes([0, value]) for value in one[5:69]))
    ),
    "a restart interval of 0": before(SOS, segment(0xDD, b"\0\0")),
    "a restart marker behind the last block": lambda data: data[:-2] + b"\xff\xd0" + EOI,
    "restart markers": again(restart_marker_blocks=3)(lambda data: data),
    "restart markers and stray bytes in the header": again(restart_marker_blocks=3)(before(SOS, b"stray")),
    "progressive": again(progressive=True)(lambda data: data),
    "progressive, stray bytes": again(progressive=True)(first(b"stray")),
    "progressive, no end mark": again(progressive=True)(lambda data: data[:-2]),
    "progressive, a wrong ICC count": again(progressive=True)(first(_icc(1, 3))),
    "a scan header of coefficients 0 to 0": with_segment(SOS, lambda one: one[:-3] + b"\0\0\0"),
    "Huffman tables of its own": again(optimize=True)(lambda data: data),
    "CMYK": _cmyk(lambda data: data),
    "CMYK, stray bytes": _cmyk(before(SOS, b"stray")),
    "CMYK of JFIF and Adobe, stray bytes": _cmyk(
        lambda data: first(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"))(before(SOS, b"stray")(data))
    ),
    "CMYK, no end mark": _cmyk(lambda data: data[:-2]),
    "4:4:4": again(subsampling=0)(before(DQT, b"stray")),
    "4:2:2": again(subsampling=1)(before(DQT, b"stray")),
    "a scan a component": in_scans([(1, 1), (1, 1), (1, 1)]),
    "unusual sampling 2×2, 2×1, 1×2": in_scans([(2, 2), (2, 1), (1, 2)]),
    "unusual sampling 3×1": in_scans([(3, 1), (1, 1), (1, 1)]),
    "unusual sampling, sharper colours": in_scans([(1, 1), (2, 2), (1, 1)]),
    "unusual sampling, a wrong ICC count": lambda data: first(_icc(1, 3))(in_scans([(4, 2), (1, 1), (1, 1)])(data)),
}


def _tables(data: bytes) -> list[bytes]:
    return [one for one in parts(data)[0] if one.startswith(DHT)]


def _zeroed(coded: bytes) -> bytes:
    middle = len(coded) // 2
    return coded[:middle] + bytes(200) + coded[middle + 200 :]


def _zeroes_at(coded: bytes, share: float) -> bytes:
    at = int(len(coded) * share)
    return coded[:at] + bytes(150) + coded[at + 150 :]


def _junk(coded: bytes) -> bytes:
    middle = len(coded) // 3
    junk = np.random.default_rng(5).bytes(150).replace(b"\xff", b"\xfe")
    return coded[:middle] + junk + coded[middle + 150 :]


DAMAGED: dict[str, Way] = {
    **{f"cut off at {share:.0%}": cut(share) for share in (0.0, 0.02, 0.3, 0.6, 0.9, 0.99)},
    **{f"cut off at {share:.0%}, an end mark put on": cut(share, EOI) for share in (0.0, 0.3, 0.9, 0.99)},
    "its second half zeroes": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "its last tenth zeroes": lambda data: data[: len(data) * 9 // 10] + bytes(len(data) // 10),
    "its last tenth zeroes, own tables": again(optimize=True)(
        lambda data: data[: len(data) * 9 // 10] + bytes(len(data) // 10)
    ),
    "its last tenth zeroes, an end mark": lambda data: data[: len(data) * 9 // 10] + bytes(len(data) // 10) + EOI,
    "zeroes in the middle": with_coded(_zeroed),
    **{
        f"150 zeroes at {share:.0%}, {'own' if own else 'usual'} tables": again(optimize=own)(
            with_coded(lambda coded, share=share: _zeroes_at(coded, share))
        )
        for share in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
        for own in (False, True)
    },
    "junk in the middle": with_coded(_junk),
    "bytes missing in the middle": with_coded(lambda coded: coded[: len(coded) // 2] + coded[len(coded) // 2 + 300 :]),
    "bytes twice in the middle": with_coded(lambda coded: coded[: len(coded) // 2] + coded[len(coded) // 3 :]),
    "an end mark in the middle": with_coded(lambda coded: coded[: len(coded) // 2] + EOI + coded[len(coded) // 2 :]),
    "a marker in the middle": with_coded(
        lambda coded: coded[: len(coded) // 2] + b"\xff\xc4\0\2" + coded[len(coded) // 2 :]
    ),
    "a restart marker missing": _restarts(lambda coded: coded.replace(b"\xff\xd1", b"", 1)),
    "a restart interval missing": _restarts(
        lambda coded: coded[: coded.index(b"\xff\xd1")] + coded[coded.index(b"\xff\xd2") :]
    ),
    "restart markers of wrong numbers": _restarts(lambda coded: coded.replace(b"\xff\xd2", b"\xff\xd5")),
    "restart markers without an interval": again(restart_marker_blocks=4)(without(b"\xff\xdd")),
    "an interval without restart markers": before(SOS, segment(0xDD, b"\0\4")),
    "a component's scan missing": in_scans([(1, 1), (1, 1), (1, 1)], left_out=2),
    "the first component's scan missing": in_scans([(2, 2), (1, 1), (1, 1)], left_out=0),
    "unusual sampling, a scan missing": in_scans([(2, 2), (2, 1), (1, 2)], left_out=1),
    "unusual sampling, cut off": lambda data: in_scans([(2, 2), (2, 1), (1, 2)])(data)[:-400] + EOI,
    "unusual sampling, zeroes in the middle": lambda data: _in_third(
        in_scans([(3, 1), (1, 1), (1, 1)])(data), bytes(99)
    ),
    **{f"progressive, {count} scans": _scans_left(count) for count in (1, 3, 5, 9)},
    **{f"progressive, {count} scans, no end mark": _scans_left(count, b"") for count in (1, 6, 9)},
    "progressive, cut off": again(progressive=True)(lambda data: data[: len(data) * 2 // 3]),
    "progressive, cut off, an end mark put on": again(progressive=True)(lambda data: data[: len(data) * 2 // 3] + EOI),
    "progressive, zeroes in the middle": again(progressive=True)(lambda data: _in_third(data, bytes(200))),
    "said to be higher": with_frame(5, struct.pack(">H", 900)),
    "said to be wider": with_frame(7, struct.pack(">H", 900)),
    "said to be lower": with_frame(5, struct.pack(">H", 24)),
    "said to be of height 0": with_frame(5, b"\0\0"),
    "said to have one component": with_frame(9, b"\1"),
    "said to have 12 bits": with_frame(4, b"\x0c"),
    "of another sampling": again(subsampling=2)(with_frame(11, b"\x11")),
    "no quantisers": without(DQT),
    "the symbols of a Huffman table turned round": lambda data: data.replace(
        _tables(data)[1], _tables(data)[1][:21] + _tables(data)[1][:20:-1], 1
    ),
    "a Huffman table of too many codes": with_segment(DHT, lambda one: one[:5] + b"\xff" + one[6:]),
    "Huffman tables of its own missing": again(optimize=True)(without(DHT)),
    "CMYK, cut off": _cmyk(cut(0.7, EOI)),
    "CMYK, zeroes in the middle": _cmyk(with_coded(_zeroed)),
    "no frame": without(SOF),
    "no scan": lambda data: b"".join(parts(data)[0][:-1]) + EOI,
    "two frames": lambda data: before(DHT, next(one for one in parts(data)[0] if one.startswith(SOF)))(data),
    "a segment longer than the file": first(b"\xff\xe1\xff\xff"),
    "only its header": lambda data: data[:200],
    "a thousand scans": lambda data: many_scans(data, np.random.default_rng(0)),
}


def _in_third(data: bytes, what: bytes) -> bytes:
    at = len(data) // 3
    return data[:at] + what + data[at + len(what) :]
