"""A CSV of paths and labels as somebody has it: its delimiter, its columns by their usual names, where paths start."""

import csv
import os
from pathlib import Path

from pipeline.config import Source
from pipeline.errors import BadInput
from pipeline.fitting.looking import TABLE, Found, by_class, source_name
from tfrecords.listing.tables import file_rows

DELIMITERS = ",;\t|"
# Usual names of columns, the most telling first.
PATHS = (
    *("path", "filepath", "file_path", "image_path", "img_path", "filename", "file_name", "image", "file", "img"),
    *("image_name", "image_file", "name"),
)
LABELS = (
    *("label", "class", "class_name", "label_name", "category", "target", "class_id", "label_id", "category_id"),
    *("species", "breed", "product_id", "landmark_id", "group", "id", "y"),
)
LOOKED_FOR = 50  # rows whose images are looked for


def look(table: Path) -> Found:
    """The images that a CSV names.

    Raises BadInput: no columns of paths and labels, no row, no image where its rows say.
    """
    header, delimiter = _header(table)
    path_column, label_column = _column(table, header, PATHS, "paths"), _column(table, header, LABELS, "labels")
    if path_column == label_column:
        raise BadInput(f"{table}: expected a column of paths and one of labels, found {', '.join(header)}")
    listed = [(path, label) for path, label in file_rows(table, (path_column, label_column), delimiter)]
    rows = _once(table, listed)
    said = [f"paths in the column {path_column!r}, labels in {label_column!r}"]
    if left := len(listed) - len(rows):
        said.append(f"{left:,} rows are left out: without a path or a label, or there already")
    if any(os.path.isabs(path) or os.path.normpath(path).startswith("..") for path, _ in rows):
        return _elsewhere(table, rows, said)
    folder = _folder(table, [path for path, _ in rows])
    if left:
        return _tabled(table, rows, said, os.path.abspath(table.parent / folder))
    options = {"path_column": path_column, "label_column": label_column, "images": folder, "delimiter": delimiter}
    usual = {"path_column": "path", "label_column": "label", "images": "", "delimiter": ","}
    told = {key: value for key, value in options.items() if value != usual[key]}
    if folder:
        said.append(f"paths start in {table.parent / folder}")
    source = Source(layout="csv", name=source_name(table), root=str(table.absolute()), options=told)
    return Found([source], by_class(source.name, rows), said)


def _once(table: Path, listed: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The rows with a path and a label, each once; BadInput where none has, or a path has two labels."""
    labels: dict[str, str] = {}
    for path, label in listed:
        if path and label and labels.setdefault(path, label) != label:
            raise BadInput(f"{table}: {path} is of two classes, {labels[path]} and {label}: expected one")
    if not labels:
        raise BadInput(f"{table} holds no row with a path and a label")
    return list(labels.items())


def _header(table: Path) -> tuple[list[str], str]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"expected a folder or a CSV, {table} is not readable as text ({error})") from None
    if "\0" in line or not line.strip():
        raise BadInput(f"expected a folder or a CSV with a header such as path,label; {table} has none")
    delimiter = max(DELIMITERS, key=line.count)
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter))], delimiter


def _column(table: Path, header: list[str], usual: tuple[str, ...], what: str) -> str:
    by_name = {name.lower().replace(" ", "_"): name for name in reversed(header)}
    for name in usual:
        if name in by_name:
            return by_name[name]
    expected = f"expected a column of {what} called {', '.join(usual[:4])} …"
    raise BadInput(f"{table}: {expected}; its header is {', '.join(header)[:120]}")


def _folder(table: Path, paths: list[str]) -> str:
    """Where relative paths start: the CSV's own folder, or a folder in it that holds the first of them."""
    some = paths[:LOOKED_FOR]
    if any(os.path.isfile(table.parent / path) for path in some):
        return ""
    inside = [each.name for each in sorted(table.parent.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    for name in inside:
        if any(os.path.isfile(table.parent / name / path) for path in some):
            return name
    raise BadInput(f"{table}: {table.parent / some[0]} does not exist: paths start in the CSV's folder")


def _elsewhere(table: Path, rows: list[tuple[str, str]], said: list[str]) -> Found:
    """Paths that are absolute or leave the CSV's folder, which the layout refuses: they start where they all lie."""
    folder = os.path.abspath(table.parent)
    rows = _once(table, [(os.path.normpath(os.path.join(folder, path)), label) for path, label in rows])
    root = os.path.commonpath([os.path.dirname(path) for path, _ in rows])
    if not any(os.path.isfile(path) for path, _ in rows[:LOOKED_FOR]):
        raise BadInput(f"{table}: {rows[0][0]} does not exist")
    below = [(os.path.relpath(path, root), label) for path, label in rows]
    return _tabled(table, below, said, root)


def _tabled(table: Path, rows: list[tuple[str, str]], said: list[str], root: str) -> Found:
    """A table of our own: the layout would refuse the one that is there."""
    source = Source(layout="csv", name=source_name(table), root=TABLE, options={"images": root})
    return Found([source], by_class(source.name, rows), said, table=rows)
