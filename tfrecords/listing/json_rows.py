"""Objects of an array in a JSON file, one at a time: UnED's largest list has 1.4 million, iNaturalist's file 0.9."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import BadInput, reason

PIECE_CHARS = 1 << 20  # read at a time
LONGEST_CHARS = 1 << 22  # of one object, or of one value beside the array; what is longer is taken for damage
SPACE = re.compile(r"[ \t\r\n]*")


def json_rows(path: Path, field: str = "") -> Iterator[dict[str, Any]]:
    """The objects of an array, in order.

    `field`: the array stands under this key of an object; "": the file is the array. Raises BadInput: no such file, no
    UTF-8, no JSON, no such array, an element that is no object.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = _Text(path, file)
            if field:
                yield from _under(text, field)
            else:
                yield from _array(text, "a list of objects")
                if text.peek():
                    raise text.damaged("nothing behind the list")
    except OSError as error:
        raise BadInput(f"expected the list {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, a number of thousands of digits, too deep
        raise BadInput(f"{path} is not readable as JSON ({reason(error)})") from None


class _Text:
    """The part of a file that is being parsed."""

    def __init__(self, path: Path, file: TextIO):
        self.path, self.file, self.decoder = path, file, json.JSONDecoder()
        self.held, self.at, self.rows = "", 0, 0

    def more(self) -> bool:
        """Reads on; False at the end of the file."""
        piece = self.file.read(PIECE_CHARS)
        self.held, self.at = self.held[self.at :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is no space, which stays; "" at the end of the file."""
        while True:
            self.at = SPACE.match(self.held, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def take(self, wanted: str, where: str) -> str:
        """The next character, which must be one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.damaged(where)
        self.at += 1
        return found

    def value(self) -> Any:
        """The next object, array or string."""
        while True:
            try:
                found, self.at = self.decoder.raw_decode(self.held, self.at)
                return found
            except json.JSONDecodeError as error:
                if len(self.held) - self.at > LONGEST_CHARS or not self.more():
                    raise self.damaged(error.msg) from None

    def damaged(self, expected: str) -> BadInput:
        came = self.held[self.at : self.at + 40]
        return BadInput(f"{self.path} is damaged JSON behind row {self.rows}: expected {expected}, got {came!r}")


def _array(text: _Text, what: str) -> Iterator[dict[str, Any]]:
    text.take("[", what)
    if text.peek() == "]":
        text.at += 1
        return
    while True:
        if text.peek() != "{":
            raise text.damaged("an object")
        row = text.value()
        text.rows += 1
        yield row
        if text.take(",]", "`,` or `]`") == "]":
            return


def _under(text: _Text, field: str) -> Iterator[dict[str, Any]]:
    found = False
    text.take("{", f"an object with the key {field!r}")
    while text.peek() == '"':
        name = text.value()
        text.take(":", "`:`")
        if name == field:
            found = True
            yield from _array(text, f"a list under {field!r}")
        elif text.peek() == "[":
            for _ in _array(text, "a list"):
                pass
        elif text.peek() in ("{", '"'):
            text.value()
        else:
            raise text.damaged(f"a list under {name!r}")
        if text.take(",}", "`,` or `}`") == "}":
            break
    if not found:
        raise BadInput(f"{text.path}: expected a list under the key {field!r}, there is none")
