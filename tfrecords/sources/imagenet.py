"""ILSVRC 2012 in each form that its users have; labels 0–999 in the order of the synsets in all of them.

- Kaggle's: `ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG`, `…/val/*.JPEG` with `LOC_synset_mapping.txt` and
  `LOC_val_solution.csv`; as a folder, or as the one zip that Kaggle gives.
- plain: `train/<wnid>/*.JPEG`, `val/<wnid>/*.JPEG`; or the `<wnid>` folders themselves.
- the original tars `ILSVRC2012_img_train.tar` (which holds a tar for each class) and `ILSVRC2012_img_val.tar`.
- Hugging Face's parquet shards (`parquet.py`).

`LOC_synset_mapping.txt` lists the wnids in alphabetical order, so they are sorted where the file is missing.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Store, find, tar_members
from tfrecords.listing.items import Item, Lazily, Listing
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import rows
from tfrecords.sources import parquet

KAGGLE = "ILSVRC/Data/CLS-LOC"
ZIPS = ("imagenet-object-localization-challenge.zip",)
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
WNID = re.compile(r"n\d{8}")


def imagenet(root: Path, split: str = "train") -> Listing:
    """Lists one split.

    `root`: the folder (or Kaggle's zip) that holds one of the forms above. `split`: train or val. Raises BadInput: none
    of the forms is there, or a table that the split needs is missing or names other classes.
    """
    if shards := parquet.shards(root, "validation" if split == "val" else split):
        return parquet.parquet_listing(shards, *_mapping(Store(root)))
    if root.is_dir() and (root / TARS[split]).is_file():
        return _from_tar(root, split)
    store = find(root, KAGGLE, ZIPS)
    folder = f"{KAGGLE}/{split}"
    if store is None:
        store, folder = find(root, split), split
    if store is None and root.is_dir() and any(map(WNID.fullmatch, Store(root).folders())):
        store, folder = Store(root), ""
    if store is None or not (store.has_folder(folder) or not folder):
        raise BadInput(
            f"layout imagenet expects {KAGGLE}/{split}, {split}/<wnid>, data/{split}-*.parquet "
            f"or {TARS[split]} in {root}: found none of them"
        )
    classes, names = _mapping(store)
    folders = [name for name in store.folders(folder) if WNID.fullmatch(name)]
    if folders:
        classes = classes or folders
        _check_classes(set(folders), classes, f"{store.where}/{folder}")
        return Listing(classes, Lazily(_folder_items, store, folder, folders), names)
    if split == "train":
        raise BadInput(f"{store.where}: expected class folders such as n01440764 in {folder}, found none")
    solution = _solution(store)
    classes = classes or sorted(set(solution.values()))
    _check_classes(set(solution.values()), classes, SOLUTION)
    return Listing(classes, Lazily(_flat_items, store, folder, solution), names)


def _folder_items(store: Store, folder: str, wnids: list[str]) -> Iterator[Item]:
    for wnid in wnids:
        inside = f"{folder}/{wnid}" if folder else wnid
        for name in store.files(inside):
            yield Item(name, wnid, store.reader(name))


def _flat_items(store: Store, folder: str, solution: dict[str, str]) -> Iterator[Item]:
    for image, wnid in solution.items():  # a missing image goes to rejects.csv when it is read
        name = f"{folder}/{image}.JPEG"
        yield Item(name, wnid, store.reader(name))


def _from_tar(root: Path, split: str) -> Listing:
    path = root / TARS[split]
    classes, names = _mapping(Store(root))
    if split == "val":
        solution = _solution(Store(root))
        classes = classes or sorted(set(solution.values()))
        _check_classes(set(solution.values()), classes, SOLUTION)
        return Listing(classes, Lazily(_val_tar_items, path, solution), names)
    members = tar_members(path, str(path))
    inner = {name.removesuffix(".tar"): (offset, size) for name, _, offset, size in members}
    classes = classes or sorted(inner)
    _check_classes(set(inner), classes, str(path))
    return Listing(classes, Lazily(_train_tar_items, path, inner), names)


def _train_tar_items(path: Path, inner: dict[str, tuple[int, int]]) -> Iterator[Item]:
    for wnid, (offset, size) in sorted(inner.items()):
        for name, reader, _, _ in tar_members(path, f"{path}: {wnid}.tar inside it", offset, size):
            yield Item(f"{wnid}/{name}", wnid, reader)


def _val_tar_items(path: Path, solution: dict[str, str]) -> Iterator[Item]:
    for name, reader, _, _ in tar_members(path, str(path)):
        image = name.rsplit("/", 1)[-1].removesuffix(".JPEG")
        if image not in solution:
            raise BadInput(f"{path}: {name} is not named in {SOLUTION}")
        yield Item(name, solution[image], reader)


def _mapping(store: Store) -> tuple[list[str], dict[str, str]]:
    """The wnids in label order, and wnid → name; both empty where there is no mapping."""
    if not store.has(MAPPING):
        return [], {}
    pairs = [line.strip().partition(" ") for line in store.text(MAPPING).splitlines() if line.strip()]
    if wrong := next((wnid for wnid, _, _ in pairs if not WNID.fullmatch(wnid)), None):
        raise BadInput(f"{store.where}: {MAPPING}: expected a wnid such as n01440764, got {wrong[:40]!r}")
    return [wnid for wnid, _, _ in pairs], {wnid: name for wnid, _, name in pairs}


def _solution(store: Store) -> dict[str, str]:
    """Image → wnid, from boxes such as `n04070727 0 0 63 63 …`; all boxes of an image have its class."""
    table = rows(store.text(SOLUTION).splitlines(), SOLUTION, ("ImageId", "PredictionString"))
    return {image: boxes.partition(" ")[0] for image, boxes in table}


def _check_classes(found: set[str], classes: list[str], where: str) -> None:
    """Raises BadInput where a class was found that `classes` lack."""
    if unknown := sorted(found - set(classes)):
        raise BadInput(f"{where} names the class {unknown[0]!r}, {MAPPING} does not")


LAYOUT = Layout("imagenet", imagenet, {"train": Size(1000, 1_281_167), "val": Size(1000, 50_000)})
