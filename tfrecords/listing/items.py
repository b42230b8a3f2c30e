"""What the build gets from a source: its classes in label order, and its images as `Item`s that open nothing yet."""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput

# The class of an image that matches nothing, a distractor, as the Met's own code labels it.
NO_CLASS = "-1"

# Of a file read whole: MAX_PIXELS of `pixels` as 16-bit RGBA are 0.7 GB, CIFAR-100 is 0.2 GB.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    # Unique in its source and the same on every machine (a path below the root, an id, a number). Its hash decides the
    # cap and the split. A file name that is not UTF-8 is escaped (`as_text`).
    key: str
    class_name: str  # one of the listing's `classes`
    # Returns the encoded image (JPEG, PNG, …, as it lies on disk). It opens nothing before it is called and is
    # picklable, so that a worker process can call it. Raises OSError or ValueError where the image cannot be read.
    # Where it reads of a file it is a `partial` whose first argument is the file's path.
    read: Callable[[], bytes]
    # Further classes of the image, where a benchmark gives several: a query then hits by any of them. Records and
    # `guie score` go by `class_name`.
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", as_text(self.key))
        object.__setattr__(self, "class_name", as_text(self.class_name))
        if self.also:
            object.__setattr__(self, "also", tuple(map(as_text, self.also)))

    @property
    def file(self) -> str:
        """The path of the file that `read` reads of; "" where there is none: drawn images, names that are refused."""
        first = next(iter(getattr(self.read, "args", ())), "")
        first = getattr(first, "read_arguments", (first,))[0]  # of an array, see arrays.Batch
        return first if isinstance(first, str) and getattr(self.read, "func", None) is not refuse else ""


@dataclass(frozen=True)
class Listing:
    """A source as listed."""

    classes: list[str]  # in label order
    items: Iterable[Item]  # can be iterated more than once, lazily, always in the same order
    # class → its human-readable name, for the classes where the two differ
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", list(dict.fromkeys(map(as_text, self.classes))))


class Lazily:
    """An iterable that calls `generator(*arguments)` anew each time: ImageNet's items are never all in memory.

    A name that is not UTF-8 may read as another one, see `as_text`: the second image of a key is listed under a key of
    its own, and cannot be read. An OSError while iterating (permissions, a disk that goes) becomes BadInput; the set
    would otherwise seem smaller.
    """

    def __init__(self, generator: Callable[..., Iterator[Item]], *arguments: Any):
        self.generator, self.arguments = generator, arguments

    def __iter__(self) -> Iterator[Item]:
        escaped: set[str] = set()
        try:
            for item in self.generator(*self.arguments):
                if "\\x" in item.key:
                    item = _told_apart(item, escaped)
                yield item
        except OSError as error:
            raise BadInput(f"the source cannot be listed: {error}") from None


def _told_apart(item: Item, escaped: set[str]) -> Item:
    """The item, or where its key is one of `escaped` already, one of another key that cannot be read."""
    key = item.key
    while key in escaped:
        key += " (2)"
    escaped.add(key)
    if key == item.key:
        return item
    why = f"its name is not UTF-8 and reads as {item.key}, as another does"
    return replace(item, key=key, read=partial(refuse, why))


def read_file(path: str) -> bytes:
    """The bytes of a regular file.

    Raises OSError: no such file, or a pipe or a device, which would hang the build. Raises ValueError: more than
    MAX_FILE_BYTES.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{path} is not a regular file")
        refuse_large(path, facts.st_size)
        return file.read()


def refuse_large(where: str, size: int) -> None:
    """Raises ValueError where `size` exceeds MAX_FILE_BYTES: a film or a bomb, not an image."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{where} holds {size:,} bytes: more than the {MAX_FILE_BYTES:,} that are taken")


def existing_folder(root: Path, what: str) -> Path:
    """Raises BadInput where `root` is not a folder; `what` names the folder that was expected."""
    if not root.is_dir():
        came = "is a file" if root.is_file() else "does not exist"
        raise BadInput(f"expected {what}: {root} {came}; set the source's root (relative to data_root)")
    return root


def existing_file(path: Path, layout: str) -> Path:
    """Raises BadInput where a file that the layout needs is missing."""
    if not path.is_file():
        raise BadInput(f"layout {layout} expects the file {path}, which does not exist: is the root right?")
    return path


def file_in(root: Path, places: Sequence[str], name: str, layout: str) -> Path:
    """The file in the first of some folders below `root` that has it; "": the root. Raises BadInput where none has."""
    for place in places:
        if (path := root / place / name).is_file():
            return path
    where = " or ".join(str(root / place) for place in places)
    raise BadInput(f"layout {layout} expects {name} in {where}: is the root right?")


def files_below(folder: str, prefix: str = "", ancestors: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Paths relative to `folder` of every file below it, by name; a loop of symbolic links is listed as one file."""
    known = (*ancestors, _identity(os.stat(folder)))
    with os.scandir(folder) as entries:
        ordered = sorted((entry for entry in entries if not is_hidden(entry)), key=lambda entry: entry.name)
    for entry in ordered:
        if is_folder(entry) and _identity(entry.stat()) not in known:
            yield from files_below(entry.path, f"{prefix}{entry.name}/", known)
        else:  # broken links, loops and pipes too: reading them fails, and rejects.csv names them
            yield prefix + entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a name leads to a folder; a link that leads to itself does not."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def is_hidden(entry: os.DirEntry[str]) -> bool:
    """Whether a name begins with a dot: `.DS_Store`, `._copy.jpg`, version control."""
    return entry.name.startswith(".")


def below(root: Path | str, relative: str) -> str:
    """`root/relative`. A CSV may hold `../..` or an absolute path: both are refused.

    Only the text is checked. A symbolic link below the root was put there by the user and is followed. Raises
    ValueError: the path is empty, absolute or leaves the root.
    """
    normal = os.path.normpath(relative) if relative else ".."
    if "\0" in relative or os.path.isabs(normal) or normal.split(os.sep, 1)[0] == "..":
        raise ValueError(f"path {relative!r} leaves the source's root")
    return os.path.join(root, normal)


def expect_below(path: str, where: Path | str, number: int) -> None:
    """Raises BadInput where a path of a benchmark's list leaves the root or is no text; its authors' own never do.

    `where`, `number`: the list and the row, for the message.
    """
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:  # half of a pair, which JSON can write
            raise BadInput(f"{where}: row {number}: path {path!r} is no text that UTF-8 can hold"[:400]) from None
    if ".." in path or path.startswith("/") or "\0" in path or not path:  # else it cannot
        try:
            below("", path)
        except ValueError as error:
            raise BadInput(f"{where}: row {number}: {error}") from None


def reader_below(root: Path, relative: str) -> Callable[[], bytes]:
    """Reads `root/relative`; raises ValueError when called where the path leaves the root."""
    try:
        return partial(read_file, below(root, relative))
    except ValueError as error:
        return partial(refuse, str(error))


def refuse(reason: str) -> bytes:
    """The `read` of an item that is known to be unreadable: `reason` goes to rejects.csv."""
    raise ValueError(reason)


def as_text(path: str) -> str:
    """A file name as UTF-8 text: each byte that is not UTF-8 is written as \\xNN."""
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
