"""A CSV of images and captions → its rows. A faulty row has its reason and stops nothing."""

import csv
import difflib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.captions.config import Table
from pipeline.errors import BadInput

LARGEST_FIELD = 10_000_000  # characters; csv's own limit would refuse a caption of 25,000 words

LONGEST_NUMBER = 6  # digits of a column


@dataclass(frozen=True)
class Pair:
    """A row of the table."""

    line: int  # where the row starts in the file, from 1
    image: str  # path or URL
    caption: str  # as it stands in the table
    reason: str = ""  # why the row cannot be used; "" when it can


def read_pairs(path: Path, table: Table) -> list[Pair]:
    """All rows of the table, in order.

    Raises BadInput: no such file, another encoding, an empty file, no rows, columns that are not there.
    """
    if not path.is_file():
        raise BadInput(f"table: expected a CSV file, {path} does not exist")
    lines = [line + "\n" for line in _decoded(path, table.encoding).rstrip("\n").split("\n")]
    first = next(_rows(lines, table.delimiter), None)
    if first is None:
        raise BadInput(f"{path}: expected a table of images and captions, the file is empty")
    names = (table.image_column, table.caption_column)
    if table.header:
        width = len(first[1])
        columns = [_column(path, first[1], name, table) for name in names]
    else:
        asked = [_column_number(path, name) for name in names]
        width = _usual_width(lines, table.delimiter, max(asked) + 1)
        columns = [_expect_column(path, number, width) for number in asked]
    rows = islice(_rows(lines, table.delimiter, width), int(table.header), None)
    pairs = [_pair(line, fields, reason, columns, width) for line, fields, reason in rows]
    if not pairs:
        raise BadInput(f"{path}: the table has a header and no rows")
    return pairs


def _pair(line: int, fields: list[str], reason: str, columns: list[int], width: int) -> Pair:
    image, caption = (fields[column].strip() if column < len(fields) else "" for column in columns)
    if not reason and len(fields) != width:
        hint = ": a caption with the delimiter in it needs quotes" if len(fields) > width else ""
        reason = f"{len(fields)} fields, expected {width}{hint}"
    if not reason and not image:
        reason = "no image"
    if not reason and not caption:
        reason = "no caption"
    return Pair(line, image, caption, reason)


def _usual_width(lines: list[str], delimiter: str, least: int) -> int:
    """Fields of most rows, for the first may be a faulty one; of as many each, one that has `least`."""
    counts = Counter(len(fields) for _, fields, reason in _rows(lines, delimiter) if not reason)
    return max(counts, key=lambda width: (counts[width], width >= least), default=least)


def _rows(lines: list[str], delimiter: str, width: int = 0) -> Iterator[tuple[int, list[str], str]]:
    """(line, fields, reason) of each row that is not blank; the reason is "" unless a quote is never closed.

    An open quote would swallow the rows behind it as one field, up to the next quote or the end of the file.
    Such a row (over several lines, and misquoted or of another width than `width`, 0: any) ends at its own line
    instead, and reading goes on behind it.
    """
    before = csv.field_size_limit(LARGEST_FIELD)
    start = 0
    try:
        while start < len(lines):
            reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), delimiter=delimiter)
            end = start
            for fields in _safely(reader):
                first, end = end, start + reader.line_num
                if fields is None:
                    yield first + 1, [], f"a field of more than {LARGEST_FIELD:,} characters"
                elif end - first > 1 and ((width and len(fields) != width) or _misquoted(lines[first:end], delimiter)):
                    yield first + 1, lines[first].rstrip("\n").split(delimiter), "a quote is never closed"
                    end = first + 1
                    break
                elif fields:
                    yield first + 1, fields, ""
            start = max(end, start + 1)
    finally:
        csv.field_size_limit(before)


def _safely(reader: Iterator[list[str]]) -> Iterator[list[str] | None]:
    """None for a row that csv refuses."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _misquoted(lines: list[str], delimiter: str) -> bool:
    """Whether quotes within these lines open and close where no field does."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return True
    return False


def _decoded(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    try:
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8") and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadInput(f"{path} begins like UTF-16: set format.encoding=utf-16")
        text = content.decode(encoding)
    except LookupError:
        raise BadInput(f"format.encoding: no encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}: line {line} is not {encoding} ({error.reason}): set format.encoding") from None
    # Lines end where editors end them; splitlines would also break at the separators of Unicode.
    return io.StringIO(text.removeprefix("\ufeff"), newline=None).read()


def _column(path: Path, header: list[str], name: str, table: Table) -> int:
    names = [each.strip() for each in header]
    if names.count(name) == 1:
        return names.index(name)
    if names.count(name) > 1:
        raise BadInput(f"{path}: the column {name!r} stands {names.count(name)} times in the header")
    shown = ", ".join(repr(each[:40]) for each in names[:8])
    hint = "set format.image_column and format.caption_column, or format.header=false with column numbers"
    for other, said in (("\t", "\\t"), (";", ";"), ("|", "|")):
        if len(names) == 1 and other in names[0] and other != table.delimiter:
            hint = f"fields seem to be parted by {said!r}: set format.delimiter"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    hint = f"is it {near[0]!r}? {hint}" if near else hint
    raise BadInput(f"{path}: expected a column {name!r} in the first line, it has {shown}: {hint}")


def _column_number(path: Path, name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > LONGEST_NUMBER:
        raise BadInput(
            f"{path}: without a header, columns are numbers from 0: set format.image_column=0 and "
            f"format.caption_column=1, got {name[:40]!r}"
        )
    return int(name)


def _expect_column(path: Path, number: int, width: int) -> int:
    if number >= width:
        raise BadInput(f"{path}: expected a column {number}, most rows have {width} fields, counted from 0")
    return number
