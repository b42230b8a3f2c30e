"""ILSVRC 2012 as its users have it, labels 0–999 in the order of the synsets whatever the form.

- Kaggle's: `ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG`, `…/val/*.JPEG` with `LOC_synset_mapping.txt` and
  `LOC_val_solution.csv`; as a folder, or as the one zip that Kaggle gives.
- plain: `train/<wnid>/*.JPEG`, `val/<wnid>/*.JPEG`; or the `<wnid>` folders themselves.
- the original tars `ILSVRC2012_img_train.tar` (a tar of one tar a class) and `ILSVRC2012_img_val.tar`.
- Hugging Face's parquet shards (`parquet.py`).

The order of `LOC_synset_mapping.txt` is that of the wnids themselves, so where the file is missing they are
sorted.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.sources import parquet
from tfrecords.sources.archives import Store, find, tar_members
from tfrecords.sources.items import Item, Lazily, Listing
from tfrecords.sources.tables import rows

KAGGLE = "ILSVRC/Data/CLS-LOC"
ZIPS = ("imagenet-object-localization-challenge.zip",)
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
WNID = re.compile(r"n\d{8}")


def imagenet(root: Path, split: str = "train") -> Listing:
    """Lists one split.

    Args:
        root: the folder (or Kaggle's zip) that holds one of the forms above.
        split: train or val.

    Raises:
        BadInput: none of the forms is there, or a table that the split needs is missing or names other
            classes.
    """
    if split not in ("train", "val"):
        raise BadInput(f"layout imagenet: option split expects train or val, got {split!r}")
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
        if strange := sorted(set(folders) - set(classes)):
            raise BadInput(f"{store.where}: {MAPPING} does not name the class folder {strange[0]}")
        return Listing(classes, Lazily(_folder_items, store, folder, folders), names)
    if split == "train":
        raise BadInput(f"{store.where}: expected class folders such as n01440764 in {folder}, found none")
    solution = _solution(store)
    classes = classes or sorted(set(solution.values()))
    return Listing(classes, Lazily(_flat_items, store, folder, _known(solution, classes)), names)


def _folder_items(store: Store, folder: str, wnids: list[str]) -> Iterator[Item]:
    for wnid in wnids:
        inside = f"{folder}/{wnid}" if folder else wnid
        for name in store.files(inside):
            yield Item(name, wnid, store.reader(name))


def _flat_items(store: Store, folder: str, solution: dict[str, str]) -> Iterator[Item]:
    for image, wnid in solution.items():  # an image that is missing is rejected by name when it is read
        name = f"{folder}/{image}.JPEG"
        yield Item(name, wnid, store.reader(name))


def _from_tar(root: Path, split: str) -> Listing:
    path = root / TARS[split]
    classes, names = _mapping(Store(root))
    if split == "val":
        solution = _solution(Store(root))
        classes = classes or sorted(set(solution.values()))
        return Listing(classes, Lazily(_val_tar_items, path, _known(solution, classes)), names)
    try:
        inner = {name.removesuffix(".tar"): (offset, size) for name, _, offset, size in tar_members(path)}
    except tarfile.TarError as error:
        raise BadInput(f"{path} cannot be read as a tar ({error}): is it whole?") from None
    classes = classes or sorted(inner)
    if strange := sorted(set(inner) - set(classes)):
        raise BadInput(f"{path}: {MAPPING} does not name the class {strange[0]}")
    return Listing(classes, Lazily(_train_tar_items, path, inner), names)


def _train_tar_items(path: Path, inner: dict[str, tuple[int, int]]) -> Iterator[Item]:
    for wnid, (offset, size) in sorted(inner.items()):
        try:
            for name, reader, _, _ in tar_members(path, offset, size):
                yield Item(f"{wnid}/{name}", wnid, reader)
        except tarfile.TarError as error:
            raise BadInput(f"{path}: {wnid}.tar inside it cannot be read ({error})") from None


def _val_tar_items(path: Path, solution: dict[str, str]) -> Iterator[Item]:
    try:
        for name, reader, _, _ in tar_members(path):
            image = name.rsplit("/", 1)[-1].removesuffix(".JPEG")
            if image not in solution:
                raise BadInput(f"{path}: {name} is not named in {SOLUTION}")
            yield Item(name, solution[image], reader)
    except tarfile.TarError as error:
        raise BadInput(f"{path} cannot be read as a tar ({error}): is it whole?") from None


def _mapping(store: Store) -> tuple[list[str], dict[str, str]]:
    """The wnids in order and what they are called; empty where there is no mapping."""
    if not store.has(MAPPING):
        return [], {}
    pairs = [line.strip().partition(" ") for line in store.text(MAPPING).splitlines() if line.strip()]
    if wrong := next((wnid for wnid, _, _ in pairs if not WNID.fullmatch(wnid)), None):
        raise BadInput(f"{store.where}: {MAPPING}: expected a wnid such as n01440764, got {wrong[:40]!r}")
    return [wnid for wnid, _, _ in pairs], {wnid: name for wnid, _, name in pairs}


def _solution(store: Store) -> dict[str, str]:
    """Image → wnid, from `n04070727 0 0 63 63 …` boxes; all boxes of an image are of its class."""
    table = rows(store.text(SOLUTION).splitlines(), SOLUTION, ("ImageId", "PredictionString"))
    return {image: boxes.partition(" ")[0] for image, boxes in table}


def _known(solution: dict[str, str], classes: list[str]) -> dict[str, str]:
    if strange := sorted(set(solution.values()) - set(classes)):
        raise BadInput(f"{SOLUTION} names the class {strange[0]!r}, {MAPPING} does not")
    return solution
