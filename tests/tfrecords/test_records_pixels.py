"""What is stored for each kind of image file, against Pillow as the slow second implementation."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.tfrecords.damage import HARMLESS, MAY_GO_UNNOTICED, WAYS, encoded, many_scans, photograph, png_bomb
from tfrecords.pixels import MAX_PIXELS, Rejected, decode_stored, read, reduced_by, shrunk_size, transcode
from tfrecords.pixels.jpeg_markers import ARITHMETIC_FRAMES, markers


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Decibels; 30 is a fair likeness, 40 hard to tell apart."""
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-9)))


def detailed(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with detail down to two pixels, where a wrong resize shows."""
    y, x = np.mgrid[:height, :width]
    pixels = np.asarray(photograph(seed, width, height)).astype(float)
    pixels += 40 * np.sin(x / 3 + y / 7)[..., None] + 25 * np.sin(x * y / 9000)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (33, 200), (500, 64)])
def test_a_jpeg_at_or_under_the_target_passes_byte_for_byte(mode: str, progressive: bool, size: tuple[int, int]):
    data = encoded(photograph(1, *size, mode), quality=80, progressive=progressive)
    assert transcode(data, 64, 95) == (data, True)


@pytest.mark.parametrize("size", [(700, 500), (501, 777), (800, 1000), (1031, 1543), (1600, 2100)])
def test_a_larger_jpeg_comes_out_as_pillow_would_make_it(size: tuple[int, int]):
    data = encoded(detailed(*size), quality=95)
    stored = transcode(data, 200, 95)
    with Image.open(io.BytesIO(data)) as image:
        obvious = image.resize(shrunk_size(*size, 200), Image.Resampling.BICUBIC)
    assert not stored.passed
    found = decode_stored(stored.encoded)
    assert found.shape[:2] == obvious.size[::-1] and min(found.shape[:2]) == 200
    assert psnr(found, np.asarray(obvious)) > 32


def test_reduced_decode_does_not_shift_the_picture():
    """Odd sizes: half of 1601 pixels is 800.5, and 801 of them would show the far edge half a pixel off."""
    sharp = {}
    for width, height in ((1600, 1200), (1601, 1201)):
        data = encoded(detailed(width, height), quality=98)
        obvious = Image.open(io.BytesIO(data)).resize(shrunk_size(width, height, 600), Image.Resampling.BICUBIC)
        found = decode_stored(transcode(data, 600, 98).encoded)
        sharp[width] = psnr(found[-100:, -100:], np.asarray(obvious)[-100:, -100:])
    assert sharp[1601] > sharp[1600] - 1.5


def test_reduced_by_never_goes_below_the_target():
    for width in range(1, 400, 7):
        for side in (16, 64, 200):
            target = shrunk_size(width, 301, side)
            by = reduced_by((width, 301), target)
            assert by in (1, 2, 4, 8) and (by == 1 or (width / by >= target[0] and 301 / by >= target[1]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [48, 300])
def test_exif_orientation_is_turned_upright(orientation: int, side: int):
    image = detailed(120, 80)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, quality=95, exif=exif)
    stored = transcode(data, side, 95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    obvious = upright.resize(shrunk_size(*upright.size, side), Image.Resampling.BICUBIC)
    assert stored.passed == (orientation == 1 and side == 300)
    found = decode_stored(stored.encoded)
    assert found.shape[:2] == obvious.size[::-1] and psnr(found, np.asarray(obvious)) > 30
    assert Image.open(io.BytesIO(stored.encoded)).getexif().get(0x0112, 1) == 1


@pytest.mark.faults("damaged image")
def test_an_image_with_damaged_exif_is_stored():
    data = encoded(photograph(3, 40, 40))
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12\x01" * 8
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert transcode(data, 64, 95) == (data, True)


def test_transparency_becomes_white():
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :20] = (255, 0, 0, 255)
    found = decode_stored(transcode(encoded(Image.fromarray(pixels), "PNG"), 64, 95).encoded)
    assert (found[:, 25:] > 250).all() and (abs(found[:, :15].astype(int) - (255, 0, 0)) < 6).all()


def test_a_transparent_colour_of_a_palette_becomes_white():
    image = Image.new("P", (20, 20), 0)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.paste(1, (0, 0, 10, 20))
    for kind in ("PNG", "GIF"):
        found = decode_stored(transcode(encoded(image, kind, transparency=0), 64, 95).encoded)
        assert (found[:, 14:] > 245).all() and (abs(found[:, :6].astype(int) - (200, 0, 0)) < 8).all()


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = decode_stored(transcode(encoded(Image.fromarray(ramp), "PNG"), 64, 98).encoded)
    assert abs(found[..., 0].astype(int) - (ramp >> 8)).max() <= 4


def test_cmyk_is_converted_as_pillow_does():
    data = encoded(photograph(4, 50, 50, "CMYK"), quality=95)
    stored = transcode(data, 64, 95)
    assert not stored.passed
    assert psnr(decode_stored(stored.encoded), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) > 30


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_other_kinds_are_converted(kind: str, mode: str):
    if (kind, mode) == ("WEBP", "1"):
        mode = "L"
    image = photograph(5, 60, 44, mode)
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    stored = transcode(data, 64, 95)
    assert not stored.passed and stored.encoded[:2] == b"\xff\xd8"
    obvious = Image.open(io.BytesIO(data)).convert("RGB")
    assert psnr(decode_stored(stored.encoded), np.asarray(obvious)) > (
        26 if mode in ("1", "P") or kind == "GIF" else 34
    )


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert (abs(decode_stored(transcode(data, 64, 95).encoded).astype(int) - (255, 0, 0)) < 12).all()


@pytest.mark.parametrize("side", [9_460, 20_000, 60_000])
@pytest.mark.faults("bomb")
def test_a_bomb_is_refused_by_its_header(side: int):
    assert side**2 > MAX_PIXELS
    before = time.monotonic()
    with pytest.raises(Rejected, match="bomb"):
        transcode(png_bomb(side), 384, 95)
    assert time.monotonic() - before < 1


@pytest.mark.faults("bomb")
def test_a_jpeg_of_a_thousand_scans_is_refused_unread():
    with pytest.raises(Rejected, match="scans"):
        transcode(many_scans(encoded(photograph(7, 64, 64)), np.random.default_rng(0)), 384, 95)


@pytest.mark.parametrize("behind", [b"\xff\xda" * 200, b"\xff\xc9", None], ids=["scans", "arithmetic", "film"])
@pytest.mark.faults("damaged image")
def test_data_behind_a_jpegs_end_or_in_its_metadata_is_no_part_of_the_picture(behind: bytes | None):
    behind = np.random.default_rng(0).bytes(8 << 20) if behind is None else behind  # 8 MB: some 120 of FF DA
    data = encoded(photograph(7, 64, 64), progressive=True)
    assert transcode(data + behind, 64, 95) == (data + behind, True)
    profile = b"\xff\xe2" + struct.pack(">H", 2 + len(behind[:60_000])) + behind[:60_000]
    data = data[:2] + profile + data[2:]
    assert transcode(data, 64, 95) == (data, True)


def test_an_arithmetic_frame_is_found_by_its_marker():
    """Pillow writes none: the frame's marker alone, behind a segment and padding that must be skipped."""
    head = bytes.fromhex("ffd8 ffe0 0004 ffc9 ffff ffcb 0003 00")
    assert list(markers(head)) == [0xE0, 0xCB] and not ARITHMETIC_FRAMES.isdisjoint(markers(head))


def test_the_markers_are_those_that_a_walk_byte_by_byte_finds():
    def obvious(data: bytes) -> list[int]:
        found, at = [], 2
        while at + 1 < len(data):
            marker = data[at + 1]
            if data[at] != 0xFF or marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD7:
                at += 1
                continue
            found.append(marker)
            if marker == 0xD9:
                break
            at += 2 + max(2, 256 * sum(data[at + 2 : at + 3]) + sum(data[at + 3 : at + 4]))
        return found

    rng = np.random.default_rng(3)
    for seed in range(20):
        data = encoded(photograph(seed, 70, 50), progressive=seed % 2 == 0, restart_marker_blocks=seed % 3)
        found = list(markers(data + data))
        assert found == obvious(data) and found.count(0xDA) == (10 if seed % 2 == 0 else 1)
        damaged = WAYS["bytes flipped"](data, rng)
        assert list(markers(damaged)) == obvious(damaged)


def test_float_pixels_are_refused_on_purpose():
    with pytest.raises(Rejected, match="range is not known"):
        transcode(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), 64, 95)


