"""Folders, tars and zips behind one interface: the names below a root, and for each a reader of that file.

Archives are not unpacked. The headers of a tar and the directory of a zip are read once, members then by offset, so a
worker gets (path, offset, size) and never an open archive. A compressed tar (`.tgz`, `.tar.gz`, `.tar.xz`, …) cannot
be read by offset: it is decompressed once into a plain tar in the cache folder (`GUIE_CACHE`, by default `guie-cache`
in the temporary folder).

Names use `/`. A name that leaves the root is listed, but its reader refuses it; so it is with links and devices.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import BadInput
from pipeline.files import fingerprint
from tfrecords.listing.items import below, files_below, is_folder, is_hidden, reader_below, refuse, refuse_large

Reader = Callable[[], bytes]
COMPRESSED: dict[bytes, Callable[..., BinaryIO]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
    b"BZh": bz2.open,  # type: ignore[dict-item]
    b"\xfd7zXZ": lzma.open,  # type: ignore[dict-item]
}
UNREADABLE = (
    OSError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
    UnicodeDecodeError,  # a zip whose names are flagged as UTF-8 and are not
    NotImplementedError,  # a zip of a later version
)


class Store:
    """Files by name, in a folder or an archive.

    Args:
        where: the folder or archive.
        readers: name → reader, for an archive; None: a folder on disk, listed on demand.
        prefix: prepended to every name (`CUB_200_2011/`); ends in `/` or is empty.
    """

    def __init__(self, where: Path, readers: dict[str, Reader] | None = None, prefix: str = ""):
        self.where, self.readers, self.prefix = where, readers, prefix
        self._ordered: list[str] | None = None

    def has(self, name: str) -> bool:
        if self.readers is None:
            return (self.where / (self.prefix + name)).is_file()
        return self.prefix + name in self.readers

    def has_folder(self, name: str) -> bool:
        if self.readers is None:
            return (self.where / (self.prefix + name)).is_dir()
        return next(self._names(f"{self.prefix}{name}/"), None) is not None

    def reader(self, name: str) -> Reader:
        """A picklable function that reads `name`. Opens nothing now; a missing file raises when it is called."""
        if self.readers is None:
            return reader_below(self.where / self.prefix, name)
        return self.readers.get(self.prefix + name) or partial(refuse, f"{name} is not in {self.where.name}")

    def text(self, name: str) -> str:
        """Raises BadInput where `name` is missing, cannot be read or is not UTF-8."""
        try:
            return self.reader(name)().decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise BadInput(f"expected the file {name} in {self.where / self.prefix}: {error}") from None

    def files(self, folder: str = "") -> Iterator[str]:
        """The names of all files below `folder`, sorted."""
        folder = folder and f"{folder.rstrip('/')}/"
        if self.readers is not None:
            yield from (name[len(self.prefix) :] for name in self._names(self.prefix + folder))
        elif (root := self.where / self.prefix / folder).is_dir():
            yield from (folder + name for name in files_below(str(root)))

    def folders(self, folder: str = "") -> list[str]:
        """The names (not paths) of the folders directly in `folder`, sorted."""
        folder = folder and f"{folder.rstrip('/')}/"
        if self.readers is None:
            root = self.where / self.prefix / folder
            inside = os.scandir(root) if root.is_dir() else ()
            return sorted(e.name for e in inside if is_folder(e) and not is_hidden(e))
        start = len(self.prefix + folder)
        paths = (name[start:] for name in self._names(self.prefix + folder))
        return sorted({path.split("/", 1)[0] for path in paths if "/" in path})

    def at(self, marker: str) -> "Store | None":
        """The store of the folder that holds `marker` (a file or a folder): this one, or at most two levels down."""
        if self.has(marker) or self.has_folder(marker):
            return self
        for first in self.folders():
            for deeper in (first, *(f"{first}/{second}" for second in self.folders(first)[:20])):
                inner = Store(self.where, self.readers, f"{self.prefix}{deeper}/")
                inner._ordered = self._ordered
                if inner.has(marker) or inner.has_folder(marker):
                    return inner
        return None

    def _names(self, prefix: str) -> Iterator[str]:
        if self._ordered is None:
            self._ordered = sorted(self.readers or {})
        for index in range(bisect_left(self._ordered, prefix), len(self._ordered)):
            if not self._ordered[index].startswith(prefix):
                return
            yield self._ordered[index]


def find(root: Path, marker: str, archives: tuple[str, ...] = ()) -> Store | None:
    """The store that holds the file or folder `marker`; None where there is none.

    `root`: a folder or an archive. `archives`: names of archives in the folder `root`, looked into where the folder
    itself lacks `marker`. Raises BadInput: nothing at `root`, or an archive that cannot be read.
    """
    if root.is_dir():
        found = Store(root).at(marker)
        packed = [root / name for name in archives if (root / name).is_file()] if found is None else []
        return found or next((store for path in packed if (store := open_archive(path).at(marker))), None)
    if root.is_file():
        return open_archive(root).at(marker)
    raise BadInput(f"expected a folder or an archive: {root} does not exist; set the source's root")


def open_archive(path: Path) -> Store:
    """Raises BadInput where `path` is neither a tar (compressed or not) nor a zip, or is damaged."""
    try:
        if zipfile.is_zipfile(path):
            return Store(path, _zip_readers(path))
        members = tar_members(_plain_tar(path), str(path))
        return Store(path, {name: reader for name, reader, _, _ in members})
    except UNREADABLE as error:
        raise unreadable(str(path), error) from None


def unreadable(where: str, error: Exception) -> BadInput:
    return BadInput(f"{where} cannot be read as a tar or zip archive ({error}): is it whole?")


def tar_members(
    path: Path, where: str, start: int = 0, size: int | None = None
) -> Iterator[tuple[str, Reader, int, int]]:
    """`(name, reader, offset, size)` of each file of a plain tar. Only headers are read.

    `where`: what to call the tar in messages. `start`, `size`: of a tar inside the tar, in bytes; by default the whole
    file. Raises BadInput: a header is damaged, or the tar is cut off.
    """
    try:
        yield from _tar_members(path, start, size)
    except tarfile.TarError as error:
        raise unreadable(where, error) from None


def _tar_members(path: Path, start: int, size: int | None) -> Iterator[tuple[str, Reader, int, int]]:
    with path.open("rb") as file:
        limit = start + size if size is not None else path.stat().st_size
        file.seek(start)  # tarfile begins where the file stands; its offsets are the file's
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all: 1.3 million for ImageNet
                name, offset = member.name.removeprefix("./"), member.offset_data
                if archive.offset > limit:
                    break  # cut off, see below
                if member.isdir() or name.rsplit("/", 1)[-1].startswith("."):
                    continue
                if not member.isreg() or member.issparse():
                    yield name, partial(refuse, f"{name} in {path.name} is a link or no plain file"), 0, 0
                elif _leaves_root(name):
                    yield name, partial(refuse, f"path {name!r} leaves the archive's root"), 0, 0
                else:
                    yield name, partial(read_slice, str(path), offset, member.size), offset, member.size
        # To tarfile a damaged header or a cut is the end of the tar. The real end is two blocks of zeros, or one by
        # some writers; what follows is padding.
        end_at = min(archive.offset, limit)
        file.seek(end_at)
        end = file.read(min(2 * tarfile.BLOCKSIZE, limit - end_at))
        if len(end) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it is cut off at byte {end_at}: no zero block ends it")
        if any(end):
            raise tarfile.ReadError(f"the header at byte {end_at} is damaged")


def read_slice(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on; raises OSError where it ends before, ValueError as `refuse_large`."""
    refuse_large(f"the member at byte {offset} of {path}", size)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"{path} ends before byte {offset + size}")
    return data


