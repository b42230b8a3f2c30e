"""guie's own images: small solid objects seen from many sides, drawn from a seed. No download, no licence.

A class is one object: a body and a few parts, each with a position, a pattern and colours. Classes differ in shape,
parts, pattern and palette, but several share each of these. Images of a class differ in pose, scale, position,
lighting, background, occlusion and noise: raw pixels say little about the class, so there is something to learn.

An image depends on (seed, class, index, size) alone: more classes, or more images a class, change no other image.
The same versions of NumPy and Pillow give the same bytes.
"""

import colorsys
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline.errors import BadInput
from tfrecords.listing.items import Item, Lazily, Listing
from tfrecords.listing.layout import Layout, Size
from tfrecords.sources.raycast import SOLIDS, cast

PATTERNS = ("plain", "striped", "ringed", "checked", "dotted", "halved", "rayed")
PALETTES = 24  # shared by the classes of a seed, so colour alone does not tell the class
SUPERSAMPLE = 2


@dataclass(frozen=True)
class Part:
    """One solid of an object."""

    solid: str  # a name in SOLIDS
    pattern: str  # one of PATTERNS
    matrix: np.ndarray  # [3, 3] float32, the part's coordinates → the object's
    centre: np.ndarray  # [3] float32 in the object's coordinates
    colours: np.ndarray  # [2, 3] float32 in [0, 1]
    frequency: float  # of the pattern, in periods over the part
    gloss: float  # share of the light that is mirrored


def drawn(root: Path, classes: int = 96, images_per_class: int = 60, image_size_px: int = 64, seed: int = 0) -> Listing:
    """Lists drawn images. `root` is not used: there is nothing on disk. Raises BadInput: an option out of its range."""
    least_of = {"classes": 1, "images_per_class": 1, "image_size_px": 8, "seed": 0}
    given = (classes, images_per_class, image_size_px, seed)
    for (name, least), value in zip(least_of.items(), given, strict=True):
        if value < least:
            raise BadInput(f"layout drawn: option {name} expects {least} or more, got {value}")
    ordered = [f"{number:04d}" for number in range(classes)]
    names = {f"{number:04d}": describe(seed, number) for number in range(classes)}
    return Listing(ordered, Lazily(_items, classes, images_per_class, image_size_px, seed), names)


def _items(classes: int, images_per_class: int, image_size_px: int, seed: int) -> Iterator[Item]:
    for number in range(classes):
        for index in range(images_per_class):
            read = partial(draw, seed, number, index, image_size_px)
            yield Item(f"{seed}/{number:04d}/{index:05d}", f"{number:04d}", read)


def draw(seed: int, number: int, index: int, image_size_px: int = 64) -> bytes:
    """One image of class `number` as JPEG bytes, RGB, square."""
    rng = np.random.default_rng([seed, number, 1 + index])
    side = image_size_px * SUPERSAMPLE
    canvas = _background(rng, seed, side)
    _draw_object(rng, canvas, parts_of(seed, number))
    picture = Image.fromarray((canvas.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8))
    _occlude(rng, picture)
    small = np.asarray(picture.reduce(SUPERSAMPLE), np.float32)
    small += rng.standard_normal(small.shape, np.float32) * rng.uniform(1, 10)
    out = io.BytesIO()
    pixels = Image.fromarray(np.clip(small + 0.5, 0, 255).astype(np.uint8))
    pixels.save(out, "JPEG", quality=int(rng.integers(80, 96)))
    return out.getvalue()


def describe(seed: int, number: int) -> str:
    """A name for the class, such as `striped can with 2 x box, ball`."""
    body, *others = parts_of(seed, number)
    counts = Counter(part.solid for part in others)
    parts = [f"{count} x {solid}" if count > 1 else solid for solid, count in counts.items()]
    return f"{body.pattern} {body.solid} with {', '.join(parts)}"


