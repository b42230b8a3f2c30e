"""Class folders: `root/<class>/**/<image>`.

Every file below a class folder is an item, whatever its suffix: a file that is no image goes to rejects.csv by name.
Names that begin with a dot are left out (`.DS_Store`, `._copy.jpg`, version control), as `ls` does. Classes are in
alphabetical order, so labels depend on the names alone.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import (
    Item,
    Lazily,
    Listing,
    as_text,
    existing_folder,
    files_below,
    is_folder,
    is_hidden,
    read_file,
    refuse,
)
from tfrecords.listing.layout import Layout


def folder(root: Path) -> Listing:
    """Lists `root`, a folder of class folders.

    Raises BadInput: no such folder, no class folder in it, no file in any of them, or a root one level too high (its
    folders hold only folders).
    """
    existing_folder(root, "a folder of class folders")
    classes = sorted(entry.name for entry in os.scandir(root) if is_folder(entry) and not is_hidden(entry))
    if not classes:
        raise BadInput(f"{root}: expected one folder a class with its images inside, found no folder")
    if not any(_holds_files(root / name) for name in classes):
        if any(True for _ in _items(root, classes)):
            raise BadInput(
                f"{root}: its folders ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''}) hold no "
                f"images but only folders: the root is one level too high, name one of them"
            )
        raise BadInput(f"{root}: its {len(classes)} class folders hold no images")
    return Listing(classes, Lazily(_items, root, classes))


def _items(root: Path, classes: list[str]) -> Iterator[Item]:
    seen: set[str] = set()
    for name in classes:
        text = as_text(name)
        why = f"the class {text} is another folder: this one's name is not UTF-8" if text in seen else ""
        seen.add(text)
        for path in files_below(os.path.join(root, name), f"{name}/"):
            read = partial(refuse, why) if why else partial(read_file, os.path.join(root, path))
            yield Item(path, name, read)


def _holds_files(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(not is_folder(entry) and not is_hidden(entry) for entry in entries)


LAYOUT = Layout("folder", folder)
