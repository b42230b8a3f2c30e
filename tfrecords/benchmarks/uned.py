"""UnED, eight domains: `info_files/<domain>/<split>.json` beside `images/`, as its authors publish them.

A list holds `{"path": <below images/>, "class_id": a number or several}`. Class ids are of their domain: a domain is a
source. The order of the list is the order of the benchmark's descriptors. Where a path has letters beyond ASCII
(RP2K's are Chinese) the file may lie under the name that unzip gives it (`#U5c71`).

Queries and index: `test` searches `index` where the domain has one (met, gldv2, inshop), else each image of `test` the
others; `val` searches itself, met's `small_index`. The splits `query`, `index` and `val_index` name these in every
domain.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput, nearest
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder, expect_below
from tfrecords.listing.json_rows import json_rows
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.unzipped import Below

# In the order of the benchmark's own numbers, 0 … 7. Sizes: images; classes are published of train alone.
DOMAINS: Mapping[str, Mapping[str, int]] = {
    "cars": {"train": 6_346, "val": 1_708, "test": 8_131},
    "sop": {"train": 48_942, "val": 10_609, "test": 60_502},
    "inshop": {"train": 20_897, "val": 4_982, "test": 14_218, "index": 12_612},
    "inat": {"train": 273_929, "val": 51_917, "test": 136_093},
    "met": {"train": 397_121, "val": 129, "small_index": 38_307, "test": 1_003, "index": 397_121},
    "gldv2": {"train": 1_422_914, "val": 157_556, "test": 1_129, "index": 761_757},
    "food2k": {"train": 472_349, "val": 49_323, "test": 9_979},
    "rp2k": {"train": 188_724, "val": 17_185, "test": 10_931},
}
TRAIN_CLASSES = dict(zip(DOMAINS, (78, 9_054, 3_198, 4_552, 224_408, 73_182, 900, 1_074), strict=True))
# A split of the protocol → the file of a domain, where that is another one; see `file_of`.
ROLES = {"query": "test", "index": "test", "val_index": "val"}
SPLITS = ("train", "val", "test", "index", "small_index", "query", "val_index")


def uned(root: Path, domain: str = "", split: str = "train") -> Listing:
    """Lists one split of one domain, its classes by number.

    Args:
        root: the folder that holds `info_files` and `images`.
        domain: a folder of `info_files`.
        split: the name of a list, or `query`, `index`, `val_index`.

    Raises BadInput: no such domain or split; a list that is damaged, empty or of another form, or that names a path
    outside `images`.
    """
    lists = file_of(root, domain, split)
    classes = sorted({label for _, labels in _rows(lists) for label in labels})
    if not classes:
        raise BadInput(f"{lists} lists no image")
    return Listing([str(label) for label in classes], Lazily(_items, root / "images", lists))


def domains(root: Path) -> list[str]:
    """The domains that have lists, those of the benchmark in its order first. Raises BadInput where there is none."""
    folder = existing_folder(root / "info_files", "the lists of UnED")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise BadInput(f"layout uned expects a folder a domain in {folder}, such as {folder / 'cars'}: found none")
    return [name for name in DOMAINS if name in found] + [name for name in found if name not in DOMAINS]


def file_of(root: Path, domain: str, split: str) -> Path:
    """The list of a split; of `query`, `index` and `val_index` the one that stands for it in that domain.

    Raises BadInput: no such domain, or its list is missing.
    """
    found = domains(root)
    if domain not in found:
        came = f"got {domain!r}, nearest: {nearest(domain, found)}" if domain else "it is not given"
        raise BadInput(f"layout uned: option domain expects one of {', '.join(found)}; {came}")
    folder = root / "info_files" / domain
    own = {"index": "index", "val_index": "small_index"}.get(split, split)
    lists = DOMAINS.get(domain) or [path.stem for path in folder.glob("*.json")]
    name = own if own in lists else ROLES.get(split, split)
    path = folder / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in folder.glob("*.json"))) or "none"
        raise BadInput(f"layout uned: {domain} has no list {path.name} for the split {split}; its lists: {there}")
    return path


def _items(images: Path, lists: Path) -> Iterator[Item]:
    found = Below(images)
    for path, labels in _rows(lists):
        yield Item(path, str(labels[0]), found.reader(path), tuple(map(str, labels[1:])))


def _rows(lists: Path) -> Iterator[tuple[str, Sequence[int]]]:
    """Path and labels of each image."""
    for number, row in enumerate(json_rows(lists), 1):
        path, labels = row.get("path"), row.get("class_id")
        if type(labels) is int:
            labels = (labels,)
        if type(labels) not in (tuple, list) or not labels or any(type(each) is not int or each < 0 for each in labels):
            came = repr(row.get("class_id"))[:60]
            raise BadInput(f"{lists}: row {number}: expected class_id as a whole number or a list of them, got {came}")
        if type(path) is not str or not path:
            raise BadInput(f"{lists}: row {number}: expected a path as text, got {path!r}"[:300])
        expect_below(path, lists, number)
        yield path, labels if len(labels) == 1 else list(dict.fromkeys(labels))


def _sized(size: Size, options: Mapping[str, Any]) -> Size | None:
    """Of one domain; None where it is none of the benchmark's."""
    domain = options["domain"]
    return Size(TRAIN_CLASSES[domain], DOMAINS[domain]["train"]) if domain in DOMAINS else None


LAYOUT = Layout(
    "uned",
    uned,
    {"train": Size(316_446, 2_831_222)},
    sized=_sized,
    splits=SPLITS,
    searched={"query": "index", "val": "val_index"},
)
