"""Lists that are damaged or hostile: every one of them is BadInput in one line that names the file."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pipeline.errors import BadInput
from tests.drawn_benchmarks import draw_ilias, draw_uned
from tests.tfrecords.benchmarks.test_layouts import DRAWN
from tfrecords.benchmarks import cars196
from tfrecords.sources import find_layout, list_source

Change = Callable[[Path], object]


def text(name: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        path = root / name
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))

    return change


def bytes_of(name: str, data: bytes) -> Change:
    return lambda root: (root / name).write_bytes(data)


def removed(name: str) -> Change:
    return lambda root: (root / name).unlink() if (root / name).is_file() else shutil.rmtree(root / name)


def cars(**fields) -> Change:
    """`cars_annos.mat` with one row of these fields."""

    def change(root: Path) -> None:
        row = np.zeros((1, 1), dtype=[(name, object) for name in fields])
        row[0, 0] = tuple(fields.values())
        held = {"annotations": row, "class_names": np.array([["a"]], dtype=object)}
        savemat(root / "cars_annos.mat", held, do_compression=True)

    return change


INSHOP, MET, SOLUTION = "Eval/list_eval_partition.txt", "ground_truth/testset.json", "retrieval_solution_v2.1.csv"
QUERIES, POSITIVES = "image_ids/image_query_ids.txt", "image_ids/positive_ids.txt"
FOOD, INAT = "Food2k_label/train_finetune.txt", "Inat_dataset_splits/Inaturalist_train_set1.txt"

CASES: dict[str, tuple[str, dict, Change, str]] = {
    "sop, no list": ("sop", {}, removed("Ebay_train.txt"), "expects Ebay_train.txt"),
    "sop, no header": ("sop", {}, text("Ebay_train.txt", "class_id", "klass"), "column 'class_id'"),
    "sop, a class": ("sop", {}, text("Ebay_train.txt", "1 1 3", "1 x 3"), "row 1: expected a number"),
    "sop, a large class": ("sop", {}, text("Ebay_train.txt", "1 1 3", f"1 {'9' * 5000} 3"), "row 1: expected a number"),
    "sop, a path": ("sop", {}, text("Ebay_train.txt", "chair_final/", "../../"), "row 1: path"),
    "sop, no text": ("sop", {}, bytes_of("Ebay_train.txt", b"\xff\xfe\0"), "Ebay_train.txt"),
    "sop, nothing": ("sop", {}, bytes_of("Ebay_train.txt", b"class_id path\n"), "lists no image"),
    "inshop, no list": ("inshop", {}, removed(INSHOP), "expects list_eval_partition.txt"),
    "inshop, no images": ("inshop", {}, removed("Img"), "expects the images in"),
    "inshop, a header": ("inshop", {}, text(INSHOP, "item_id", "id"), "then the line 'image_name"),
    "inshop, cut off": ("inshop", {}, text(INSHOP, "24\n", "25\n"), "says 25 images, 24 follow"),
    "inshop, a split": ("inshop", {}, text(INSHOP, "train", "trian"), "row 1: expected image_name"),
    "inshop, a path": ("inshop", {}, text(INSHOP, "img/", "/mg/"), "row 1: path '/mg/WOMEN"),
    "cars, no list": ("cars196", {}, removed("cars_annos.mat"), "which does not exist"),
    "cars, no images": ("cars196", {}, removed("car_ims"), "or car_ims.tgz: found neither"),
    "cars, no mat": ("cars196", {}, bytes_of("cars_annos.mat", b"not MATLAB" * 99), "struct array"),
    "cars, empty": ("cars196", {}, bytes_of("cars_annos.mat", b""), "struct array"),
    "cars, v7.3": (
        "cars196", {},
        bytes_of("cars_annos.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM\x89HDF\r\n\x1a\n"), "struct array",
    ),
    "cars, other fields": ("cars196", {}, cars(fname="1.jpg"), "relative_im_path, class"),
    "cars, a bomb": ("cars196", {}, cars(relative_im_path="x" * 9_000_000, **{"class": 1}), "more than 4,194,304 b"),
    "cars, a class": (
        "cars196", {}, cars(relative_im_path="car_ims/1.jpg", **{"class": "one"}), "row 1: expected",
    ),
    "cars, a path": (
        "cars196", {}, cars(relative_im_path="../1.jpg", **{"class": 1}), "leaves the source's",
    ),
    "cub, a class": (
        "cub200_retrieval", {}, text("image_class_labels.txt", "1 1", "1 7"), "names the class 7",
    ),
    "ilias, no list": ("ilias", {}, removed(QUERIES), "expects image_query_ids.txt"),
    "ilias, no core": ("ilias", {}, removed("ilias_core"), "the images of ILIAS"),
    "ilias, a path": ("ilias", {}, text(QUERIES, "object_a_000/query", "../up"), "row 1: path"),
    "ilias, an id": (
        "ilias", {"split": "positives"}, text(POSITIVES, "/pos/", "-"), "row 1: expected <object>/",
    ),
    "ilias, no tars": (
        "ilias", {"split": "distractors"}, removed("yfcc100m"), "the tars of ILIAS",
    ),
    "ilias, other tars": (
        "ilias", {"split": "distractors", "tars": "*_9.tar"}, lambda _: None, "no tar matches *_9.tar",
    ),
    "ilias, no mini": (
        "ilias", {"split": "distractors", "mini": True},
        removed("image_ids/mini_ilias_yfcc100m_ids.txt"), "expects mini_ilias_yfcc100m_ids.txt",
    ),
    "ilias, sums": (
        "ilias", {"split": "distractors", "verify": True},
        bytes_of("checksums.txt", b"only one word"), "expected lines `sha256 url`",
    ),
    "ilias, no sum": (
        "ilias", {"split": "distractors", "verify": True},
        text("checksums.txt", "00000.tar", "00007.tar"), "does not name yfcc100m_00000.tar",
    ),
    "gldv2, no solution": ("gldv2_retrieval", {}, removed(SOLUTION), f"expects {SOLUTION}"),
    "gldv2, a usage": (
        "gldv2_retrieval", {}, text(SOLUTION, "Private", "Secret"), "expected Usage Public",
    ),
    "gldv2, an id": (
        "gldv2_retrieval", {}, text(SOLUTION, "q00123456789abc,", "../q,"), "expected an image id",
    ),
    "gldv2, no index": (
        "gldv2_retrieval", {"split": "index"}, removed("index.csv"), "expects index.csv",
    ),
    "met, no list": ("met", {"split": "test"}, removed(MET), "expects testset.json"),
    "met, an exhibit": ("met", {"split": "test"}, text(MET, '"MET_id": 100', '"MET_id": [1]'), "row 1"),
    "met, a path": ("met", {"split": "test"}, text(MET, "test_met/", "../"), "leaves the source's"),
    "met, damaged": ("met", {"split": "test"}, text(MET, '"path"', '"path'), "damaged JSON"),
    "rp2k, a split": ("rp2k", {"split": "test"}, removed("all/test"), "the images of RP2K in test"),
    "rp2k, no classes": (
        "rp2k", {}, bytes_of("all/train/1.jpg", b"x"), "<class>/<image>: found 'train/1.jpg'",
    ),
    "food2k, no list": ("food2k", {}, removed(FOOD), "expects train_finetune.txt"),
    "food2k, a class": ("food2k", {}, text(FOOD, "0.jpg 0", "0.jpg x"), "row 1: expected a path"),
    "food2k, a path": ("food2k", {}, text(FOOD, "0/0.jpg", "../0.jpg"), "row 1: path"),
    "inat, no list": ("inat2018", {}, removed(INAT), "expects Inaturalist_train_set1.txt"),
    "inat, a line": ("inat2018", {}, text(INAT, "/2000/", "/birds/"), "row 1: expected …/<category>"),
    "inat, an annotation": (
        "inat2018", {"split": "val2018"},
        text("val2018.json", '"category_id": 2000', '"category_id": "x"'), "annotation 1: expected",
    ),
    "inat, no annotation": (
        "inat2018", {"split": "val2018"},
        text("val2018.json", '"image_id": 3', '"image_id": 99'), "image 1: expected an annotated id",
    ),
    "inat, a path": (
        "inat2018", {"split": "val2018"},
        text("val2018.json", "train_val2018/Aves/2000", "../.."), "row 1: path",
    ),
    "inat, a large annotation": (
        "inat2018", {"split": "val2018"}, text("val2018.json", '"category_id": 2000', f'"category_id": {"9" * 5000}'),
        "is not readable as JSON",
    ),
    "inat, a large class": ("inat2018", {}, text(INAT, "/2000/", f"/{'9' * 5000}/"), "row 1: expected …/<category>"),
    "oml, no file": ("oml", {}, removed("df.csv"), "or a folder with df.csv"),
    "oml, a column": ("oml", {}, text("df.csv", "is_query", "query"), "expected the column 'is_query'"),
    "oml, a split": ("oml", {}, text("df.csv", "jpg,train", "jpg,test"), "expected split train or"),
    "oml, a flag": ("oml", {}, text("df.csv", "True", "yes"), "expected True or False as is_query"),
    "oml, no role": ("oml", {}, text("df.csv", "True,False", "False,False"), "has neither"),
    "oml, a path": ("oml", {}, text("df.csv", "images/0_0", "../0_0"), "row 1: path"),
    "oml, a path elsewhere": ("oml", {}, text("df.csv", "images/0_0", "/etc/0_0"), "row 1: path"),
    "oml, no label": ("oml", {}, text("df.csv", "\n0,images/0_0", "\n,images/0_0"), "expected a label"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.faults("hostile list")
def test_a_damaged_or_hostile_set_is_bad_input_in_one_line(tmp_path, monkeypatch, case):
    monkeypatch.setattr(cars196, "LARGEST_BYTES", 1 << 22)
    layout, options, change, says = CASES[case]
    root = DRAWN[layout](tmp_path / "set")
    list(list_source(layout, root, options if "*_9.tar" not in options.values() else {}).items)  # it was whole
    change(root)
    with pytest.raises(BadInput) as caught:
        list(list_source(layout, root, options).items)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut off, overwritten, with junk or a part of them put in, a part taken out, lines in another order."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 60)
    ways: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: data[:at] + rng.randbytes(length)[:4] + data[at + 4 :],
        lambda: data[:at] + rng.randbytes(length) + data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + data[length : 4 * length] + data[at:],
        lambda: b"\n".join(rng.sample(lines := data.split(b"\n"), len(lines))),
        lambda: rng.choice([b"", b"\n", b"null", b"[]", b"{}", b"[{}]", b"\xff\xfe\0", b"\0" * 600, b"9" * 5000]),
    ]
    return rng.choice(ways)()


@pytest.mark.parametrize("layout", [name for name in (*DRAWN, "uned") if name not in ("gpr1200", "rp2k")])
@pytest.mark.faults("hostile list")
def test_a_list_damaged_anywhere_is_listed_or_bad_input_and_names_nothing_outside(tmp_path, layout, tried):
    draw = DRAWN.get(layout) or (lambda folder: draw_uned(folder, ["gldv2"], pictures=False))
    root, found, rng = draw(tmp_path / "set"), find_layout(layout), random.Random(7)
    options: list[dict] = [{"split": split} for split in found.splits or found.published]
    options = [{**each, "domain": "gldv2"} if layout == "uned" else each for each in options]
    options += [{"split": "distractors", "mini": True, "verify": True}] if layout == "ilias" else []
    lists = [path for path in sorted(root.rglob("*.*")) if path.suffix in (".txt", ".json", ".csv", ".mat", ".tar")]
    for _ in range(20):
        path = rng.choice([each for each in lists if not each.match("ilias_core/*/*/*")])
        before = path.read_bytes()
        path.write_bytes(damaged(before, rng))
        for each in options:
            try:
                items = list(list_source(layout, root, each).items)
                assert all(Path(item.file).resolve().is_relative_to(root) for item in items if item.file)
            except BadInput as error:
                assert "\n" not in str(error) and len(str(error)) < 900
        path.write_bytes(before)
    tried(20)


def test_boxes_of_ilias_that_are_no_boxes_reject_the_image_alone(tmp_path):
    root = draw_ilias(tmp_path)
    box = root / "ilias_core/object_a_000/query/Q000_00_bbox.txt"
    item = next(iter(list_source("ilias", root, {"crop": True}).items))
    for content, says in (
        ("1 2 3", "expected lines"),
        ("a b c d", "expected lines"),
        ("900 900 5 5", "outside the image"),
    ):
        box.write_text(content)
        with pytest.raises(ValueError, match=says):
            item.read()
    box.unlink()
    with pytest.raises(ValueError, match=r"Q000_00_bbox\.txt"):
        item.read()
