"""Files that may be far away: read by offset, many at a time, again where a read fails. Behind a URL through fsspec.

Nothing is written behind a URL.
"""

import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import BadInput, missing, reason
from pipeline.guards.masked import shown

READS = 64  # at a time. A rate needs rate × latency of them: 450 images/s at 20 ms nine, at 100 ms 45
ATTEMPTS, PAUSE_SECONDS = 3, 0.2  # the pause before the second attempt; four times as long before the third
PIECE_BYTES = 256  # what a View reads at a time: labels and keys stand together, before or behind an image
BUFFER_BYTES = 2**22  # of a file behind a URL that is read from its beginning to its end

One = TypeVar("One")
Found = TypeVar("Found")


def is_url(text: str) -> bool:
    """
    >>> is_url("gs://bucket/a.tfrec"), is_url("a/b.tfrec"), is_url("folder:photos")
    (True, False, False)
    """
    return "://" in text


def expect_local(what: str, path: str) -> None:
    """Raises BadInput for a URL where a path of this machine is needed: whatever is written, and all but shards."""
    if is_url(path):
        mend = "mount it (gcsfuse) or copy it (gcloud storage cp); only shards are read behind URLs"
        raise BadInput(f"{what}: expected a path of this machine, got {shown(path)}: {mend}")


@dataclass(frozen=True, order=True)
class RemoteFile:
    """A file behind a URL, with what readers use of `pathlib.Path`; raises BadInput where it cannot be reached."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemoteFile":
        return RemoteFile(self.url.rpartition("/")[0])

    def __truediv__(self, name: str) -> "RemoteFile":
        return RemoteFile(f"{self.url}/{name}")

    def with_suffix(self, suffix: str) -> "RemoteFile":
        return self.parent / Path(self.name).with_suffix(suffix).name

    def resolve(self) -> "RemoteFile":
        return self

    def is_file(self) -> bool:
        system, path = _system(self.url)
        return _tried(self.url, lambda: bool(system.isfile(path)))

    def is_dir(self) -> bool:
        return False

    exists = is_file

    def size(self) -> int:
        """In bytes."""
        system, path = _system(self.url)
        return _tried(self.url, lambda: int(system.info(path)["size"]))

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; fewer at the end of the file."""
        system, path = _system(self.url)
        whole = lambda found: len(found) == length  # noqa: E731
        return _tried(self.url, lambda: system.cat_file(path, start=offset, end=offset + length), whole)

    def read_bytes(self) -> bytes:
        system, path = _system(self.url)
        return _tried(self.url, lambda: system.cat_file(path))

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """For reading from the beginning to the end."""
        assert mode == "rb"
        return io.BufferedReader(_Stream(self), BUFFER_BYTES)


File = Path | RemoteFile


class LocalFile:
    """A file of this machine that any thread reads by offset; closed when nobody refers to it any more."""

    def __init__(self, path: Path):
        self.path, self._file = path, -1
        self._file = _tried(str(path), lambda: os.open(path, os.O_RDONLY))

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; fewer at the end of the file. BadInput where the disk gives none."""
        return _tried(str(self.path), lambda: self._read(offset, length))

    def _read(self, offset: int, length: int) -> bytes:
        found = os.pread(self._file, length, offset)
        while len(found) < length and (more := os.pread(self._file, length - len(found), offset + len(found))):
            found += more  # a disk behind a network may give less than asked
        return found

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def reader(file: File) -> LocalFile | RemoteFile:
    """What reads `file` by offset, see `read` of both."""
    return LocalFile(file) if isinstance(file, Path) else file


class View:
    """A part of a file as bytes by index and slice; only pieces that somebody looks at are read.

    The first piece begins at the first byte that is asked for.
    """

    def __init__(self, source: LocalFile | RemoteFile, start: int, stop: int):
        self._source, self._start, self._stop, self._end = source, start, stop, stop
        self._pieces: list[tuple[int, bytes]] = []  # where each begins; shared by the slices

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            part = View(self._source, self._start + start, self._start + max(start, stop))
            part._pieces, part._end = self._pieces, self._end
            return part
        at = self._start + key
        if at >= self._stop:
            raise IndexError(key)
        for begin, held in self._pieces:
            if begin <= at < begin + len(held):
                return held[at - begin]
        self._pieces.append((at, self._source.read(at, min(PIECE_BYTES, self._end - at))))
        return self._pieces[-1][1][0]  # IndexError: the file ends before

    def __bytes__(self) -> bytes:
        return bytes(self[at] for at in range(len(self)))


def file_of(text: str | Path) -> File:
    """The file of a path or a URL."""
    return RemoteFile(text) if isinstance(text, str) and is_url(text) else Path(text)


def matching(url: str) -> list[RemoteFile]:
    """The files that a glob behind a URL (`gs://bucket/*-train-*.tfrec`) matches, by name."""
    system, path = _system(url)
    system.invalidate_cache()  # another process may have written since
    found = _tried(url, lambda: system.glob(path) or [path] * system.isfile(path))
    return [RemoteFile(system.unstrip_protocol(each)) for each in sorted(found)]


def side_by_side(function: Callable[[One], Found], items: Sequence[One], piece: int = 1) -> list[Found]:
    """`function` of every item, in order, up to READS at a time; the first item's error that failed is raised.

    `piece`: items that one thread takes at a time. `function` must not call `side_by_side`.
    """
    pieces = [items[first : first + piece] for first in range(0, len(items), piece)]
    found = _pool().map(lambda each: [function(item) for item in each], pieces)
    return [one for each in found for one in each]


def submit(function: Callable[[One], Found], item: One) -> "Future[Found]":
    """`function` of one item, begun now. `function` must not call `side_by_side`."""
    return _pool().submit(function, item)


class _Stream(io.RawIOBase):
    """A RemoteFile as Python's own streams are."""

    def __init__(self, file: RemoteFile):
        self.file, self.at, self.bytes = file, 0, file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.bytes}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self.bytes - self.at), 0)
        found = self.file.read(self.at, length) if length else b""
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)


def _tried(what: str, call: Callable[[], Found], enough: Callable[[Found], bool] = lambda _: True) -> Found:
    """What `call` gives; called again where it fails or does not give enough. BadInput names `what`."""
    for attempt in range(ATTEMPTS):
        try:
            found = call()
            if enough(found) or attempt == ATTEMPTS - 1:
                return found
        except (FileNotFoundError, IsADirectoryError):
            raise BadInput(f"expected {what}, no such file is there (any more)") from None
        except PermissionError as error:
            raise BadInput(f"{what} may not be read: {reason(error)}") from None
        except Exception as error:  # fsspec's file systems each raise their own
            if attempt == ATTEMPTS - 1:
                said = f"{what} cannot be read, tried {ATTEMPTS} times: {reason(error)}"
                raise BadInput(f"{said}; the same command goes on where it can be reached again") from None
        time.sleep(PAUSE_SECONDS * 4**attempt)
    raise AssertionError("the last attempt returns or raises")


@lru_cache(4096)
def _system(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path in it."""
    scheme = url.partition("://")[0]
    # gcsfs would ask for each bucket's kind by gRPC: what is read here, all kinds give by the same requests.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec

        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks of what is tried again
        return fsspec.core.url_to_fs(url)
    except ImportError:
        needs = f"{url}: {scheme}:// needs"
        raise missing(needs, "the package that reads it", "remote", "what fsspec needs for it") from None
    except Exception as error:
        raise BadInput(f"{url} cannot be opened: {reason(error)}") from None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READS, "read")
