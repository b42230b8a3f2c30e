"""What must not be written: values that the environment gave, passwords in URLs. In memory they are themselves."""

import contextlib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

SHORTEST = 8  # characters: a shorter one might stand in a message by chance
# Of variables whose values are kept off the screen: MILVUS_TOKEN, KAGGLE_KEY, AWS_SECRET_ACCESS_KEY, DB_PASSWORD …
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|passphrase|credential|apikey|(^|_)key($|_)|_(pw|pwd|pass)$")
# The user may be a reference, `${oc.env:NAME}`; the last @ ends the password.
_URL_PASSWORD = re.compile(r"(?<=://)((?:\$\{[^}]*\}|[^/?#\s:@{])*):([^/?#\s]+)@")


class Masked(str):
    """Text that is its value to whoever uses it; files get `shown` by `to_yaml`, `files.write_json` and `repr`.

    It survives copies and pickles. Of its methods `+` and `replace` keep it; an f-string is its value alone.
    """

    shown: str

    def __new__(cls, value: str, shown: str) -> "Masked":
        made = super().__new__(cls, value)
        made.shown = shown
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.shown

    def __repr__(self) -> str:
        return repr(self.shown)

    def __add__(self, other: str) -> "Masked":
        return Masked(str(self) + other, self.shown + shown(other))

    def replace(self, old: str, new: str, count: Any = -1) -> "Masked":
        return Masked(str(self).replace(old, new, count), self.shown.replace(old, shown(new), count))


def shown(value: Any) -> Any:
    """A value of JSON or YAML as it may be written: `shown` of every Masked in it, no password in a URL.

    >>> shown({"a": [Masked("hunter2", "${oc.env:PW}"), "https://me:hunter2@host/x"]})
    {'a': ['${oc.env:PW}', 'https://me:***@host/x']}
    """
    if isinstance(value, dict):
        return {shown(key): shown(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [shown(each) for each in value]
    if isinstance(value, Masked):
        return value.shown
    return without_passwords(value) if isinstance(value, str) else value


def without_passwords(text: str) -> str:
    """
    >>> without_passwords("http://me:pw@host:19530/a, gs://bucket/b@c")
    'http://me:***@host:19530/a, gs://bucket/b@c'
    >>> without_passwords("http://me:${oc.env:PW}@host, http://${oc.env:TOKEN}@host, db://me:p@ss@host")
    'http://me:${oc.env:PW}@host, http://${oc.env:TOKEN}@host, db://me:***@host'
    """

    def masked(found: re.Match) -> str:
        return found[0] if "${" in found[2] else f"{found[1]}:***@"

    return _URL_PASSWORD.sub(masked, text) if "://" in text else text


def is_secret(name: str) -> bool:
    """Whether a variable or a key is a secret by its name.

    >>> is_secret("KAGGLE_KEY"), is_secret("token"), is_secret("data_root")
    (True, True, False)
    """
    return bool(_SECRET_NAME.search(name))


def for_screen(text: str) -> str:
    """A message without passwords in URLs and without the values of variables that are secrets by their names."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and is_secret(name):
            text = text.replace(value, f"${name}")
    return without_passwords(text)


class Screen:
    """A stream to which `for_screen` of each text is written."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._stream.write(for_screen(text))
        return len(text)

    def close(self) -> None:
        """The stream is not this one's: a log handler that outlives the command must not close it."""


def kept_off_screen(command: Callable[..., int]) -> Callable[..., int]:
    """Gives what `command`, which returns its exit code, prints to `for_screen`, a traceback too."""

    @functools.wraps(command)
    def masked(*arguments: Any) -> int:
        out: Any = Screen(sys.stdout)
        error: Any = Screen(sys.stderr)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                return command(*arguments)
            except Exception:
                text = traceback.format_exc()
                if for_screen(text) == text:
                    raise
                error.write(text)
                return 1

    return masked
