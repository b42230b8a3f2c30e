"""Rows of a CSV by column name, one at a time: the landmarks' table has four million."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import BadInput, reason

csv.field_size_limit(1 << 24)  # the images of a landmark, as GLDv2 lists them, are more than Python's limit of 131,072


def rows(lines: Iterable[str], where: str, columns: tuple[str, ...], delimiter: str = ",") -> Iterator[list[str]]:
    """The values of `columns`, in that order, of each row below the header; empty lines are skipped.

    `lines`: the CSV's lines, header first. `where`: the file, for messages. Raises BadInput: no header, a column that
    is missing (those present are named), a row that is too short.
    """
    table = csv.reader(lines, delimiter=delimiter)
    try:
        header = [name.strip().removeprefix("\ufeff") for name in next(table)]
    except StopIteration:
        raise BadInput(f"{where} is empty: expected a header with {','.join(columns)}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{where} is not readable as a CSV ({error})") from None
    missing = [name for name in columns if name not in header]
    if missing:
        raise BadInput(f"{where}: expected the column {missing[0]!r}, found {', '.join(header)[:200]!r}")
    indexes = [header.index(name) for name in columns]
    try:
        for row in table:
            if not row:
                continue
            if len(row) <= max(indexes):
                raise BadInput(f"{where}: line {table.line_num} has {len(row)} values, the header {len(header)}")
            yield [row[index].strip() for index in indexes]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: line {table.line_num} is not readable as a CSV ({error})") from None


def file_rows(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> Iterator[list[str]]:
    """`rows` of a file on disk, read as it is iterated."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from rows(lines, str(path), columns, delimiter)
    except OSError as error:
        raise BadInput(f"expected the CSV {path}: {error.strerror}") from None


def text_lines(path: Path) -> list[str]:
    """The lines of a list that is no CSV. Raises BadInput: it cannot be read, or is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text ({reason(error)})") from None


def class_counts(path: Path, columns: tuple[str, ...], delimiter: str = ",", numbers: bool = False) -> Counter[str]:
    """Class → its rows in a CSV.

    `columns`: those that the layout needs; the last one holds the class. `numbers`: classes must be whole numbers.
    Raises BadInput as `rows`; no row, or a class that is no number.
    """
    counts = Counter(row[-1] for row in file_rows(path, columns, delimiter))
    if not counts:
        raise BadInput(f"{path} holds no row below its header")
    if numbers and (wrong := next((name for name in counts if not is_number(name)), None)) is not None:
        raise BadInput(f"{path}: expected whole numbers in the column {columns[-1]}, got {wrong[:60]!r}")
    return counts


def is_number(text: str) -> bool:
    """Whether a text is a whole number, of at most 18 digits: Python refuses to read thousands.

    >>> is_number("007"), is_number("-7"), is_number("٧"), is_number("9" * 5000)
    (True, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) < 19


def in_order(classes: Iterable[str]) -> list[str]:
    """Classes once each: by number where all are whole numbers, else by name."""
    different = set(classes)
    if all(map(is_number, different)):
        return sorted(different, key=lambda name: (int(name), name))
    return sorted(different)
