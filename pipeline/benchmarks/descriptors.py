"""UnED's file of descriptors, in and out: JSON `{domain: {split: [[vector, …]]}}`, vectors in the order of info_files.

The official code gives it the suffix .pkl; it holds JSON all the same. Both ways run in bounded memory.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.errors import BadInput

READ_CHARACTERS = 1 << 20
BLOCK_ROWS = 4096
Blocks = Iterator[np.ndarray]  # float32 [n, D]


class _Scanner:
    """The file's characters, one place after another."""

    def __init__(self, path: Path):
        self.path, self.held, self.at = path, "", 0
        self.file = path.open(encoding="utf-8")

    def next(self) -> str:
        """The next character that is no white space."""
        while True:
            while self.at < len(self.held):
                self.at += 1
                if not self.held[self.at - 1].isspace():
                    return self.held[self.at - 1]
            self._fill()

    def until(self, end: str) -> str:
        """What comes before `end`, which is passed."""
        begun = self.at
        while (found := self.held.find(end, begun)) < 0:
            begun = len(self.held) - self.at  # of what `_fill` keeps
            self._fill()
        text, self.at = self.held[self.at : found], found + len(end)
        return text

    def expect(self, characters: str) -> None:
        for wanted in characters:
            if (came := self.next()) != wanted:
                self.fail(f"expected {wanted!r}, got {came!r}")

    def entries(self) -> Iterator[str]:
        """The names of an object, whose values are read between them."""
        self.expect("{")
        came = self.next()
        while came != "}":
            if came != '"':
                self.fail(f"expected a name, got {came!r}")
            name = self.until('"')
            self.expect(":")
            yield name
            came = self.next()
            if came == ",":
                came = self.next()

    def fail(self, why: str) -> None:
        form = '{"cars": {"test": [[[…], …]]}, …}'
        raise BadInput(f"{self.path}: expected UnED's descriptors, {form}: {why}")

    def _fill(self) -> None:
        try:
            more = self.file.read(READ_CHARACTERS)
        except UnicodeDecodeError:
            more = ""
        if not more:
            self.fail("it ends too early, or is no text")
        self.held, self.at = self.held[self.at :] + more, 0


def read(path: Path, wanted: Callable[[str, str], bool]) -> Iterator[tuple[str, str, Blocks]]:
    """(domain, split, blocks) of each wanted split, in the file's order; a split's blocks are read before the next.

    Raises BadInput: not that form, rows of different width, numbers that are not finite.
    """
    scanner = _Scanner(path)
    with scanner.file:
        for domain in scanner.entries():
            for split in scanner.entries():
                scanner.expect("[[")
                blocks = _blocks(scanner, f"{domain}/{split}", wanted(domain, split))
                yield domain, split, blocks
                for _ in blocks:  # what nobody read
                    pass
                scanner.expect("]")


def _blocks(scanner: _Scanner, where: str, parsed: bool) -> Blocks:
    rows: list[list[float]] = []
    width = 0
    while (came := scanner.next()) != "]":
        if came == ",":
            continue
        if came != "[":
            scanner.fail(f"{where}: expected a vector, got {came!r}")
        text = scanner.until("]")
        if parsed:
            rows.append(_row(scanner, text, where))
            width = width or len(rows[0])
            if len(rows[-1]) != width:
                scanner.fail(f"{where}: expected {width} numbers a vector, got {len(rows[-1])}")
        if len(rows) == BLOCK_ROWS:
            yield _finite(scanner, rows, where)
            rows = []
    if rows:
        yield _finite(scanner, rows, where)


def _row(scanner: _Scanner, text: str, where: str) -> list[float]:
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        found = []
    if not found or not all(isinstance(each, int | float) for each in found):
        scanner.fail(f"{where}: expected a vector of numbers, got [{text[:40]}…]")
    return found


def _finite(scanner: _Scanner, rows: list[list[float]], where: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity then
        block = np.array(rows, np.float32)
    if not np.isfinite(block).all():
        scanner.fail(f"{where}: a number is not finite")
    return block


def write(path: Path, parts: Mapping[str, Mapping[str, Callable[[], Iterable[np.ndarray]]]]) -> None:
    """The file of {domain: {split: blocks}}, float32 [n, D] each; whole or not at all."""
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        for number, (domain, splits) in enumerate(parts.items()):
            file.write(f"{', ' * bool(number)}{json.dumps(domain)}: {{")
            for place, (split, blocks) in enumerate(splits.items()):
                file.write(f"{', ' * bool(place)}{json.dumps(split)}: [[")
                comma = ""
                for block in blocks():
                    for row in block:
                        file.write(f"{comma}[{', '.join(map(str, row))}]")  # the shortest digits that give it back
                        comma = ",\n"
                file.write("]]")
            file.write("}")
        file.write("}\n")