def read_zipped(path: str, offset: int, packed: int, size: int, method: int, crc: int) -> bytes:
    """One member of a zip, whose local header begins at `offset`; raises ValueError by its length or CRC-32."""
    refuse_large(f"the member at byte {offset} of {path}", max(packed, size))
    with open(path, "rb") as file:
        file.seek(offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError(f"{path}: no zip member begins at byte {offset}")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        data = file.read(packed)
    if method == zipfile.ZIP_DEFLATED:
        try:  # never more than the size that the directory states
            data = zlib.decompressobj(-15).decompress(data, size + 1)
        except zlib.error as error:
            raise ValueError(f"{path}: the zip member at byte {offset} is damaged ({error})") from None
    if len(data) != size or zlib.crc32(data) != crc:
        raise ValueError(f"{path}: the zip member at byte {offset} is damaged")
    return data


def _zip_readers(path: Path) -> dict[str, Reader]:
    readers: dict[str, Reader] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removeprefix("./")
            if info.is_dir() or name.rsplit("/", 1)[-1].startswith(".") or name.startswith("__MACOSX/"):
                continue
            if _leaves_root(name):
                readers[name] = partial(refuse, f"path {name!r} leaves the archive's root")
            elif info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                readers[name] = partial(refuse, f"{name} in {path.name} is encrypted or packed unusually")
            else:
                member = (info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
                readers[name] = partial(read_zipped, str(path), *member)
    return readers


def _leaves_root(name: str) -> bool:
    try:
        below(Path("/"), name)
    except ValueError:
        return True
    return False


def _plain_tar(path: Path) -> Path:
    """`path`; where it is compressed, its decompressed copy in the cache, which appears whole or not at all."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in COMPRESSED.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    facts = path.stat()
    name = fingerprint([str(path.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino])
    cache = Path(os.environ.get("GUIE_CACHE") or Path(tempfile.gettempdir()) / "guie-cache")
    plain = cache / f"{name}-{path.name.split('.')[0]}.tar"
    if not plain.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"{path} is compressed: decompressing it once into {plain}", flush=True)
        temporary = plain.with_suffix(f".partial-{os.getpid()}")  # several processes may write it at once
        try:
            with opener(path, "rb") as packed, temporary.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            os.replace(temporary, plain)
        finally:
            temporary.unlink(missing_ok=True)
    return plain
