"""UnED: `info_files/<domain>/<split>.json` and `images/`, all eight domains or some."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.drawn_benchmarks.pictures import picture, write
from tfrecords.listing.unzipped import escaped

Row = tuple[str, int | list[int]]  # path below images/, class_id

# Where the images of a domain lie below images/, as the benchmark's README has it.
FOLDERS = {
    "cars": "cars/car_ims",
    "sop": "sop/chair_final",
    "inshop": "deepfashion/inshop/img/WOMEN/Dresses",
    "inat": "inat/iNaturalist/train_val2018/Aves",
    "met": "met/MET",
    "gldv2": "gldv2/images",
    "food2k": "food2k/Food2k_complete",
    "rp2k": "rp2k/all/train",
}
UNED = tuple(FOLDERS)


def draw_uned(
    folder: Path,
    domains: Sequence[str] = UNED,
    classes: int = 4,
    images: int = 5,
    escape: bool = True,
    pictures: bool = True,
) -> Path:
    """The lists of the domains, and their images.

    Of each domain train, val and test have `classes` classes each (val two), `images` images a class (val three). Class
    ids begin at 0 in train, at 1000 in val, at 2000 in test. gldv2, met and inshop have an index. Met's is its train
    list, its small index two classes of it, and its queries are of these classes. Of gldv2 the first query has two
    labels, `[2000, 2001]`; the last one's, 2999, no index image has; the last of the index has `[2003, 2000]`.

    `escape`: RP2K's images lie under the names that unzip gives them. `pictures`: without, no image is written.
    """
    drawn: dict[str, bytes] = {}
    for domain in domains:
        lists = _lists(domain, classes, images)
        for split, rows in lists.items():
            write_list(folder, domain, split, rows)
        for path, label in (row for rows in lists.values() for row in rows):
            first = label if isinstance(label, int) else label[0]
            name = escaped(path) if escape else path
            drawn.setdefault(f"images/{name}", picture(f"{domain} {first}", path) if pictures else b"")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    return write(folder, drawn) if pictures else folder


def write_list(folder: Path, domain: str, split: str, rows: Iterable[Row]) -> Path:
    """One list, as the benchmark's own are written; → the list."""
    path = folder / "info_files" / domain / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"path": name, "class_id": label} for name, label in rows]))
    return path


def _lists(domain: str, classes: int, images: int) -> Mapping[str, list[Row]]:
    def rows(kind: str, start: int, classes: int, images: int) -> list[Row]:
        found: list[Row] = []
        for label in range(start, start + classes):
            # Names are Chinese in RP2K alone, its class folders and some of its files.
            of_class = f"山泉{label}" if domain == "rp2k" else f"{kind}{label}"
            for number in range(images):
                name = f"水{number}.jpg" if domain == "rp2k" and number % 2 else f"{number}.jpg"
                found.append((f"{FOLDERS[domain]}/{of_class}/{name}", label))
        return found[::2] + found[1::2]  # no class in one piece

    if domain == "met":
        train = rows("", 0, classes, images)
        queries = [(f"met/test_met/{kind}{label}.jpg", label) for kind in "ab" for label in range(classes)]
        return {
            "train": train,
            "index": train,
            "small_index": [row for row in train if row[1] < 2],  # type: ignore[operator]  # a number each
            "val": [row for row in queries if row[0].startswith("met/test_met/a")][:2],
            "test": [row for row in queries if row[0].startswith("met/test_met/b")],
        }
    lists = {
        "train": rows("train", 0, classes, images),
        "val": rows("val", 1000, 2, 3),
        "test": rows("test", 2000, classes, images),
    }
    if domain in ("gldv2", "inshop"):
        lists["index"] = rows("index", 2000, classes, images)
        lists["test"] = rows("test", 2000, classes, 2)
    if domain == "gldv2":
        lists["test"][0] = (lists["test"][0][0], [2000, 2001])
        lists["test"].append(("gldv2/images/test2999/0.jpg", 2999))
        lists["index"][-1] = (lists["index"][-1][0], [2003, 2000])
    return lists
