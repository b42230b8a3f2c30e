"""Labelled images, from the command line's DATA or a config's sources; each is a `tfrecords.sources.Item`."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline import marks
from pipeline.config import ImageSource
from pipeline.errors import BadInput
from pipeline.files import file_sha256, fingerprint, matching
from pipeline.guards import machine
from pipeline.reading import File, expect_local, is_url
from tfrecords import labels, pixels, schema, shards
from tfrecords.listing.items import as_text
from tfrecords.sources import LAYOUTS, Item, list_configured, list_source
from tfrecords.sources.shards import read_record

SPLIT_NAMES = ("train", "test", "val", "validation", "index", "query", "queries", "images")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageSet:
    """One domain of the score table. Classes of two label spaces differ, whatever they are called."""

    name: str
    items: list[Item]
    label_space: str = ""  # shared by a records folder's sets, as a class may be in several; empty: the name
    names: Mapping[str, str] = field(default_factory=dict)  # class → what a human calls it, where that is another

    def class_of(self, class_name: str) -> tuple[str, str]:
        """(label space, class): two images match where this is equal. Scores and `guie browse` go by it."""
        return self.label_space or self.name, class_name


def open_data(spec: str) -> list[ImageSet]:
    """The image sets that `spec` names; `NAME=SPEC` names them. Raises BadInput: no images, an unknown layout."""
    given, rest = _named(spec)
    if given:
        sets = open_data(rest)
        return [replace(each, name=given if len(sets) == 1 else f"{given}/{each.name}") for each in sets]
    layout, root, options = _of_layout(spec)
    if layout:
        expect_local(layout, root)
        return [_listed(name_of(spec), layout, Path(root), options)]
    if _is_shards(spec):
        return _from_shards(spec)
    _expect_folder(spec)
    return [_listed(name_of(spec), "folder", Path(spec), {})]


def name_of(spec: str) -> str:
    """The name that `open_data(spec)` gives its set; "" where shards name their own. Opens nothing."""
    given, spec = _named(spec)
    layout, _, options = _of_layout(spec)
    if name := given or options.get("domain") or layout:
        return name
    if _is_shards(spec):
        return ""
    folder = Path(spec).resolve()
    return folder.parent.name if folder.name.lower() in SPLIT_NAMES else folder.name


def split_of(spec: str) -> str:
    """The split that `spec` names for all its images: a layout's option, a folder's name; "" where it names none."""
    spec = _named(spec)[1]
    layout, _, options = _of_layout(spec)
    if layout or _is_shards(spec):
        return options.get("split", "")
    name = Path(spec).resolve().name
    return name if name.lower() in SPLIT_NAMES else ""


def shards_of(spec: str) -> Sequence[File]:
    """The shards that DATA names; none where it is another form, or gives them another name. Opens nothing.

    Raises BadInput: no shard matches.
    """
    return _expect_shards(spec) if not _named(spec)[0] and not _of_layout(spec)[0] and _is_shards(spec) else ()


def absolute(spec: str) -> str:
    """DATA for a process in another working directory. Raises BadInput as `open_data` where options are wrong."""
    given, spec = _named(spec)
    layout, root, _ = _of_layout(spec)
    if layout:
        head = spec.partition(":")[0]
        where = f"{head}:{os.path.abspath(root)}" if LAYOUTS[layout].rooted else spec
    else:
        where = spec if is_url(spec) else os.path.abspath(spec)
    return f"{given}={where}" if given else where


def files_of(spec: str) -> marks.Files:
    """The files behind `open_data(spec)`, to be known by; none where they are gone. Opens no image."""
    spec = _named(spec)[1]
    layout, root, options = _of_layout(spec)
    folder = Path(root)
    try:
        if not layout and (_is_shards(spec) or not folder.is_dir()):
            found = matching(spec)
            tables = sorted({path.parent / "labels.json" for path in found}, key=str)
            return marks.Files([(path.name, path) for path in [*found, *(each for each in tables if each.is_file())]])
        items = list(list_source(layout or "folder", folder, options).items)
    except BadInput:
        return marks.Files([])
    paths = dict.fromkeys([str(folder)] * folder.is_file() + [item.file for item in items if item.file])
    named = [(os.path.relpath(path, folder), Path(path)) for path in paths]
    return marks.Files(named, beside=fingerprint([(item.key, item.class_name) for item in items]))


def expect_data(spec: str) -> None:
    """Raises BadInput where nothing is at `spec`, or its layout is unknown; as `open_data`, but nothing is listed."""
    spec = _named(spec)[1]
    layout, root, _ = _of_layout(spec)
    if layout:
        expect_local(layout, root)
        if LAYOUTS[layout].rooted and not Path(root).exists():
            raise BadInput(f"{spec}: {root} does not exist")
    elif _is_shards(spec):
        _expect_shards(spec)
    else:
        _expect_folder(spec)
        if not Path(spec).exists():
            raise BadInput(f"{spec}: expected class folders, shards or LAYOUT:ROOT, nothing is there")


def _named(spec: str) -> tuple[str, str]:
    """`NAME=SPEC` → (NAME, SPEC); "" where there is no name."""
    given, equals, rest = spec.partition("=")
    is_name = equals and not Path(spec).exists() and "/" not in given
    options = "," in given and given.partition(",")[0] in LAYOUTS  # the = is of a layout's option
    return (given, rest) if is_name and not options else ("", spec)


def _of_layout(spec: str) -> tuple[str, str, dict[str, Any]]:
    """`LAYOUT[,OPTION=VALUE…]:ROOT` → (LAYOUT, ROOT, options); ("", spec, {}) where it names no layout that is known.

    The split of a benchmark is that which is searched. Raises BadInput as `Layout.options`; queries and index of a
    benchmark are two splits, and none is named.
    """
    head, colon, root = spec.partition(":")
    name, *pairs = head.split(",")
    if not colon or name not in LAYOUTS:
        return "", spec, {}
    layout, given = LAYOUTS[name], dict(pair.partition("=")[::2] for pair in pairs)
    if layout.searched and "split" not in given:
        query, index = next(iter(layout.searched.items()))
        if query != index:
            raise BadInput(f"{spec}: queries of {name} search another split: name one, {name},split={query} or {index}")
        given |= {"split": index} if layout.has("split") else {}
    return name, root, layout.options(layout.parsed(given))


def _is_shards(spec: str) -> bool:
    globbed = any(character in spec for character in "*?[") and not Path(spec).is_dir()  # `photos [2024]` is one
    return globbed or spec.endswith(".tfrec")


def _expect_shards(pattern: str) -> Sequence[File]:
    if not (paths := matching(pattern)):
        raise BadInput(f"{pattern}: no shard matches; expected <source>-<split>-<NN>-<count>.tfrec files")
    return paths


def _expect_folder(spec: str) -> None:
    expect_local("DATA that is no shards (*.tfrec)", spec)
    layout, colon, _ = spec.partition(":")
    if colon and not Path(spec).exists() and layout.isidentifier():
        raise BadInput(f"{spec}: unknown layout {layout!r}; expected one of {', '.join(sorted(LAYOUTS))}")
    if Path(spec).is_dir() and not any(Path(spec).iterdir()):
        raise BadInput(f"{spec}: expected class folders with images, the folder is empty")


def read_decoded(
    items: Sequence[Item], threads: int = 4, window: int = 256
) -> Iterator[tuple[int, np.ndarray | None, str]]:
    """Decodes in threads, a bounded number ahead: yields (row, uint8 [H, W, 3] or None, reason), in order."""
    return read_each(items, lambda image: image, threads, window)


def read_each(
    items: Sequence[Item], work: Callable[[np.ndarray], Result], threads: int, window: int
) -> Iterator[tuple[int, Result | None, str]]:
    """As `read_decoded`, with what `work` makes of each image in the thread that decoded it."""

    def read(task: tuple[int, Item]) -> tuple[int, Result | None, str]:
        _, image, reason = read_one(task[1])
        return task[0], (None if image is None else work(image)), reason

    return in_threads(read, enumerate(items), threads, window)


def in_threads(work: Callable[[Task], Result], tasks: Iterable[Task], threads: int, ahead: int) -> Iterator[Result]:
    """`work` of each task, in order; at most `ahead` are begun and not taken yet."""
    rest = iter(tasks)
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(work, task) for task in islice(rest, ahead))
        while pending:
            first = pending.popleft()
            pending.extend(pool.submit(work, task) for task in islice(rest, 1))
            yield first.result()


def read_one(item: Item) -> tuple[bytes | None, np.ndarray | None, str]:
    """(the encoded image, uint8 [H, W, 3], ""); None and a reason where it cannot be read or decoded."""
    data, reason = read_encoded(item)
    if data is None:
        return None, None, reason
    try:
        return data, pixels.read(data), ""
    except (ValueError, OSError) as error:
        return data, None, _reason(error)


def read_encoded(item: Item) -> tuple[bytes | None, str]:
    """(the encoded image, ""); None and a reason where it cannot be read."""
    try:
        return item.read(), ""
    except (ValueError, OSError) as error:
        return None, _reason(error)


def _reason(error: Exception) -> str:
    """Raises `error` where the image may be whole."""
    if machine.refuses(error):
        raise error
    return as_text(str(error))


def _listed(name: str, layout: str, root: Path, options: Mapping[str, Any] | None = None) -> ImageSet:
    items = list(list_source(layout, root, options).items)
    if not items:
        raise BadInput(f"{root}: no images found in the layout {layout!r}")
    return ImageSet(name, items)


def _from_shards(pattern: str) -> list[ImageSet]:
    paths = _expect_shards(pattern)
    tables = {path.parent: path.parent / "labels.json" for path in paths}
    # What a folder's labels are counted in: the digest of its labels.json; empty without one.
    spaces = {folder: file_sha256(table) if table.is_file() else "" for folder, table in tables.items()}
    found: dict[tuple[str, str], list[Item]] = {}  # (label space, source) → its images
    for path in paths:
        offsets = shards.shard_index(path)
        for (offset, length), record in zip(offsets.tolist(), schema.read_shard(path), strict=True):
            source = record.source or path.name.split("-")[0]
            key = record.key or f"{path.name}@{offset}"
            image = Item(key, str(record.label), partial(read_record, str(path), offset, length))
            found.setdefault((spaces[path.parent], source), []).append(image)
    names = {spaces[folder]: _names(table) for folder, table in tables.items()}
    return [ImageSet(source, items, space, names[space]) for (space, source), items in found.items()]


def _names(table: File) -> dict[str, str]:
    """Label, as text → name, of a records folder's labels.json; empty where it is not there, or not guie's."""
    try:
        space = labels.read(table) if isinstance(table, Path) and table.is_file() else None
    except BadInput:
        return {}
    return {str(row["label"]): row["name"] for row in space.to_json()["classes"]} if space else {}


def list_images(sources: Sequence[ImageSource], data_root: str) -> tuple[list[Item], dict[str, str]]:
    """Lists sources → (images, keys `source/key`, in `hash_order`), (class → what a human calls it).

    A source's first `cap_per_class` images of a class are taken: a larger cap only adds.
    Raises BadInput: the layout's, two sources of one name, and where a source has no images.
    """
    images: list[Item] = []
    names: dict[str, str] = {}
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise BadInput(f"{count} sources are called {name!r}: images are known by it, give each its own")
    for source in sources:
        listing = list_configured(source, data_root)
        found = [Item(f"{source.name}/{item.key}", item.class_name, item.read) for item in listing.items]
        if not found:
            raise BadInput(f"source {source.name}: the layout {source.layout} finds no images in {source.root}")
        names.update({each: listing.names.get(each, each) for each in listing.classes})
        seen: Counter[str] = Counter()
        for image in sorted(found, key=hash_order):
            if source.cap_per_class is None or seen[image.class_name] < source.cap_per_class:
                seen[image.class_name] += 1
                images.append(image)
    return sorted(images, key=hash_order), names


def check_shared_names(index: Sequence[ImageSource], queries: Sequence[ImageSource]) -> None:
    """A query finds its own image in the index by source and key, so one name must stand for one set of files.

    Raises BadInput: a name of both lists has another layout, root or options. `split` may differ: a set's keys are of
    the whole set.
    """
    of_index = {source.name: source for source in index}
    for source in queries:
        first, second = (_without_split(each) for each in (of_index.get(source.name, source), source))
        if first != second:
            shown = (":".join([*each[:2], *(f"{k}={v}" for k, v in each[2].items())]) for each in (first, second))
            raise BadInput(
                f"index and queries both have a source {source.name!r}, of {' and of '.join(shown)}: "
                "their images would be taken for each other, rename one"
            )


def _without_split(source: ImageSource) -> tuple[str, str, dict[str, Any]]:
    """(layout, root, options) of a source."""
    options = {key: value for key, value in source.options.items() if key != "split"}
    return source.layout, os.path.normpath(source.root), options


def hash_order(item: Item) -> bytes:
    """Sorts images in an order that only their keys decide, so that the first N are a fair sample of all."""
    return hashlib.sha256(item.key.encode("utf-8", "surrogateescape")).digest()
