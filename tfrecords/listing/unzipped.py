"""Files below a folder by the names that a list gives them, where unzip wrote them under others.

unzip writes a letter that the locale lacks as `#U5c71` (four hexadecimal digits; `#L01f600`, six, beyond them). RP2K,
whose names are Chinese, lies on many disks like that.
"""

import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tfrecords.listing.items import below, read_file

ESCAPE = re.compile(r"#U([0-9a-fA-F]{4})|#L([0-9a-fA-F]{6})")


def escaped(name: str) -> str:
    """The name that unzip writes where the locale has ASCII alone.

    >>> escaped("山/a é.jpg")
    '#U5c71/a #U00e9.jpg'
    """
    if name.isascii():
        return name
    return "".join(
        each if each.isascii() else f"#U{ord(each):04x}" if ord(each) < 0x10000 else f"#L{ord(each):06x}"
        for each in name
    )


def unescaped(name: str) -> str:
    """The name that was meant; `escaped` undone.

    >>> unescaped("#U5c71/a #U00e9.jpg"), unescaped("no #Uwhere")
    ('山/a é.jpg', 'no #Uwhere')
    """
    return ESCAPE.sub(_letter, name) if "#" in name else name


def _letter(found: re.Match[str]) -> str:
    number = int(found[1] or found[2], 16)
    meant = 0x80 <= number <= sys.maxunicode and not 0xD800 <= number < 0xE000
    return chr(number) if meant else found[0]


class Below:
    """Readers of the files below `root`. The disk is asked for names beyond ASCII alone."""

    def __init__(self, root: Path):
        self.root = str(root)
        self._folders = {self.root: self.root}  # as listed → as on disk

    def reader(self, relative: str) -> Callable[[], bytes]:
        """Reads `relative`, a path below the root. Raises ValueError where it leaves the root."""
        path = below(self.root, relative)
        return partial(read_file, path if relative.isascii() else self._on_disk(path))

    def _on_disk(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = self._on_disk(folder)
        as_listed, other = (os.path.join(self._folders[folder], each) for each in (name, escaped(name)))
        return other if other != as_listed and not os.path.exists(as_listed) and os.path.exists(other) else as_listed
