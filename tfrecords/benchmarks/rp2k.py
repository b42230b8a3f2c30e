"""RP2K: `all/train/<class>/<image>` and `all/test/<class>/<image>`, the class folders named in Chinese.

The root is the folder of `all`, or `all` itself. Names that unzip has escaped (`#U5c71`) are listed as they were meant,
so keys and classes are the same on every machine. Both splits have the same classes; class-disjoint ones are UnED's.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.items import Item, Lazily, Listing, existing_folder, files_below, read_file
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.unzipped import unescaped

SPLITS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}


def rp2k(root: Path, split: str = "train") -> Listing:
    """Lists one split, class by class.

    `split`: train, test or all. Raises BadInput: the folders of the split are missing, or hold no image in a folder a
    class.
    """
    existing_folder(root, "the folder of RP2K")
    root = root / "all" if (root / "all").is_dir() else root
    found: dict[str, list[tuple[str, str]]] = {}  # class → key, path below the root
    for part in SPLITS[split]:
        existing_folder(root / part, f"the images of RP2K in {part}/<class>/")
        for path in files_below(str(root / part), f"{part}/"):
            key = unescaped(path)
            if key.count("/") < 2:
                raise BadInput(f"layout rp2k expects {root / part}/<class>/<image>: found {path[:200]!r}")
            found.setdefault(key.split("/")[1], []).append((key, path))
    if not found:
        raise BadInput(f"layout rp2k expects {root / part}/<class>/<image>: found no image")
    classes = sorted(found)
    return Listing(classes, Lazily(_items, root, classes, found))


def _items(root: Path, classes: list[str], found: dict[str, list[tuple[str, str]]]) -> Iterator[Item]:
    for name in classes:
        for key, path in sorted(found[name]):
            yield Item(key, name, partial(read_file, str(root / path)))


LAYOUT = Layout("rp2k", rp2k, {"train": Size(2_388, 344_854), "test": Size(2_388, 39_457), "all": Size(2_388, 384_311)})
