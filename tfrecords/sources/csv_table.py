"""A CSV of paths and labels. The root is the CSV itself; paths are relative to its folder.

Images are not looked for while listing: one that is missing ends in rejects.csv, as does a path that leaves
the folder. Classes are in the order of their numbers where all labels are whole numbers, else of their names.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.sources.items import Item, Lazily, Listing, below, read_file, refuse
from tfrecords.sources.tables import file_rows, in_order


def csv_table(
    root: Path, path_column: str = "path", label_column: str = "label", images: str = "", delimiter: str = ","
) -> Listing:
    """Lists the images that a CSV names.

    Args:
        root: the CSV.
        path_column, label_column: names in its header.
        images: the folder that the paths start from, relative to the CSV's folder.
        delimiter: one character, such as `;`.

    Raises:
        BadInput: no such file, a column that it lacks, a row cut short, no row at all, an empty label.
    """
    if len(delimiter) != 1:
        raise BadInput(f"layout csv: option delimiter expects one character, got {delimiter!r}")
    if not root.is_file():
        came = "is a folder" if root.is_dir() else "does not exist"
        raise BadInput(f"layout csv expects its root to be the CSV file: {root} {came}")
    columns = (path_column, label_column)
    classes = in_order(label for _, label in file_rows(root, columns, delimiter))
    if not classes:
        raise BadInput(f"{root} holds no row below its header")
    if classes[0] == "":
        raise BadInput(f"{root}: a row has an empty {label_column!r}")
    return Listing(classes, Lazily(_items, root, root.parent / images, columns, delimiter))


def _items(table: Path, folder: Path, columns: tuple[str, str], delimiter: str) -> Iterator[Item]:
    for path, label in file_rows(table, columns, delimiter):
        try:
            read = partial(read_file, below(folder, path))
        except ValueError as error:
            read = partial(refuse, str(error))
        yield Item(path, label, read)
