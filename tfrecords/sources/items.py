"""What a source is to the build: classes in label order, and images as promises that open nothing yet."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfrecords.errors import BadInput


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes:
        key: unique in its source and the same on every machine (a path below the root, an id, a number): the
            cap and the splits are chosen by its hash.
        class_name: one of the listing's `classes`.
        read: gives the encoded image (JPEG, PNG, …; whatever lies on disk). Opens nothing before it is called
            and is picklable, so it runs in a worker. Raises OSError or ValueError where the image cannot be
            had.
    """

    key: str
    class_name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Listing:
    """A source as listed.

    Attributes:
        classes: in label order.
        items: can be gone through more than once, lazily, always in the same order.
        names: class → what a human calls it, for the classes where that differs.
    """

    classes: list[str]
    items: Iterable[Item]
    names: dict[str, str] = field(default_factory=dict)


class Lazily:
    """Calls `generator(*arguments)` anew each time: 1.2 million items are never all in memory.

    A folder that cannot be listed half-way (permissions, a disk that goes) is BadInput, not a set that seems
    smaller.
    """

    def __init__(self, generator: Callable[..., Iterator[Item]], *arguments: Any):
        self.generator, self.arguments = generator, arguments

    def __iter__(self) -> Iterator[Item]:
        try:
            yield from self.generator(*self.arguments)
        except OSError as error:
            raise BadInput(f"the source cannot be listed: {error}") from None


def read_file(path: str) -> bytes:
    """The bytes of a regular file. A pipe or a device would hang the build, so it is an OSError instead."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read()


def existing_folder(root: Path, what: str) -> Path:
    """Raises BadInput where `root` is not a folder; `what` says what should stand there."""
    if not root.is_dir():
        came = "is a file" if root.is_file() else "does not exist"
        raise BadInput(f"expected {what}: {root} {came}; set the source's root (relative to data_root)")
    return root


def existing_file(path: Path, layout: str) -> Path:
    """Raises BadInput where a file that the layout cannot do without is missing."""
    if not path.is_file():
        raise BadInput(f"layout {layout} expects the file {path}, which does not exist: is the root right?")
    return path


def below(root: Path, relative: str) -> str:
    """`root/relative`, refused where it leaves `root`: a CSV may hold `../..` or an absolute path.

    Only the text is looked at: a symbolic link that the user has put below the root is theirs to put there.

    Raises:
        ValueError: the path is empty, absolute or climbs out of the root.
    """
    normal = os.path.normpath(relative) if relative else ".."
    if "\0" in relative or os.path.isabs(normal) or normal.split(os.sep, 1)[0] == "..":
        raise ValueError(f"path {relative!r} leaves the source's root")
    return os.path.join(root, normal)


def refuse(reason: str) -> bytes:
    """The `read` of an item known beforehand to be unreadable: `reason` ends in rejects.csv."""
    raise ValueError(reason)


def as_text(path: str) -> str:
    """A file name as text that UTF-8 can hold: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
