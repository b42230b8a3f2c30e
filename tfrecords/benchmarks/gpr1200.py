"""GPR1200: 1,200 classes of ten images, `<class>_<name>.jpg` in one folder (or its `images/`).

Every image is a query, all images are the index. Six domains of 200 classes each follow one another in the order of the
class numbers. They share sources with UnED's (landmarks, iNaturalist, Stanford Online Products).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder, files_below, reader_below
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import is_number

DOMAINS = ("landmarks", "inat", "sketch", "instre", "sop", "faces")
CLASSES_OF_DOMAIN = 200


def gpr1200(root: Path, domain: str = "") -> Listing:
    """Lists the images by class number, then by name.

    `domain`: one of DOMAINS; "": all. Raises BadInput: no such folder, no image, a name that begins with no number.
    """
    if domain and domain not in DOMAINS:
        raise BadInput(f"layout gpr1200: option domain expects one of {', '.join(DOMAINS)}, got {domain!r}")
    existing_folder(root, "the images of GPR1200")
    folder = root / "images" if (root / "images").is_dir() else root
    names = [(_class(folder, name), name) for name in files_below(str(folder))]
    classes = sorted({number for number, _ in names})
    if not classes:
        raise BadInput(f"layout gpr1200 expects images <class>_<name>.jpg in {folder}: found none")
    if domain:
        start = CLASSES_OF_DOMAIN * DOMAINS.index(domain)
        classes = classes[start : start + CLASSES_OF_DOMAIN]
    taken = set(classes)
    ordered = sorted(each for each in names if each[0] in taken)
    return Listing([str(number) for number in classes], Lazily(_items, folder, ordered))


def domain_of(classes: Sequence[str]) -> dict[str, str]:
    """Class → its domain. `classes`: all of the set, in order."""
    return {name: DOMAINS[min(row // CLASSES_OF_DOMAIN, len(DOMAINS) - 1)] for row, name in enumerate(classes)}


def _items(folder: Path, names: Sequence[tuple[int, str]]) -> Iterator[Item]:
    for number, name in names:
        yield Item(name, str(number), reader_below(folder, name))


def _class(folder: Path, name: str) -> int:
    number, underscore, _ = name.partition("_")
    if not (underscore and is_number(number)):
        raise BadInput(f"layout gpr1200 expects images <class>_<name>.jpg in {folder}: found {name[:200]!r}")
    return int(number)


LAYOUT = Layout("gpr1200", gpr1200, {"all": Size(1_200, 12_000)}, searched={"all": "all"})
