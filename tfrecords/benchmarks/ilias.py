"""ILIAS: `ilias_core/<object>/{query,pos}/….jpg`, `image_ids/*.txt`, `yfcc100m/*.tar`, `checksums.txt`.

An object's folder is the class. Queries and positives are those that `image_ids/` names, in the order of their names,
as in the authors' features; images are whole, as in their protocol (`crop`: cut to the object, by `…_bbox.txt`). The
index is the positives and the distractors, which are read out of the tars: only headers are read to list them, and
their key is the tar's name and the member's without its suffix. mini-ILIAS has those of `mini_ilias_yfcc100m_ids.txt`.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.console import Progress
from pipeline.errors import BadInput
from tfrecords.listing.archives import Reader, tar_members
from tfrecords.listing.items import (
    NO_CLASS,
    Item,
    Lazily,
    Listing,
    below,
    existing_file,
    existing_folder,
    expect_below,
    file_in,
    read_file,
)
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import text_lines

LISTS = {"image_queries": "image_query_ids.txt", "positives": "positive_ids.txt"}
MINI = "mini_ilias_yfcc100m_ids.txt"
DISTRACTORS, MINI_DISTRACTORS = 100_000_000, 5_000_000
BLOCK, LINES = 8_192, 500_000  # members that are looked up together; lines read at a time


def ilias(
    root: Path,
    split: str = "image_queries",
    mini: bool = False,
    tars: str = "*.tar",
    crop: bool = False,
    verify: bool = False,
) -> Listing:
    """Lists one split.

    Args:
        root: the folder that holds `ilias_core`, `image_ids` and `yfcc100m`.
        split: image_queries, positives or distractors.
        mini: of the distractors those of mini-ILIAS.
        tars: pattern of the tars in `yfcc100m` that are listed.
        crop: queries and positives are cut to the box around the object's; records do not notice that one changed.
        verify: the tars are read whole first, and compared with `checksums.txt`.

    Raises BadInput: a list, an image folder or the tars are missing; a list or a tar is damaged; a path leaves the
    folder; a tar is not that of `checksums.txt`.
    """
    existing_folder(root, "the folder of ILIAS")
    if split == "distractors":
        return _distractors(root, mini, tars, verify)
    core, lists = root / "ilias_core", find_list(root, LISTS[split])
    existing_folder(core, "the images of ILIAS in ilias_core/<object>/")
    names = sorted(_ids(lists))
    if not names:
        raise BadInput(f"{lists} names no image")
    return Listing(sorted({name.split("/")[0] for name in names}), Lazily(_items, core, names, crop))


def boxes(path: Path) -> list[tuple[int, int, int, int]]:
    """The object's boxes in an image, in px: left, top, width, height.

    `path`: `…_bbox.txt`. Raises ValueError: it is missing, or not lines of four numbers.
    """
    try:
        rows = [
            tuple(int(float(value)) for value in line.split()) for line in path.read_text().splitlines() if line.strip()
        ]
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"{path.name}: expected lines `x y width height`: {error}") from None
    if not rows or any(len(row) != 4 or row[2] < 1 or row[3] < 1 for row in rows):
        raise ValueError(f"{path.name}: expected lines `x y width height`, got {rows[:2]}")
    return rows  # type: ignore[return-value]  # of four each


def read_cropped(path: str) -> bytes:
    """The image as a PNG, cut to the box around the object's boxes; raises ValueError as `boxes`, or for no overlap."""
    import cv2

    from tfrecords import pixels

    image = pixels.read(read_file(path))  # [H, W, 3]
    found = np.array(boxes(Path(path).with_name(f"{Path(path).stem}_bbox.txt")))
    left, top = found[:, :2].min(0).clip(0)
    right, bottom = (found[:, :2] + found[:, 2:]).max(0)
    cut = image[top:bottom, left:right]
    if not cut.size:
        raise ValueError(f"the boxes of {Path(path).name} lie outside the image")
    return cv2.imencode(".png", cut[..., ::-1])[1].tobytes()


def _items(core: Path, names: list[str], crop: bool) -> Iterator[Item]:
    read = read_cropped if crop else read_file
    for name in names:
        yield Item(name, name.split("/")[0], partial(read, below(core, name)))


