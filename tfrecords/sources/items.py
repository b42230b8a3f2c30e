"""What a source is to the build: classes in label order, and images as promises that open nothing yet."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput

MAX_FILE_BYTES = (
    1 << 30
)  # of a file read whole; pixels.MAX_PIXELS as 16-bit RGBA are 0.7 GB, CIFAR-100 0.2 GB


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes:
        key: unique in its source and the same on every machine (a path below the root, an id, a number): the
            cap and the splits are chosen by its hash. A file name that is no UTF-8 becomes text (`as_text`).
        class_name: one of the listing's `classes`.
        read: gives the encoded image (JPEG, PNG, …; whatever lies on disk). Opens nothing before it is called
            and is picklable, so it runs in a worker. Raises OSError or ValueError where the image cannot be
            had.
    """

    key: str
    class_name: str
    read: Callable[[], bytes]

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", as_text(self.key))
        object.__setattr__(self, "class_name", as_text(self.class_name))


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", [as_text(name) for name in self.classes])


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
    """The bytes of a regular file. A pipe or a device would hang the build, so it is an OSError instead.

    Raises:
        ValueError: more than MAX_FILE_BYTES.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{path} is not a regular file")
        refuse_large(path, facts.st_size)
        return file.read()


def refuse_large(where: str, size: int) -> None:
    """Raises ValueError where `size` bytes are more than one file may have: a film or a bomb, not an image."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{where} holds {size:,} bytes: more than the {MAX_FILE_BYTES:,} that are taken")


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
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
