"""Files of a run folder: whole or absent, JSON and CSV, globs, fingerprints. What is read may be behind a URL."""

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline import reading
from pipeline.errors import BadInput
from pipeline.guards import machine
from pipeline.guards.masked import shown
from pipeline.reading import File, RemoteFile, file_of, is_url


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` (a file or a folder), renamed to `path` when the block ends well.

    A block that raises leaves nothing; a kill leaves at most a `.partial-*` name, which the next writer removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".partial-{path.name}-*"):
        remove(stale)
    temporary = path.parent / f".partial-{path.name}-{os.getpid()}"
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)  # a folder cannot be renamed over one that holds files
        os.replace(temporary, path)
    except Exception as error:
        machine.note(error, path)
        raise
    finally:
        remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all; a file that holds the text already stays as it is, with its times."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == text.encode():
            return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """As JSON; of what the environment gave the reference, see `masked.shown`."""
    write_text(path, json.dumps(shown(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises BadInput where the file is missing or is not JSON."""
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not whole JSON ({error}): remove it and rerun the command that writes it") from None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV with `\\n` at the ends of lines, whole or not at all.

    Names are data that programs read back, so they stand as they are: what holds a comma, a quote or an end of line is
    quoted (RFC 4180), and nothing is put before a name that a spreadsheet would take for a formula (`=cmd()`, `@x`).
    """
    write_text(path, "".join(map(csv_line, [header, *rows])))


def csv_line(row: Sequence[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(row)  # these two are quoted within a name: "\n" alone leaves "\r"
    return text.getvalue().removesuffix("\r\n") + "\n"


def write_array(path: Path, values: Any) -> None:
    """A NumPy array as .npy."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        save_array(file, values.dtype, values.shape, [values])


def save_array(file: BinaryIO, dtype: Any, shape: tuple[int, ...], blocks: Iterable[Any]) -> None:
    """As np.save, of blocks of rows, one in memory at a time.

    np.save writes by C, whose errors do not say that the disk is full; a file that is mapped ends the process there.
    """
    import numpy as np  # a command that only asks for --help needs none of it

    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)  # type: ignore[arg-type]
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype).data)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """NumPy arrays, or what becomes one, as .npz, each under its name."""
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes names for its options


def read_arrays(path: Path) -> dict[str, Any] | None:
    """What `write_arrays` has written; None where there is none, or the file is damaged."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except Exception as error:  # of whatever kind the damage is
        if machine.refuses(error):
            raise
        return None


def matching(pattern: str | Path) -> Sequence[File]:
    """The files and folders that a glob (`**` too) matches, by name; a name with [brackets] in it matches itself.

    Behind a URL files alone. Raises BadInput: a URL that cannot be reached.
    """
    if is_url(str(pattern)):
        return reading.matching(str(pattern))
    found = sorted(glob.glob(str(pattern), recursive=True))
    return [Path(path) for path in found] or [Path(pattern)] * os.path.isfile(pattern)


def fingerprint(value: Any) -> str:
    """16 hex digits of a JSON-able value; equal values, equal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: File) -> str:
    """Raises BadInput where the file is missing."""
    with _existing(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(path: File) -> int:
    """In bytes."""
    return path.size() if isinstance(path, RemoteFile) else path.stat().st_size


def identity(path: str | File) -> str:
    """16 hex digits of what a file, or every file of a folder, holds, wherever it lies; "" where nothing is there.

    Of a file above 4 MiB its length and 64 pieces are read, evenly spread: gigabytes of weights cost nothing, and other
    weights differ everywhere.
    """
    path = file_of(path) if isinstance(path, str) else path
    if isinstance(path, Path) and path.is_dir():
        held = sorted(each for each in path.rglob("*") if each.is_file())
        return fingerprint([(each.relative_to(path).as_posix(), identity(each)) for each in held])
    if not path.is_file():
        return ""
    length, piece, pieces = size(path), 2**16, 64
    if length <= piece * pieces:
        return file_sha256(path)[:16]
    found, source = hashlib.sha256(str(length).encode()), reading.reader(path)
    for number in range(pieces):
        found.update(source.read((length - piece) * number // (pieces - 1), piece))
    return found.hexdigest()[:16]


def _existing(path: File) -> File:
    if not path.exists():
        raise BadInput(f"expected {path}, which does not exist: has the command before it been run?")
    return path


def remove(path: Path) -> None:
    """A file or a folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
