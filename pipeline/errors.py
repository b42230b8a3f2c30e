"""What ends a command in one line, and what the line is made of."""

import difflib
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path


class BadInput(Exception):
    """Input that no rerun can mend: the message is one line that says what was expected, what came, what to do.

    `pipeline.cli` prints it and exits with code 2; a fault of ours keeps its traceback and exits with 1.
    """


class Stopped(Exception):
    """Work that was asked to end before it was done, and can go on: the message is one line, the exit code 75.

    75 is what sendmail and systemd take for "try again".
    """


def reason(error: BaseException, most: int = 200) -> str:
    """An error as part of a line: its first line that is not blank, at most `most` characters, else its type.

    >>> reason(ValueError("\\n the shape is (3,)\\nat line 7")), reason(KeyError())
    ('the shape is (3,)', 'KeyError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:most] if lines else type(error).__name__


def missing(needs: str, package: str, extra: str, otherwise: str = "") -> BadInput:
    """What is raised for an optional package that is not installed: what needs it, and how to get it.

    `needs` ends with its verb; `extra` is one of setup.py's; `otherwise`: what would do without it.

    >>> str(missing("shards of parquet need", "pyarrow", "parquet")).replace(pip(), "pip")
    "shards of parquet need pyarrow, not installed here: pip install 'guie[parquet]'"
    """
    line = f"{needs} {package}, not installed here: {pip()} install 'guie[{extra}]'"
    return BadInput(line + (f", or {otherwise}" if otherwise else ""))


def pip() -> str:
    """How the pip beside this interpreter is called from here: its path where the word alone is another's."""
    own = Path(sys.executable).with_name("pip")
    if not own.is_file() or shutil.which("pip") == str(own):
        return "pip"
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


def nearest(name: str, known: Iterable[str], most: int = 12) -> str:
    """The known names that are most like an unknown one, for a message; the first `most` where none is like it.

    >>> nearest("hiden_dim", ["hidden_dim", "num_heads"]), nearest("xy", ["b", "a"]), nearest("a", [])
    ('hidden_dim', 'b, a', 'none')
    """
    names = list(known)
    return ", ".join(difflib.get_close_matches(name, names, n=4, cutoff=0.4) or names[:most]) or "none"
