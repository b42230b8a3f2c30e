"""DATA in parts: a shard each, or so many images of a listing each. What is made of a part is a chunk on disk.

A part can be pickled, so that a worker on another machine reads it, and is known without reading its images.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline import files, marks
from pipeline.data import sources
from pipeline.reading import file_of, is_url
from tfrecords import schema, shards
from tfrecords.sources import Item
from tfrecords.sources.shards import read_record

COUNT = re.compile(r"-(\d+)\.tfrec$")  # of a shard's images, in its name
Named = tuple[str, Item]  # source, image


@dataclass(frozen=True)
class Window:
    """Images of a listing."""

    listed: tuple[Named, ...]

    def images(self) -> Iterator[Named]:
        """In order."""
        return iter(self.listed)

    def count(self) -> int:
        return len(self.listed)

    def quick(self) -> str:
        """A digest of the names and of the files' sizes and times, see `pipeline.marks`."""
        names = [(source, item.key, item.class_name, item.also) for source, item in self.listed]
        return files.fingerprint([names, marks.stat_digest(item.file for _, item in self.listed)])


@dataclass(frozen=True)
class Shard:
    """The records of a TFRecord shard. Their labels are the classes, as `sources.open_data` has them."""

    path: str  # or URL

    def images(self) -> Iterator[Named]:
        """In order. Raises BadInput: a damaged shard."""
        file = file_of(self.path)
        spans = shards.shard_index(file)
        for (offset, length), record in zip(spans.tolist(), schema.read_shard(file), strict=True):
            read = partial(read_record, self.path, offset, length)
            item = Item(record.key or f"{file.name}@{offset}", str(record.label), read)
            yield record.source or file.name.split("-")[0], item

    def count(self) -> int:
        """What the shard's name says, else its index."""
        found = COUNT.search(self.path)
        return int(found[1]) if found else len(shards.shard_index(file_of(self.path)))

    def quick(self) -> str:
        """A digest of the file's size and times; behind a URL of its size alone."""
        if is_url(self.path):
            return files.fingerprint([self.path, files.size(file_of(self.path))])
        return files.fingerprint([Path(self.path).name, marks.stat_digest([self.path])])


Part = Window | Shard


def of_data(spec: str, images: int) -> list[Part]:
    """The parts of DATA, in order; parts of a listing hold `images` each. Raises BadInput as `sources.open_data`."""
    if paths := sources.shards_of(spec):
        return [Shard(str(path)) for path in paths]
    listed = ((each.name, item) for each in sources.open_data(spec) for item in each.items)
    return list(windows(listed, images))


def windows(listed: Iterable[Named], images: int) -> Iterator[Window]:
    """Lazily: one window in memory at a time."""
    rest = iter(listed)
    while window := tuple(islice(rest, images)):
        yield Window(window)


class Content:
    """A digest of images in order: their names and what their files hold."""

    def __init__(self) -> None:
        self._hasher = hashlib.blake2b(digest_size=8)

    def add(self, named: Named, held: str) -> None:
        """`held`: the image's `image_digest`."""
        source, item = named
        line = "\0".join([source, item.key, item.class_name, *item.also, held])
        self._hasher.update(f"{line}\n".encode("utf-8", "surrogatepass"))

    def digest(self) -> str:
        return self._hasher.hexdigest()


def image_digest(data: bytes | None) -> str:
    """16 hex digits of an encoded image; "" of one that cannot be read."""
    return "" if data is None else hashlib.blake2b(data, digest_size=8).hexdigest()