@lru_cache(maxsize=4096)
def parts_of(seed: int, number: int) -> tuple[Part, ...]:
    """The object that class `number` shows; the first part is its body."""
    # The trailing number sets classes apart from images: a seed sequence is padded with zeros.
    rng = np.random.default_rng([seed, number, 0])
    palette = _palette(seed, int(rng.integers(PALETTES)))
    size = np.exp(rng.uniform(-0.45, 0.45, 3))
    size *= 0.95 / np.linalg.norm(size)
    parts = [_part(rng, palette, np.diag(size), np.zeros(3))]
    for _ in range(int(rng.integers(2, 5))):
        towards = rng.standard_normal(3)
        towards /= np.linalg.norm(towards)
        at = towards * size * rng.uniform(0.85, 1.15)  # on the body's skin
        extent = rng.uniform(0.15, 0.33) * np.exp(rng.uniform(-0.5, 0.5, 3))
        part = _part(rng, palette, _rotation(rng) @ np.diag(extent), at)
        parts.append(part)
        if rng.random() < 0.5:  # a mirrored pair, as eyes, wings and handles are
            mirror = np.diag([-1.0, 1.0, 1.0])
            matrix, centre = ((mirror @ part.matrix).astype(np.float32), (mirror @ part.centre).astype(np.float32))
            parts.append(replace(part, matrix=matrix, centre=centre))
    return tuple(parts)


def _part(rng: np.random.Generator, palette: np.ndarray, matrix: np.ndarray, centre: np.ndarray) -> Part:
    return Part(
        solid=str(rng.choice(list(SOLIDS))),
        pattern=str(rng.choice(PATTERNS)),
        matrix=matrix.astype(np.float32),
        centre=centre.astype(np.float32),
        colours=palette[rng.permutation(len(palette))[:2]],
        frequency=float(rng.uniform(1.5, 3.5)),
        gloss=float(rng.choice([0.0, 0.25, 0.6])),
    )


@lru_cache(maxsize=256)
def _palette(seed: int, number: int) -> np.ndarray:
    """[4, 3] float32: colours of one family that differ in hue, strength and brightness."""
    rng = np.random.default_rng([seed, number, 0, 1])
    first = rng.random()
    hues = first + np.array([0, rng.uniform(0.08, 0.25), 0.5, rng.uniform(0.6, 0.9)])
    tones = [
        colorsys.hsv_to_rgb(h % 1, rng.uniform(0.35, 0.95), v)
        for h, v in zip(hues, rng.permutation([1.0, 0.85, 0.65, 0.35]), strict=True)
    ]
    return np.array(tones, np.float32)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """[3, 3] float64: a rotation, drawn uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.linalg.det(q)


def _pose(rng: np.random.Generator) -> np.ndarray:
    """[3, 3] float64: any yaw, a pitch from above or below, a little roll."""
    yaw, pitch, roll = rng.uniform(-np.pi, np.pi), rng.uniform(-0.9, 0.9), rng.uniform(-0.5, 0.5)
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    around = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return lean @ nod @ around


def _draw_object(rng: np.random.Generator, canvas: np.ndarray, parts: tuple[Part, ...]) -> None:
    """Draws the object into `canvas` [3, side, side] float32 in [0, 1]."""
    side = canvas.shape[1]
    pose = (_pose(rng) * rng.uniform(0.75, 1.2)).astype(np.float32)
    shift = np.array([*rng.uniform(-0.15, 0.15, 2), 0], np.float32)
    light = np.array([*rng.uniform(-1, 1, 2), rng.uniform(0.4, 1.0)], np.float32)
    light /= np.linalg.norm(light)
    half = light + np.array([0, 0, 1], np.float32)  # between the light and the eye, for the highlight
    half /= np.linalg.norm(half)
    ambient = rng.uniform(0.3, 0.65)
    tint = (rng.uniform(0.75, 1.2) * rng.uniform(0.88, 1.1, 3)).astype(np.float32)
    nearest = np.full((side, side), np.inf, np.float32)
    flat = canvas.reshape(3, -1)
    for part in parts:
        seen = cast(part.solid, pose @ part.matrix, pose @ part.centre + shift, nearest)
        second = _pattern(part, seen.local)  # [n] bool
        colour = np.where(second, part.colours[1][:, None], part.colours[0][:, None])  # [3, n]
        shade = ambient + (1 - ambient) * np.maximum(light @ seen.normal, 0)
        lit = shade * colour
        if part.gloss:
            lit += part.gloss * np.maximum(half @ seen.normal, 0) ** 24
        flat[:, seen.pixels] = np.clip(lit * tint[:, None], 0, 1)


def _pattern(part: Part, local: np.ndarray) -> np.ndarray:
    """Which of the part's two colours a point has: `local` [3, n] → [n] bool."""
    x, y, z = local * part.frequency
    if part.pattern == "striped":
        return np.floor(z) % 2 == 0
    if part.pattern == "ringed":
        return np.floor(1.4 * np.sqrt(x * x + y * y)) % 2 == 0
    if part.pattern == "checked":
        return (np.floor(x) + np.floor(y) + np.floor(z)) % 2 == 0
    if part.pattern == "dotted":
        return sum((a - np.floor(a) - 0.5) ** 2 for a in (x, y, z)) < 0.2
    if part.pattern == "halved":
        return x > 0
    if part.pattern == "rayed":
        return np.floor(np.arctan2(y, x) * round(part.frequency * 2) / np.pi) % 2 == 0
    return np.zeros(local.shape[1], bool)


