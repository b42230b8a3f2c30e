"""A CSV of paths and labels. The root is the CSV itself; paths are relative to its folder.

Listing does not look for the images: a missing one goes to rejects.csv, and so does a path that leaves the folder.
Classes are in numerical order where all labels are whole numbers, else in alphabetical order.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import Item, Lazily, Listing, reader_below
from tfrecords.listing.layout import Layout
from tfrecords.listing.tables import class_counts, file_rows, in_order


def csv_table(
    root: Path, path_column: str = "path", label_column: str = "label", images: str = "", delimiter: str = ","
) -> Listing:
    """Lists the images that a CSV names.

    Args:
        root: the CSV.
        path_column, label_column: names in its header.
        images: the folder that the paths start from, relative to the CSV's folder.
        delimiter: one character, such as `;`.

    Raises BadInput: no such file, a missing column, a row that is too short, no row at all, an empty label.
    """
    if len(delimiter) != 1:
        raise BadInput(f"layout csv: option delimiter expects one character, got {delimiter!r}")
    if not root.is_file():
        came = "is a folder" if root.is_dir() else "does not exist"
        raise BadInput(f"layout csv expects its root to be the CSV file: {root} {came}")
    columns = (path_column, label_column)
    classes = in_order(class_counts(root, columns, delimiter))
    if classes[0] == "":
        raise BadInput(f"{root}: a row has an empty {label_column!r}")
    return Listing(classes, Lazily(_items, root, root.parent / images, columns, delimiter))


def _items(table: Path, folder: Path, columns: tuple[str, str], delimiter: str) -> Iterator[Item]:
    for path, label in file_rows(table, columns, delimiter):
        yield Item(path, label, reader_below(folder, path))


LAYOUT = Layout("csv", csv_table)
