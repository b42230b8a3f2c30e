"""submission.zip: packs one, and checks anybody's before it is unpacked or loaded. No TensorFlow.

TensorFlow: saved_model.pb, variables/variables.index, variables/variables.data-…; PyTorch: saved_model.pt.
All at the root of the zip. Refused: a path that leads outside or is too deep, a link, a bomb, a zip without a model.
"""

import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.errors import BadInput, reason
from pipeline.files import atomic_path

MAX_BYTES = 20 << 30  # unpacked; a Kaggle notebook's output folder holds 20 GB
MAX_RATIO = 50  # weights barely compress; a graph of text at most some 20-fold
SMALL_BYTES = 64 << 20  # below this no ratio is dangerous
MAX_ENTRIES = 10_000
MAX_DEPTH = 64  # folders; a SavedModel has one, the code in a TorchScript file some ten
MAX_NAME = 1024  # bytes of a path; no file system takes more than 4,096
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date of the format
TENSORFLOW, TORCH = "tensorflow", "torch"
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, NotImplementedError)


def kind_of(names: list[str], where: str) -> str:
    """Which contract the file names of a submission follow: "tensorflow" or "torch".

    Raises BadInput: neither, both, files missing, or all of it inside a parent folder.
    """
    tensorflow, torch = "saved_model.pb" in names, "saved_model.pt" in names
    if tensorflow and torch:
        raise BadInput(f"{where}: holds saved_model.pb and saved_model.pt; a submission is one of the two")
    if torch:
        return TORCH
    if not tensorflow:
        nested = (path for path in map(PurePosixPath, names) if path.name in ("saved_model.pb", "saved_model.pt"))
        if path := next(nested, None):
            expected = "expected it at the root of the zip, not in a parent folder"
            raise BadInput(f"{where}: {path.name} is in the folder {shortened(str(path.parent))}; {expected}")
        shown = ", ".join(shortened(name) for name in sorted(names)[:3]) or "nothing"
        raise BadInput(f"{where}: expected saved_model.pb or saved_model.pt, it holds {shown}: not a model")
    if "variables/variables.index" not in names:
        raise BadInput(f"{where}: variables/variables.index is missing beside saved_model.pb")
    if not any(name.startswith("variables/variables.data-") for name in names):
        raise BadInput(f"{where}: variables/variables.data-00000-of-00001 is missing: the model has no weights")
    return TENSORFLOW


def inspect(zip_path: Path) -> str:
    """Checks a submission's zip without unpacking it; returns "tensorflow" or "torch".

    Raises BadInput: as `entries_of`; no model.
    """
    if not zip_path.is_file():
        raise BadInput(f"expected a submission.zip or a SavedModel folder, {zip_path} does not exist")
    entries = entries_of(zip_path, str(zip_path), "submission.zip or a SavedModel folder")
    return kind_of([entry.filename for entry in entries if not entry.is_dir()], str(zip_path))


def entries_of(zip_path: Path, name: str, expected: str) -> list[zipfile.ZipInfo]:
    """The entries of anybody's zip, checked before anything is unpacked.

    Args:
        name, expected: what the zip is called and what it should be, for messages.

    Raises:
        BadInput: not a whole zip, a path that leads outside or is too deep, a link, a name twice, encrypted, a bomb.
    """
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, struct.error, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise BadInput(f"{name}: expected a {expected}, this is not a whole zip file ({reason(error)})") from None
    if len(entries) > MAX_ENTRIES:
        raise BadInput(f"{name}: {len(entries):,} entries; a submission has a handful: refused as a bomb")
    names = set()
    for entry in entries:
        path, named = PurePosixPath(entry.filename.replace("\\", "/")), f"{name}: entry {shortened(entry.filename)}"
        if not entry.filename:
            raise BadInput(f"{name}: an entry without a name: refused")
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise BadInput(f"{named} leads outside the zip: refused")
        if (depth := len(path.parts) - 1) > MAX_DEPTH:
            raise BadInput(f"{named} is {depth:,} folders deep, more than {MAX_DEPTH}: refused")
        if len(entry.filename.encode("utf-8", "replace")) > MAX_NAME:
            raise BadInput(f"{named} has a name of {len(entry.filename):,} characters: refused")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BadInput(f"{named} is a link: refused")
        if entry.flag_bits & 0x1:
            raise BadInput(f"{named} is encrypted: refused")
        if entry.filename in names:
            raise BadInput(f"{named} is in the zip twice: refused")
        names.add(entry.filename)
        ratio = entry.file_size / max(entry.compress_size, 1)
        if entry.file_size > SMALL_BYTES and ratio > MAX_RATIO:
            raise BadInput(f"{named} grows {ratio:,.0f}-fold to {entry.file_size:,} bytes: refused as a bomb")
    total = sum(entry.file_size for entry in entries)
    ratio = total / max(zip_path.stat().st_size, 1)  # of the file: entries may share their compressed bytes
    if total > SMALL_BYTES and ratio > MAX_RATIO:
        raise BadInput(f"{name}: grows {ratio:,.0f}-fold to {total:,} bytes: refused as a bomb")
    if total > MAX_BYTES:
        raise BadInput(f"{name}: unpacks to {total:,} bytes, more than {MAX_BYTES:,}: refused as a bomb")
    return entries


def shortened(filename: str, most: int = 80) -> str:
    """A name out of a zip as part of one line.

    >>> shortened("a/" * 500 + "b", 12)
    "'a/a/a/a/a/a/…'"
    """
    return repr(filename if len(filename) <= most else filename[:most] + "…")


def unpack(zip_path: Path, into: Path) -> str:
    """Inspects a submission's zip and unpacks it; returns "tensorflow" or "torch".

    Writes no more bytes than the zip states, whatever its data decompress to. Raises BadInput as `inspect`; an entry
    whose bytes do not match its stated size or check sum; a disk without room for it.
    """
    kind = inspect(zip_path)
    into.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(zip_path) as archive:
        total, free = sum(entry.file_size for entry in archive.infolist()), shutil.disk_usage(into).free
        if total > free:
            raise BadInput(f"{zip_path}: unpacks to {total:,} bytes, {free:,} are free in {into.parent}: set TMPDIR")
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            target = into / entry.filename
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(archive, entry, target)
            except DAMAGE as error:
                raise BadInput(f"{zip_path}: entry {shortened(entry.filename)} is damaged ({reason(error)})") from None
    return kind


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    written = 0
    with archive.open(entry) as source, target.open("wb") as file:
        while block := source.read(1 << 20):
            written += len(block)
            if written > entry.file_size:
                raise zipfile.BadZipFile("more bytes than it states")
            file.write(block)
    if written != entry.file_size:
        raise zipfile.BadZipFile("fewer bytes than it states")


def zip_submission(saved_model_dir: Path, zip_path: Path) -> None:
    """Writes the folder's files at the root of a zip; equal files give equal bytes. Weights are not compressed.

    Raises BadInput: the folder holds no saved_model.pb.
    """
    if not (saved_model_dir / "saved_model.pb").is_file():
        raise BadInput(f"expected a SavedModel folder, {saved_model_dir} holds no saved_model.pb")
    files = sorted(path for path in saved_model_dir.rglob("*") if path.is_file())
    with atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(saved_model_dir).as_posix(), ZIP_DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED if path.suffix == ".pb" else zipfile.ZIP_STORED
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
