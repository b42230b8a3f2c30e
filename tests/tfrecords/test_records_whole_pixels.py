"""Are the pixels whole? No image with missing pixels is stored, none with whole pixels refused.

The kinds are drawn (drawn_jpegs.py, drawn_pngs.py, drawn_files.py), so whether pixels are missing is known from how a
kind is made, never from the code under test.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.tfrecords import drawn_files, drawn_jpegs, drawn_pngs
from tests.tfrecords.damage import encoded, photograph
from tfrecords.pixels import Rejected, decode_stored, jpeg_huffman, read, transcode
from tfrecords.pixels.depth import used_bits

WIDTH, HEIGHT = 130, 97


def photo(seed: int = 7) -> Image.Image:
    return photograph(seed, WIDTH, HEIGHT)


def jpeg(seed: int = 7) -> bytes:
    return encoded(photograph(seed, 230, 170), quality=85)


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def refused(data: bytes) -> str:
    """The reason; checks that `transcode` at two sizes and `read` agree. Empty where the image is taken."""
    reasons = set()
    for way in (lambda: transcode(data, 500, 95), lambda: transcode(data, 40, 95), lambda: read(data)):
        try:
            way()
        except Rejected as error:
            reasons.add(str(error))
        else:
            reasons.add("")
    assert len(reasons) == 1 or "" not in reasons, f"taken by one, refused by another: {reasons}"
    reason = max(reasons)
    assert "\n" not in reason
    return reason


@pytest.mark.faults("JPEG of missing pixels")
def test_no_jpeg_of_missing_pixels_is_stored(tried):
    stored = [name for name, way in drawn_jpegs.DAMAGED.items() if not refused(way(jpeg()))]
    tried(len(drawn_jpegs.DAMAGED))
    assert not stored


@pytest.mark.faults("JPEG of whole pixels")
def test_a_jpeg_of_whole_pixels_is_stored_and_its_pixels_stay(tried):
    """Pillow decodes what is stored as it decodes the file; the strict decoder does not warn of it any more."""
    tried(len(drawn_jpegs.WHOLE))
    wrong = []
    for name, way in drawn_jpegs.WHOLE.items():
        data = way(jpeg())
        if reason := refused(data):
            wrong.append((name, reason))
            continue
        stored = transcode(data, 500, 95)
        assert not stored.passed or stored.encoded == data
        try:
            near = pixels_of(data)
        except OSError:  # Pillow opens no file of stray bytes behind SOI, or without its end
            near = pixels_of(jpeg())
        found = decode_stored(stored.encoded).astype(int)
        if found.shape != near.shape or abs(found - near).mean() > (1 if "CMYK" in name else 0.2):
            wrong.append((name, "other pixels"))
    assert not wrong


@pytest.mark.faults("JPEG of whole pixels")
def test_tensorflow_decodes_what_is_stored_as_pillow_does(tried):
    import tensorflow as tf

    for name, way in drawn_jpegs.WHOLE.items():
        stored = transcode(way(jpeg()), 500, 95).encoded
        by_tensorflow = tf.io.decode_jpeg(stored, channels=3, dct_method="INTEGER_ACCURATE").numpy().astype(int)
        assert abs(by_tensorflow - pixels_of(stored)).mean() < 1, name
    tried(len(drawn_jpegs.WHOLE))


@pytest.mark.faults("JPEG of missing pixels")
def test_a_walk_of_the_huffman_codes_agrees_with_the_strict_decoder(tried):
    rng, refusals = np.random.default_rng(1), 0
    for number in range(60):
        options = {"restart_marker_blocks": 5} if number % 3 == 0 else {}
        data = encoded(photograph(number, 64, 48), quality=80, subsampling=number % 3, **options)
        segments, coded = drawn_jpegs.parts(data)
        if number % 2:
            at = int(rng.integers(0, len(coded) - 60))
            coded = coded[:at] + rng.bytes(50).replace(b"\xff", b"\0") + coded[at + 50 :]
        stream = drawn_jpegs.joined(segments, coded)
        try:
            simplejpeg.decode_jpeg(stream)
            whole = True
        except ValueError:
            whole = False
        try:
            jpeg_huffman.require_whole_scans(stream)
            assert whole, number
        except Rejected:
            assert not whole, number
            refusals += 1
    tried(60)
    assert refusals >= 20


@pytest.mark.faults("PNG of missing pixels")
def test_no_png_of_missing_pixels_is_stored(tried):
    stored = [name for name, way in drawn_pngs.DAMAGED.items() if not refused(way(photo()))]
    tried(len(drawn_pngs.DAMAGED))
    assert not stored


@pytest.mark.faults("PNG of whole pixels")
def test_a_png_of_whole_pixels_is_stored(tried):
    wrong = {name: reason for name, way in drawn_pngs.WHOLE.items() if (reason := refused(way(photo())))}
    tried(len(drawn_pngs.WHOLE))
    assert not wrong


@pytest.mark.parametrize("colour,depth,interlaced", drawn_pngs.KINDS)
def test_a_png_of_any_kind_has_the_pixels_it_was_drawn_of(colour: int, depth: int, interlaced: bool):
    found = read(drawn_pngs.drawn(colour, depth, interlaced)(photo())).astype(int)
    if colour == drawn_pngs.PALETTE:
        expected = np.asarray(photo().quantize(min(1 << depth, 256)).convert("RGB")).astype(int)
    else:
        values = drawn_pngs.samples(photo(), colour, depth)
        bands = values[..., :3] if values.shape[2] >= 3 else values[..., :1]  # alpha is 255 throughout
        expected = np.broadcast_to(bands * 255 // ((1 << depth) - 1), found.shape)
    assert abs(found - expected).max() <= 1


@pytest.mark.faults("PNG of missing pixels")
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_flipped_bit_of_a_png_is_refused_or_changes_no_pixel(interlaced: bool, tried):
    data = drawn_pngs.drawn(interlaced=interlaced, before=drawn_pngs.chunk(b"tEXt", b"a\0b" * 9))(photo())
    whole, rng, taken = read(data), np.random.default_rng(2), 0
    for at in [*range(60), *range(len(data) - 30, len(data)), *rng.integers(60, len(data) - 30, 110).tolist()]:
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        if not refused(bytes(changed)):
            taken += 1
            assert (read(bytes(changed)) == whole).all(), at
    tried(200)
    assert 0 < taken < 60  # those of the text and of the end chunk


@pytest.mark.faults("TIFF of missing pixels")
@pytest.mark.parametrize("way", [drawn_files.strips, drawn_files.tiles])
def test_a_flipped_bit_of_a_deflated_tiff_is_refused_or_changes_no_pixel(way, tried):
    data = way(zlib.compress, 8)(photo())
    whole, rng = read(data), np.random.default_rng(3)
    with Image.open(io.BytesIO(data)) as image:
        end = max(image.tag_v2.get(273) or image.tag_v2.get(324))
    for at in rng.integers(8, end, 120).tolist():
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        assert refused(bytes(changed)) or (read(bytes(changed)) == whole).all(), at
    tried(120)


@pytest.mark.faults("TIFF, GIF, BMP, WebP of missing pixels")
def test_no_other_file_of_missing_pixels_is_stored(tried):
    stored = [name for name, way in drawn_files.DAMAGED.items() if not refused(way(photo()))]
    tried(len(drawn_files.DAMAGED))
    assert not stored


@pytest.mark.faults("TIFF, GIF, BMP, WebP of whole pixels")
def test_other_files_of_whole_pixels_are_stored_with_the_pixels_they_have(tried):
    tried(len(drawn_files.WHOLE))
    wrong = []
    for name, way in drawn_files.WHOLE.items():
        data = way(photo())
        if reason := refused(data):
            wrong.append((name, reason))
            continue
        image = Image.open(io.BytesIO(data))
        image.load()
        if abs(read(data) - np.asarray(image.convert("RGB")).astype(int)).max() > 0:
            wrong.append((name, "other pixels"))
    assert not wrong


@pytest.mark.faults("16-bit pixels")
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colour", [drawn_pngs.GREY, drawn_pngs.RGB, drawn_pngs.GREY_ALPHA, drawn_pngs.RGBA])
def test_sixteen_bit_samples_are_scaled_by_the_bits_they_use(bits: int, colour: int):
    bands = 1 if colour in (drawn_pngs.GREY, drawn_pngs.GREY_ALPHA) else 3
    ramp = np.linspace(0, (1 << bits) - 1, 48 * 64 * bands).astype(np.uint32).reshape(48, 64, bands)
    alpha = np.full((48, 64, 1), 65535, np.uint32)
    values = np.concatenate([ramp, alpha], axis=2) if colour in (4, 6) else ramp
    header = drawn_pngs.chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, colour, 0, 0, 0))
    body = drawn_pngs.chunk(b"IDAT", zlib.compress(drawn_pngs.rows(values, 16)))
    data = drawn_pngs.SIGNATURE + header + body
    assert (read(data) == np.broadcast_to(ramp >> bits - 8, (48, 64, 3))).all()
    said = drawn_pngs.chunk(b"sBIT", b"\x0c" * values.shape[2])  # a PNG that says so is scaled to all 16 bits
    says = read(drawn_pngs.SIGNATURE + header + said + body)
    assert (says == np.broadcast_to(ramp >> 8, (48, 64, 3))).all()


@pytest.mark.faults("16-bit pixels")
@pytest.mark.parametrize("bits", [8, 12, 14, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_tiff_of_sixteen_bits_is_scaled_by_the_bits_it_uses_or_says(bits: int, order: str, bands: int):
    ramp = np.linspace(0, (1 << bits) - 1, 48 * 64 * bands).astype(np.uint16).reshape(48, 64, bands)
    tags = {256: (64,), 257: (48,), 258: (16,) * bands, 259: (1,), 262: (2 if bands == 3 else 1,), 277: (bands,)}
    piece = ramp.astype(order + "u2").tobytes()
    found = read(drawn_files.tiff([piece], tags | {278: (48,)}, order))
    assert (found == np.broadcast_to(ramp >> bits - 8, (48, 64, 3))).all()
    found = read(drawn_files.tiff([piece], tags | {278: (48,), 281: (65535,) * bands}, order))
    assert (found == np.broadcast_to(ramp >> 8, (48, 64, 3))).all()


@pytest.mark.faults("16-bit pixels")
def test_pixels_whose_range_is_not_known_are_refused_with_a_reason():
    wide = np.full((8, 8), 70_000, np.int32)
    for values, reason in ((wide, "70,000"), (-wide, "negative"), (wide.astype(np.float32), "float")):
        with pytest.raises(Rejected, match=reason):
            read(encoded(Image.fromarray(values), "TIFF"))
    assert (read(encoded(Image.fromarray(wide // 20), "TIFF")) == 3500 >> 4).all()
    with pytest.raises(Rejected):
        used_bits(1 << 16)


@pytest.mark.faults("JPEG of whole pixels")
def test_photographs_with_harmless_damage_are_stored_and_those_cut_are_not(shared: Path, tried):
    photographs = sorted((shared / "data/products10k/train").rglob("*.jp*g"))[:14]
    assert len(photographs) == 14
    harmless = ("ICC profile of a wrong count", "stray bytes before the scan", "no end mark", "JFIF of version 9")
    for path in photographs:
        data = path.read_bytes()
        if b"\xff\xc0" not in data[:2000]:
            data = encoded(Image.open(io.BytesIO(data)).convert("RGB"), quality=90)
        size = min(Image.open(io.BytesIO(data)).size)
        for name in harmless:
            changed = drawn_jpegs.WHOLE[name](data)
            stored = transcode(changed, size, 95)
            assert (decode_stored(stored.encoded) == pixels_of(data)).all(), (path, name)
        for share in (0.2, 0.9):
            for end in (b"", drawn_jpegs.EOI):
                with pytest.raises(Rejected, match="damaged JPEG"):
                    transcode(drawn_jpegs.cut(share, end)(data), size, 95)
    tried(14 * 8)