def _background(rng: np.random.Generator, seed: int, side: int) -> np.ndarray:
    """[3, side, side] float32 in [0, 1]: coarse coloured noise, and shapes in the objects' palettes."""
    cells = int(rng.integers(2, 9))
    base = rng.uniform(50, 205) + rng.uniform(-30, 30, 3)
    coarse = base + rng.uniform(-1, 1, (cells, cells, 1)) * rng.uniform(5, 50)
    coarse = np.clip(coarse + rng.uniform(-20, 20, (cells, cells, 3)), 0, 255)
    how = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.NEAREST
    picture = Image.fromarray(coarse.astype(np.uint8)).resize((side, side), how)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 4))):
        colour = _palette(seed, int(rng.integers(PALETTES)))[rng.integers(4)]
        _blot(rng, pen, colour, side, rng.uniform(0.05, 0.18) * side)
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 255


def _occlude(rng: np.random.Generator, picture: Image.Image) -> None:
    """Draws, in every other image, a shape in front of the object, near the border."""
    if rng.random() < 0.5:
        return
    side = picture.width
    angle = rng.uniform(0, 2 * np.pi)
    middle = side / 2 + side * 0.42 * np.array([np.cos(angle), np.sin(angle)])
    pen = ImageDraw.Draw(picture)
    _blot(rng, pen, rng.uniform(0.1, 0.9, 3), side, rng.uniform(0.1, 0.24) * side, middle)


def _blot(rng, pen, colour, side: int, radius: float, middle: np.ndarray | None = None) -> None:
    """Draws a filled polygon, at a random point or around `middle`; lengths in pixels."""
    at = rng.uniform(0, side, 2) if middle is None else middle
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    points = at[:, None] + radius * np.stack([np.cos(angles), np.sin(angles)]) * rng.uniform(0.6, 1.2, corners)
    pen.polygon([tuple(p) for p in points.T], fill=tuple(int(c * 255) for c in colour))


def _size(_: Size, options: Mapping[str, Any]) -> Size:
    listed = drawn(Path(), **options)  # checks the ranges too
    return Size(len(listed.classes), len(listed.classes) * options["images_per_class"])


LAYOUT = Layout("drawn", drawn, {"train": Size(96, 96 * 60)}, sized=_size, rooted=False)
