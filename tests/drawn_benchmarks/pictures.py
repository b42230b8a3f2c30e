"""A picture of a class, and files below a folder."""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(of_class: str, image: str, size: tuple[int, int] = (48, 40)) -> bytes:
    """A JPEG of `size` (width, height) that shows `of_class`; `image` alone decides the noise in it."""
    width, height = size
    look = np.random.default_rng(zlib.crc32(of_class.encode()))
    grid = look.integers(0, 255, (4, 5, 3)).astype(np.uint8)
    drawn = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.NEAREST), np.int16)
    noise = np.random.default_rng(zlib.crc32(image.encode())).integers(-20, 20, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(drawn + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root