def _ids(lists: Path) -> Iterator[str]:
    """The first value of each line (a positive's scale and clutter follow)."""
    for number, line in enumerate(text_lines(lists), 1):
        name = line.split(",")[0].strip()
        if not name:
            continue
        if name.count("/") != 2:
            raise BadInput(f"{lists}: row {number}: expected <object>/<query or pos>/<image>, got {name[:80]!r}")
        expect_below(name, lists, number)
        yield name


def find_list(root: Path, name: str) -> Path:
    return file_in(root, ("image_ids", ""), name, "ilias")


def _distractors(root: Path, mini: bool, pattern: str, verify: bool) -> Listing:
    folder = existing_folder(root / "yfcc100m", "the tars of ILIAS in yfcc100m/")
    paths = sorted(path for path in folder.glob(pattern) if path.suffix == ".tar" and path.is_file())
    if not paths:
        raise BadInput(f"layout ilias: no tar matches {pattern} in {folder}")
    chosen = read_keys(find_list(root, MINI)) if mini else None
    if verify:
        _verify(existing_file(root / "checksums.txt", "ilias"), paths)
    return Listing([NO_CLASS], Lazily(_distractor_items, paths, chosen))


def _distractor_items(paths: list[Path], chosen: np.ndarray | None) -> Iterator[Item]:
    for path in paths:
        members = _jpegs(path)
        while block := list(islice(members, BLOCK)):
            taken = [True] * len(block) if chosen is None else are_in(chosen, [key for key, _ in block])
            for (key, reader), is_taken in zip(block, taken, strict=True):
                if is_taken:
                    yield Item(f"{path.name}/{key}", NO_CLASS, reader)


def _jpegs(path: Path) -> Iterator[tuple[str, Reader]]:
    """Key and reader of each JPEG of a tar. A key ends at the first dot of the file's name, as in WebDataset."""
    for name, reader, _, _ in tar_members(path, str(path)):
        folder, _, file = name.rpartition("/")
        stem, _, suffix = file.partition(".")
        if suffix.lower() == "jpg":
            yield f"{folder}/{stem}" if folder else stem, reader


def read_keys(path: Path) -> np.ndarray:
    """[N] bytes, sorted: the keys of a list, a line each; of the list that was read last they are kept."""
    facts = path.stat()
    return _read_keys(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(1)  # who lists tar by tar would read five million lines a thousand times
def _read_keys(path: Path, *_facts: int) -> np.ndarray:
    found = []
    with path.open("rb") as file:
        while lines := [line.strip() for line in islice(file, LINES)]:
            found.append(np.array([line for line in lines if line], np.bytes_))
    keys = np.concatenate(found) if found else np.array([], np.bytes_)
    del found
    keys.sort()
    if not len(keys):
        raise BadInput(f"{path} names no image")
    return keys


def are_in(chosen: np.ndarray, keys: list[str]) -> np.ndarray:
    """[N] bool: whether each key is one of the sorted `chosen`. Compares whole blocks: there are 100 million."""
    width = chosen.dtype.itemsize
    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    wanted = np.array([key if len(key) <= width else b"" for key in encoded], chosen.dtype)
    at = np.minimum(np.searchsorted(chosen, wanted), len(chosen) - 1)
    return (chosen[at] == wanted) & (wanted != b"")


def _verify(checksums: Path, paths: list[Path]) -> None:
    """Raises BadInput for a tar whose SHA-256 is not that of `checksums.txt` (lines `sha256 url`)."""
    try:
        rows = [line.split() for line in checksums.read_text(encoding="utf-8").splitlines() if line.strip()]
        wanted = {url.rsplit("/", 1)[-1]: digest.lower() for digest, url in rows}
    except (OSError, ValueError) as error:
        raise BadInput(f"{checksums}: expected lines `sha256 url`: {error}") from None
    progress = Progress("checksums", len(paths), "tars")
    for path in paths:
        if path.name not in wanted:
            raise BadInput(f"{checksums} does not name {path.name}: is it a tar of ILIAS?")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted[path.name]:
                raise BadInput(f"{path}: its SHA-256 is not that of {checksums.name}: download it again")
        progress.add(1)


LAYOUT = Layout(
    "ilias",
    ilias,
    {"image_queries": Size(1_000, 1_232), "positives": Size(1_000, 4_715), "distractors": Size(1, DISTRACTORS)},
    sized=lambda size, options: (
        size._replace(images=MINI_DISTRACTORS) if options["split"] == "distractors" and options["mini"] else size
    ),
    searched={"image_queries": "positives"},
)
