"""What images somebody has in a folder: class folders, or such folders one level deeper.

Opens no image. Whatever is read in one of several possible ways is said in a line.
"""

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Source
from pipeline.data.sources import SPLIT_NAMES
from pipeline.errors import BadInput
from tfrecords.labels import SPLITS
from tfrecords.listing.items import as_text, files_below

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
OTHER_SPLITS = ("training", "testing", "valid", "dev", "eval", "gallery", "trainval")
MOST_DOMAINS = 12  # more folders of folders than these are parts of the classes' names, not kinds of images
MOST_JUNK = 0.02  # share of files that are no images, above which they are left out before the build counts rejects
# Written to the run folder where they are needed; names that nobody's own files have.
TABLE, MERGES = "fit_images.csv", "fit_merges.csv"

ClassId = tuple[str, str]  # source, class


@dataclass
class Found:
    """Images as the records will list them."""

    sources: list[Source]
    classes: dict[ClassId, list[str]]  # keys of the images; of a merged class all of them
    said: list[str]
    table: list[tuple[str, str]] = field(default_factory=list)  # (path, label): rows of TABLE; empty: none is needed
    merges: list[tuple[str, str, str, str]] = field(default_factory=list)  # rows of MERGES

    @property
    def images(self) -> int:
        return sum(map(len, self.classes.values()))


def source_name(place: Path) -> str:
    """What images are called in shards and tables: the folder's or file's name, in signs that file names may have.

    >>> source_name(Path("my photos-test-2/train")), source_name(Path("Bäume.csv"))
    ('my_photos_test_2', 'B_ume')
    """
    whole = place.absolute()
    name = whole.parent.name if is_split(whole.name) or whole.name.lower() == "images" else whole.stem
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.") or "images"


def is_split(name: str) -> bool:
    """Whether a folder is called after a split: train, test, val …"""
    return name.lower() in (*SPLIT_NAMES, *OTHER_SPLITS) and name.lower() != "images"


def look(place: Path) -> Found:
    """The images of a folder. Raises BadInput: nothing there, no image, images without class folders."""
    if not place.exists():
        raise BadInput(f"expected a folder of class folders or a CSV of path,label; {place} does not exist")
    try:
        files = list(files_below(str(place)))
    except OSError as error:
        raise BadInput(f"{place} cannot be listed: {error}") from None
    images = [path for path in files if path.lower().endswith(SUFFIXES)]
    if not images:
        came = f"{len(files):,} files, none of them {', '.join(SUFFIXES[:3])} …" if files else "it is empty"
        raise BadInput(f"{place}: expected class folders with images; {came}")
    said = []
    root = _below_wrappers(place, images)
    prefix = "" if root == place else f"{root.relative_to(place).as_posix()}/"
    if prefix:
        said.append(f"reads {root}, the only folder with images")
    images = [path.removeprefix(prefix) for path in images]
    flat = [path for path in images if "/" not in path]
    tops = sorted({path.split("/")[0] for path in images if "/" in path})
    if not tops:
        raise BadInput(f"{place}: {len(flat):,} images and no class folder: make a folder a class, or a CSV path,label")
    if flat:
        said.append(f"{len(flat):,} images beside the class folders are left out")
    holders = {path.split("/")[0] for path in images if path.count("/") == 1}
    splits = [top for top in tops if is_split(top)]
    if splits == tops and holders:
        if holders == set(tops):
            raise BadInput(f"{place}: {', '.join(tops)} hold images, not class folders: make a folder a class in them")
        said.append(f"{', '.join(sorted(holders))}: left out, images without class folders")
        tops = [top for top in tops if top not in holders]
    inside = [path for path in images if path.split("/")[0] in tops and "/" in path]
    if not holders & set(tops):
        return _nested(place, root, tops, inside, set(tops) <= set(splits), said)
    labelled = [(path, path.split("/")[0]) for path in inside]
    below = [path.removeprefix(prefix) for path in files if path.startswith(prefix)]
    listed = Counter(path.split("/")[0] for path in below if "/" in path)
    junk = listed.total() - len(inside)
    # Classes of the layout, which lists every file, decide how it splits them.
    if junk > MOST_JUNK * len(inside) or _several(listed) != _several(Counter(name for _, name in labelled)):
        said.append(f"{junk:,} files that are no images are left out")
        return _as_table(place, root, labelled, said)
    source = Source(layout="folder", name=source_name(place), root=str(root.absolute()))
    return Found([source], by_class(source.name, labelled), said)


