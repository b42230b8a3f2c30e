"""Images resized once and packed: what several models are tested on need not be decoded again for each.

A pack is a folder of `NNNNN.npz` files of `images` uint8 [n, S, S, 3], `labels` int64 [n], `keys` and, for
images that could not be read, `rejected` (keys) and `reasons`. A file's name ends in digits that change with its
images, so that of a changed set only the files of the changed images are made again. Each appears when it is whole;
a rerun makes those that are missing and those whose rejected images can be read now.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.console import Progress
from pipeline.data.preprocessing import Preprocess, resize_to_square
from pipeline.errors import BadInput
from tfrecords import pixels
from tfrecords.sources import Item
from tfrecords.sources.arrays import Batch

FITS = ("squash", "crop")


@dataclass(frozen=True)
class Pack:
    """What is packed, and where.

    Attributes:
        root: below it a folder named after all that decides what the files hold but the images themselves.
        source: where the items are from, JSON-able.
        labels: class → label.
        fit: "squash" the whole image into the square, or "crop" its central square first.
    """

    root: Path
    source: Any
    items: list[Item]
    labels: dict[str, int]
    preprocess: Preprocess
    fit: str
    images_per_file: int

    @property
    def folder(self) -> Path:
        size, method = self.preprocess.image_size_px, self.preprocess.resize
        return self.root / f"{size}px-{method}-{self.fit}-{self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        return files.fingerprint([self.source, self.images_per_file, self.preprocess.antialias])

    @cached_property
    def parts(self) -> dict[Path, list[Item]]:
        """File → the items in it, in order."""
        stamps = _stamps(self.items)
        parts = {}
        for place, start in enumerate(range(0, len(self.items), self.images_per_file)):
            rows = slice(start, start + self.images_per_file)
            items = self.items[rows]
            named = [(item.key, self.labels[item.class_name]) for item in items]
            parts[self.folder / f"{place:05d}-{files.fingerprint([named, stamps[rows]])}.npz"] = items
        return parts


def write(pack: Pack, threads: int) -> None:
    """Makes the files of a pack that are missing, or that can be had with fewer rejected images."""
    prepare = partial(_prepared, preprocess=pack.preprocess, fit=pack.fit)
    with ThreadPoolExecutor(threads) as pool:

        def is_whole(path: Path, items: list[Item]) -> bool:
            if not path.is_file():
                return False
            keys = {key for key, _ in rejected(path)}
            again = pool.map(prepare, [item for item in items if item.key in keys])
            return all(isinstance(result, str) for result in again)

        missing = {path: items for path, items in pack.parts.items() if not is_whole(path, items)}
        done = len(pack.items) - sum(map(len, missing.values()))
        progress = Progress("data-prep", len(pack.items), "images", done)
        for path, items in missing.items():
            _write_file(path, items, list(pool.map(prepare, items)), pack)
            progress.add(len(items))


def packed_files(pack: Pack) -> list[Path]:
    """Raises BadInput where data-prep has not ended, or was run with another config or on other images."""
    paths = list(pack.parts)
    for path in paths:
        if not path.is_file():
            raise BadInput(
                f"{path} is not prepared: run guie zero-shot data-prep with this config and these images first"
            )
    return paths


def rejected(path: Path) -> list[tuple[str, str]]:
    """(key, reason) of the images of a file that could not be read."""
    with np.load(path) as parts:
        return list(zip(parts["rejected"].tolist(), parts["reasons"].tolist(), strict=True))


def _stamps(items: Iterable[Item]) -> list[tuple[int, int] | None]:
    """Size and date of the file that each item is read from, an image or an archive of many; None: there is none."""
    known: dict[str, tuple[int, int] | None] = {}
    stamps = []
    for item in items:
        path = _file_of(item)
        if path not in known:
            try:
                status = os.stat(path)
                known[path] = status.st_size, status.st_mtime_ns
            except (OSError, ValueError):  # a drawn image, a missing file; a NUL in the name
                known[path] = None
        stamps.append(known[path])
    return stamps


def _file_of(item: Item) -> str:
    """Readers are `partial(function, path, …)`, or of an array that is read so."""
    first = item.read.args[0] if isinstance(item.read, partial) else ""
    first = first.read_arguments[0] if isinstance(first, Batch) else first
    return first if isinstance(first, str) else ""


def _prepared(item: Item, preprocess: Preprocess, fit: str) -> np.ndarray | str:
    try:
        return resize_to_square(pixels.read(item.read()), preprocess, fit)
    except (ValueError, OSError) as error:
        return str(error) or type(error).__name__


def _write_file(path: Path, items: list[Item], results: list, pack: Pack) -> None:
    good = [(item, image) for item, image in zip(items, results, strict=True) if not isinstance(image, str)]
    bad = [(item.key, why) for item, why in zip(items, results, strict=True) if isinstance(why, str)]
    side = pack.preprocess.image_size_px
    empty = np.zeros((0, side, side, 3), np.uint8)
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            images=np.stack([image for _, image in good]) if good else empty,
            labels=np.array([pack.labels[item.class_name] for item, _ in good], np.int64),
            keys=np.array([item.key for item, _ in good], str),
            rejected=np.array([key for key, _ in bad], str),
            reasons=np.array([why for _, why in bad], str),
        )
