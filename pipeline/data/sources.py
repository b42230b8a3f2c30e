"""DATA on the command line: a folder of class folders, a glob of shards, or LAYOUT:ROOT → labelled images."""

import glob
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.errors import BadInput
from pipeline.files import file_sha256
from tfrecords import pixels, schema, shards
from tfrecords.sources import LAYOUTS
from tfrecords.sources.items import as_text

SPLIT_NAMES = ("train", "test", "val", "validation", "index", "query", "queries", "images")


@dataclass(frozen=True)
class LabelledImage:
    """`read` opens nothing before it is called; it gives the image file's bytes."""

    key: str
    class_name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageSet:
    """One domain of the score table: its classes are told apart by name, and from those of every other label space.

    Attributes:
        label_space: the same for all sets of one records folder, where a class may be in several (`merge_classes`);
            empty: the set's own.
    """

    name: str
    items: list[LabelledImage]
    label_space: str = ""


def open_data(spec: str) -> list[ImageSet]:
    """The image sets that `spec` names; `NAME=SPEC` gives a name of one's own.

    Raises:
        BadInput: nothing there, no images, an unknown layout.
    """
    own_name, equals, rest = spec.partition("=")
    if equals and not Path(spec).exists() and "/" not in own_name:
        sets = open_data(rest)
        return [
            replace(each, name=own_name if len(sets) == 1 else f"{own_name}/{each.name}") for each in sets
        ]
    folder = Path(spec)
    layout, colon, root = spec.partition(":")
    if colon and layout in LAYOUTS:
        return [_listed(layout, layout, Path(root))]
    globbed = any(character in spec for character in "*?[") and not folder.is_dir()  # `photos [2024]` is one
    if globbed or spec.endswith(".tfrec"):
        return _from_shards(spec)
    if colon and not Path(spec).exists() and layout.isidentifier():
        raise BadInput(f"{spec}: unknown layout {layout!r}; expected one of {', '.join(sorted(LAYOUTS))}")
    if folder.is_dir() and not any(folder.iterdir()):
        raise BadInput(f"{spec}: expected class folders with images, the folder is empty")
    name = folder.resolve().name
    if name.lower() in SPLIT_NAMES:
        name = folder.resolve().parent.name
    return [_listed(name, "folder", folder)]


def decode(encoded: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of any image that the records take, by the same rules: `tfrecords.pixels.read`.

    Raises:
        ValueError: not an image, damaged, or too large to be decoded safely.
    """
    try:
        return pixels.read(encoded)
    except pixels.Rejected as error:
        raise ValueError(str(error)) from None


def read_decoded(
    items: list[LabelledImage], threads: int = 4, window: int = 256
) -> Iterator[tuple[int, np.ndarray | None, str]]:
    """Decodes in threads, a bounded number ahead: yields (row, uint8 [H, W, 3] or None, reason), in order."""
    rows = iter(enumerate(items))
    with ThreadPoolExecutor(threads) as pool:
        pending = [(row, pool.submit(_read_one, item)) for row, item in islice(rows, window)]
        while pending:
            row, future = pending.pop(0)
            pending.extend((later, pool.submit(_read_one, item)) for later, item in islice(rows, 1))
            image, reason = future.result()
            yield row, image, reason


def _read_one(item: LabelledImage) -> tuple[np.ndarray | None, str]:
    try:
        return decode(item.read()), ""
    except (ValueError, OSError) as error:
        return None, as_text(str(error))


def _listed(name: str, layout: str, root: Path) -> ImageSet:
    listing = LAYOUTS[layout](root)
    items = [LabelledImage(item.key, item.class_name, item.read) for item in listing.items]
    if not items:
        raise BadInput(f"{root}: no images found in the layout {layout!r}")
    return ImageSet(name, items)


def _from_shards(pattern: str) -> list[ImageSet]:
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise BadInput(f"{pattern}: no shard matches; expected <source>-<split>-<NN>-<count>.tfrec files")
    folders = dict.fromkeys(Path(path).parent for path in paths)
    spaces = {folder: _label_space(folder) for folder in folders}
    found: dict[tuple[str, str], list[LabelledImage]] = {}  # (label space, source) → its images
    for path in map(Path, paths):
        offsets = shards.shard_index(path)
        for (offset, length), record in zip(offsets.tolist(), schema.read_shard(path), strict=True):
            source = record.source or path.name.split("-")[0]
            key = record.key or f"{path.name}@{offset}"
            read = partial(_read_record, path, offset, length)
            image = LabelledImage(key, str(record.label), read)
            found.setdefault((spaces[path.parent], source), []).append(image)
    return [ImageSet(source, items, space) for (space, source), items in found.items()]


def _label_space(folder: Path) -> str:
    """What the labels of a folder's shards are counted in: a digest of its labels.json, empty without one."""
    path = folder / "labels.json"
    return file_sha256(path) if path.is_file() else ""


def _read_record(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        framed = file.read(length)
    return bytes(schema.parse(framed[12:-4]).encoded)