def _several(counts: Counter[str]) -> set[str]:
    return {name for name, count in counts.items() if count > 1}


def _below_wrappers(place: Path, images: list[str]) -> Path:
    """The folder whose folders differ: `place`, or what a single folder in it leads to (`images/`, `data/images/`)."""
    parts = [path.split("/")[:-1] for path in images]
    if any(not each for each in parts):
        return place
    first, last = min(parts), max(parts)  # what these two share, all do
    shared = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    # The last shared folder may hold the images: it is a class then, and its parent what was meant.
    if any(len(each) == len(shared) for each in parts):
        shared = shared[:-1]
    return place.joinpath(*shared)


def _nested(place: Path, root: Path, tops: list[str], images: list[str], of_splits: bool, said: list[str]) -> Found:
    """Folders of class folders: splits of one set, kinds of images (domains), or classes below classes."""
    direct = {(path.split("/")[0], path.split("/")[1]) for path in images if path.count("/") == 2}
    if of_splits:
        whole = bool(direct)
        labelled = [(path, path.split("/")[1] if whole else path.split("/", 1)[1].rsplit("/", 1)[0]) for path in images]
        names = f"{', '.join(tops[:-1])} and {tops[-1]}" if len(tops) > 1 else tops[0]
        said.append(f"takes {names} as one set, and makes splits of its own")
        return _as_table(place, root, labelled, said)
    classes_of = {top: {second for first, second in direct if first == top} for top in tops}
    if len(tops) > MOST_DOMAINS or min(map(len, classes_of.values())) < 2:
        said.append("takes each folder that holds images as a class")
        return _as_table(place, root, [(path, path.rsplit("/", 1)[0]) for path in images], said)
    sources = _domains(root, tops)
    found: dict[ClassId, list[str]] = {}
    first: dict[str, str] = {}  # class → the source that has it first
    merges = []
    for source, top in zip(sources, tops, strict=True):
        labelled = [(path.split("/", 1)[1], path.split("/")[1]) for path in images if path.startswith(f"{top}/")]
        for (_, name), keys in by_class(source.name, labelled).items():
            owner = first.setdefault(name, source.name)
            found.setdefault((owner, name), []).extend(keys)
            if owner != source.name:
                merges.append((source.name, name, owner, name))
    said.append(f"takes {', '.join(tops)} as {len(tops)} domains, each with classes of its own")
    if merges:
        said[-1] = f"takes {', '.join(tops)} as {len(tops)} domains; classes of the same name are one class"
    return Found(sources, found, said, merges=merges)


def _domains(root: Path, tops: list[str]) -> list[Source]:
    sources: list[Source] = []
    for top in tops:
        name = re.sub(r"[^A-Za-z0-9_.]+", "_", top).strip("_.") or "images"
        taken = [source.name for source in sources]
        name = name if name not in taken and name not in SPLITS else f"{name}_{len(sources) + 1}"
        sources.append(Source(layout="folder", name=name, root=str((root / top).absolute())))
    return sources


def _as_table(place: Path, root: Path, labelled: list[tuple[str, str]], said: list[str]) -> Found:
    """One source that a table of paths lists, where no layout reads the folder so."""
    kept = [pair for pair in labelled if as_text(pair[0]) == pair[0]]
    if left := len(labelled) - len(kept):
        said.append(f"{left:,} images are left out: their names are not UTF-8")
    if not kept:
        raise BadInput(f"{root}: no image's name is UTF-8")
    source = Source(layout="csv", name=source_name(place), root=TABLE, options={"images": str(root.absolute())})
    return Found([source], by_class(source.name, kept), said, table=kept)


def by_class(source: str, labelled: list[tuple[str, str]]) -> dict[ClassId, list[str]]:
    """(path, class) of a source's images → their keys by class."""
    found: dict[ClassId, list[str]] = defaultdict(list)
    for key, name in labelled:
        found[source, as_text(name)].append(as_text(key))
    return dict(found)