@pytest.mark.parametrize("cut", [4, 50, 700])
@pytest.mark.parametrize("side", [64, 1000])
@pytest.mark.faults("damaged image")
def test_a_truncated_jpeg_is_rejected_not_painted_grey(cut: int, side: int):
    data = encoded(photograph(8, 200, 150), quality=90)
    with pytest.raises(Rejected, match="damaged JPEG"):
        transcode(data[:-cut], side, 95)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.faults("damaged image")
def test_a_damaged_image_is_stored_whole_or_rejected_with_a_reason(way: str):
    rng = np.random.default_rng(11)
    for seed in range(12):
        data = WAYS[way](encoded(photograph(seed, 40 + seed * 9, 60), quality=85), rng)
        try:
            stored = transcode(data, 48, 95)
        except Rejected as error:
            assert str(error).strip() and "\n" not in str(error)
            with pytest.raises(Rejected):
                read(data)
        else:
            assert way in MAY_GO_UNNOTICED
            whole, promised = read(data), Image.open(io.BytesIO(data)).size
            assert whole.shape == (*promised[::-1], 3)
            pixels = decode_stored(stored.encoded)  # strict: no warning
            assert pixels.shape[:2] == shrunk_size(*promised, 48)[::-1]
            assert stored.encoded == data if stored.passed else min(pixels.shape[:2]) == 48


@pytest.mark.parametrize("way", HARMLESS)
@pytest.mark.faults("damaged image")
def test_whole_images_under_any_name_are_stored(way: str):
    original = encoded(photograph(9, 60, 50), quality=90)
    data = HARMLESS[way](original, np.random.default_rng(0))
    stored = transcode(data, 64, 95)
    assert stored.passed == (way in ("whole", "junk behind its end"))
    assert psnr(decode_stored(stored.encoded), decode_stored(original)) > (24 if "GIF" in way else 34)
