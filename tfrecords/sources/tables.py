"""Rows of a CSV by column name, one at a time: the landmarks' table has four million."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import BadInput


def rows(
    lines: Iterable[str], where: str, columns: tuple[str, ...], delimiter: str = ","
) -> Iterator[list[str]]:
    """The values of `columns`, in that order, of each row below the header; empty lines are passed over.

    Args:
        lines: the CSV's lines, header first.
        where: the file, for messages.

    Raises:
        BadInput: no header, a column that is not in it (those that are are named), a row that is too short.
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
    places = [header.index(name) for name in columns]
    try:
        for row in table:
            if not row:
                continue
            if len(row) <= max(places):
                raise BadInput(
                    f"{where}: line {table.line_num} has {len(row)} values, the header {len(header)}"
                )
            yield [row[place].strip() for place in places]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: line {table.line_num} is not readable as a CSV ({error})") from None


def file_rows(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> Iterator[list[str]]:
    """`rows` of a file on disk, read as it is gone through."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from rows(lines, str(path), columns, delimiter)
    except OSError as error:
        raise BadInput(f"expected the CSV {path}: {error.strerror}") from None


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels once each: by number where all are whole numbers, else by name."""
    different = set(labels)
    if all(label.isascii() and label.isdigit() for label in different):
        return sorted(different, key=lambda label: (int(label), label))
    return sorted(different)
