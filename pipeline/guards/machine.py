"""What the machine refuses — disks, memory, files, processes — as one line that says what to do."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput, reason

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

GOES_ON = "; the same command then goes on from here"
_MENDS = {
    errno.ENOSPC: (
        "the disk is full, or has no inodes left: free some (`df -h`, `df -i`), or choose another run_dir (--out)"
    ),
    errno.EDQUOT: "the disk quota is used up: free some (`quota -s`), or choose another run_dir (--out)",
    errno.EROFS: "the file system cannot be written: mount it rw, or choose another run_dir (--out)",
    errno.EFBIG: "the file is larger than is allowed: raise `ulimit -f`, or choose a disk that takes larger files",
    errno.EMFILE: "too many files are open in this process: raise `ulimit -n`, or use fewer workers",
    errno.ENFILE: "too many files are open on this machine: end other programs, or raise fs.file-max",
    errno.ENOMEM: "no memory is left: free some, raise `ulimit -v`, or use fewer workers or a smaller batch_size",
    errno.EAGAIN: "no more processes or threads may be started: raise `ulimit -u`, or use fewer workers",
    errno.EIO: "the disk reports an error: look at `dmesg`, and choose another disk",
    errno.ENOTCONN: "the disk is gone: mount it again",
    errno.ESTALE: "the disk is gone: mount it again",
}
# What TensorFlow, safetensors, SQLite and the loader of libraries write in place of an errno.
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "requested and": errno.ENOSPC,  # `24576 requested and 8160 written`, of np.save
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "file too large": errno.EFBIG,
    "too many open files": errno.EMFILE,
    "cannot allocate memory": errno.ENOMEM,
    "failed to map segment from shared object": errno.ENOMEM,
    "oom when allocating": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "bad_alloc": errno.ENOMEM,
    "insufficient memory": errno.ENOMEM,
    "can't start new thread": errno.EAGAIN,
    "resource temporarily unavailable": errno.EAGAIN,
    "input/output error": errno.EIO,
    "stale file handle": errno.ESTALE,
}
_AT = "while writing "
# Of these an image that cannot be read is no damaged image.
_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOTCONN, errno.ESTALE}


def line(error: BaseException) -> str | None:
    """What the machine refused, where, and the mend; None for an error that is not the machine's."""
    for each in _chain(error):
        number = _number(each)
        if number is not None:
            if number == errno.ENOMEM and (why := _too_few_addresses("numpy")):
                return why  # under such a limit it is the machine's chance where memory ends
            notes = [note.removeprefix(_AT) for note in getattr(each, "__notes__", ()) if note.startswith(_AT)]
            where = next(iter(notes), None) or getattr(each, "filename", None)
            what = f"{where}: " if isinstance(where, str) else ""
            said = "" if isinstance(each, OSError) and each.errno == number else f" ({reason(each, most=160)})"
            return f"{what}{_MENDS[number]}{said}{GOES_ON}"
    return None


def note(error: BaseException, path: Path) -> None:
    """Has `line` name the file that was being written; most errors do not."""
    error.add_note(f"{_AT}{path}")


def refuses(error: BaseException) -> bool:
    """Whether reading failed for want of files or memory, or as the disk is gone: for no fault of what was read."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OWN)


# Bytes that may be mapped; few of them are ever used.
_ADDRESSES = {"numpy": 1e9, "tensorflow": 6e9}


class AddressSpace:
    """Refuses to import TensorFlow, and anything at all, where `ulimit -v` would have C++ abort without a word.

    A finder for `sys.meta_path`. Its numbers were measured on two cores: below them OpenBLAS, which raises SIGINT, and
    TensorFlow, which aborts or reads what is not there, fail where Python cannot say so.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if why := _too_few_addresses(name):
            raise BadInput(why)


def _too_few_addresses(name: str) -> str:
    """Why a package cannot start under this process's `ulimit -v`, and the mend; "" where it can."""
    if name not in _ADDRESSES or resource is None:
        return ""
    allowed, needed = resource.getrlimit(resource.RLIMIT_AS)[0], _ADDRESSES[name]
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return ""
    why = f"allows {allowed / 1e9:.1f} GB of addresses, {name} needs {needed / 1e9:.0f} to start"
    return f"`ulimit -v` {why}: raise it, and limit memory by a cgroup (systemd-run, docker) instead"


def watch_imports() -> None:
    if AddressSpace not in sys.meta_path:
        sys.meta_path.insert(0, AddressSpace)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from or during."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno in _MENDS:
        return error.errno
    if isinstance(error, ConnectionError | FileNotFoundError | PermissionError | TimeoutError):
        return None
    text = str(error).lower()
    return next((number for words, number in _TEXTS.items() if words in text), None)
