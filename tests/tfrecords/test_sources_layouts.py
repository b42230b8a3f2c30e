"""Every public layout, written in small form and listed: classes in order, names, keys, and the very bytes."""

import io
import os
import pickle
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.errors import BadInput
from tests.drawn_benchmarks.pictures import write
from tfrecords import labels
from tfrecords.sources import LAYOUTS, Item, list_source

Files = Mapping[str, bytes | str]


def jpeg(number: int) -> bytes:
    """A JPEG that differs from those of other numbers."""
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), (number * 37 % 256, number % 256, 90), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def tar(path: Path, files: Files, mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def contents(items: list[Item]) -> dict[str, bytes]:
    """key → bytes, read as a worker reads them: after a journey through pickle."""
    assert len({item.key for item in items}) == len(items)
    return {item.key: pickle.loads(pickle.dumps(item)).read() for item in items}


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIE_CACHE", str(tmp_path / "cache"))


# class folders


def test_folder_lists_every_file_in_name_order_and_leaves_hidden_ones_out(tmp_path):
    root = write(
        tmp_path / "set",
        {"b/2.jpg": jpeg(2), "b/1.jpg": jpeg(1), "a/deep/3.jpg": jpeg(3), "a/notes.txt": "x", "a/.DS_Store": "x"},
    )
    (root / "empty").mkdir()
    listing = list_source("folder", root)
    assert listing.classes == ["a", "b", "empty"]
    items = list(listing.items)
    assert [item.key for item in items] == ["a/deep/3.jpg", "a/notes.txt", "b/1.jpg", "b/2.jpg"]
    assert contents(items)["b/1.jpg"] == jpeg(1)
    assert [item.key for item in listing.items] == [item.key for item in items]  # again, in the same order


def test_folder_lists_unreadable_files_as_items_that_raise_and_never_hang(tmp_path):
    root = write(tmp_path / "set", {"a/1.jpg": jpeg(1)})
    os.mkfifo(root / "a" / "pipe.jpg")
    (root / "a" / "broken.jpg").symlink_to(root / "nowhere.jpg")
    (root / "a" / "loop").symlink_to(root / "a", target_is_directory=True)
    items = {item.key: item for item in list_source("folder", root).items}
    assert set(items) == {"a/1.jpg", "a/pipe.jpg", "a/broken.jpg", "a/loop"}
    for key in ("a/pipe.jpg", "a/broken.jpg", "a/loop"):
        with pytest.raises(OSError):
            items[key].read()


def test_folder_names_that_are_no_utf8_become_text(tmp_path):
    root = write(tmp_path / "set", {"a/1.jpg": jpeg(1)})
    with open(os.fsencode(root) + b"/a/\xff.jpg", "wb") as file:
        file.write(jpeg(2))
    found = contents(list(list_source("folder", root).items))
    assert found == {"a/1.jpg": jpeg(1), "a/\\xff.jpg": jpeg(2)}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "found no folder"),
        ({"1.jpg": "x"}, "found no folder"),
        ({"a/.hidden": "x"}, "hold no images"),
        ({"train/a/1.jpg": "x", "test/a/1.jpg": "x"}, "one level too high"),
    ],
)
def test_folder_that_holds_no_class_images_is_bad_input(tmp_path, files, says):
    (tmp_path / "set").mkdir()
    with pytest.raises(BadInput, match=says) as caught:
        list_source("folder", write(tmp_path / "set", files))
    assert "\n" not in str(caught.value)


def test_a_missing_root_is_bad_input_in_every_layout_that_reads_the_disk(tmp_path):
    for layout in LAYOUTS.values():
        if layout.rooted:
            with pytest.raises(BadInput):
                list_source(layout.name, tmp_path / "nowhere")
        else:
            assert list(list_source(layout.name, tmp_path / "nowhere").items)


def test_a_root_without_the_layout_is_bad_input_in_every_layout(tmp_path):
    write(tmp_path, {"unrelated.bin": "x"})
    for layout in LAYOUTS.values():
        if layout.rooted:
            with pytest.raises(BadInput):
                list_source(layout.name, tmp_path)


def test_unknown_layouts_options_and_types_name_what_is_known(tmp_path):
    with pytest.raises(BadInput, match="nearest known: landmarks"):
        list_source("landmark", tmp_path)
    with pytest.raises(BadInput, match="no option 'clases'; it has: classes"):
        list_source("landmarks", tmp_path, {"clases": 3})
    with pytest.raises(BadInput, match="option classes expects int, got 'many'"):
        list_source("landmarks", tmp_path, {"classes": "many"})
    for layout in LAYOUTS.values():
        if "split" in layout.options({}) and layout.published:
            with pytest.raises(BadInput, match=f"option split expects {next(iter(layout.published))}.*got 'tset'"):
                list_source(layout.name, tmp_path, {"split": "tset"})


def test_published_sizes_follow_the_options_and_add_up():
    for layout in LAYOUTS.values():
        if {"all", "train", "test"} <= layout.published.keys():
            whole, parts = layout.published["all"], [layout.published[split] for split in ("train", "test")]
            assert whole.images == sum(part.images for part in parts), layout.name
            assert {part.classes for part in parts} == {whole.classes}
    size = {name: layout.size for name, layout in LAYOUTS.items()}
    assert size["folder"]({}) is size["csv"]({}) is size["parquet"]({"split": "any"}) is None
    assert size["landmarks"]({}) == (7000, 1_580_470) and size["landmarks"]({"classes": 90_000})[0] == 81_313
    assert size["cifar100"]({"split": "all", "coarse": True}) == (20, 60_000)
    assert size["products10k"]({"split": "test", "iconic": True}) == (9691, 55_376 + 9691)
    assert size["drawn"]({"classes": 3}) == (3, 180)
    with pytest.raises(BadInput, match="option classes expects 1 or more"):
        size["drawn"]({"classes": 0})
    with pytest.raises(BadInput, match="no option 'clases'"):
        size["landmarks"]({"clases": 3})


def test_a_folder_that_goes_while_it_is_listed_is_bad_input(tmp_path):
    root = write(tmp_path / "set", {"a/1.jpg": jpeg(1), "b/1.jpg": jpeg(2)})
    items = iter(list_source("folder", root).items)
    next(items)
    (root / "b" / "1.jpg").unlink()
    (root / "b").rmdir()
    with pytest.raises(BadInput, match="cannot be listed"):
        list(items)


# tables


@pytest.mark.faults("hostile name")
def test_csv_reads_labels_in_number_order_and_refuses_paths_that_leave_its_folder(tmp_path):
    write(tmp_path, {"outside.jpg": jpeg(9)})
    root = write(
        tmp_path / "set",
        {
            "t.csv": "label;path\n10;i/1.jpg\n2;i/2.jpg\n2;missing.jpg\n2;../outside.jpg\n"
            "2;/etc/hosts\n2;i/../i/3.jpg\n",
            **{f"i/{n}.jpg": jpeg(n) for n in (1, 2, 3)},
        },
    )
    listing = list_source("csv", root / "t.csv", {"delimiter": ";"})
    assert listing.classes == ["2", "10"]
    items = {item.key: item for item in listing.items}
    assert items["i/1.jpg"].class_name == "10" and items["i/1.jpg"].read() == jpeg(1)
    assert items["i/../i/3.jpg"].read() == jpeg(3)
    with pytest.raises(OSError):
        items["missing.jpg"].read()
    for key in ("../outside.jpg", "/etc/hosts"):
        with pytest.raises(ValueError, match="leaves the source's root"):
            items[key].read()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("path,label\n", "no row"),
        ("path,class\nx,1\n", "expected the column 'label', found 'path, class'"),
        ("path,label\na.jpg\n", "line 2 has 1 values"),
        ("path,label\na.jpg,\n", "empty 'label'"),
        (b"path,label\n\xff\xfe,1\n", "not readable as a CSV"),
    ],
)
def test_a_csv_that_cannot_be_read_is_bad_input(tmp_path, text, says):
    write(tmp_path, {"t.csv": text})
    with pytest.raises(BadInput, match=says):
        list(list_source("csv", tmp_path / "t.csv").items)


PRODUCTS: Files = {
    "train.csv": "name,class,group\n0.jpg,10,1\n1.jpg,2,0\n2.jpg,2,0\ngone.jpg,2,0\n",
    "test.csv": "name,class,group\n0.jpg,2,0\n1.jpg,10,1\n",
    "class_names.csv": "class,name\n2,Apple\n10,Milk\n",
    "iconic/2.jpg": jpeg(7),
}


@pytest.mark.parametrize("packed", [False, "plain", "with folder"])
def test_products10k_has_the_same_labels_in_train_and_test(tmp_path, packed):
    root = write(tmp_path, PRODUCTS)
    for split, count in (("train", 3), ("test", 2)):
        images = {f"{n}.jpg": jpeg(n + (10 if split == "test" else 0)) for n in range(count)}
        if packed:
            folder = f"{split}/" if packed == "with folder" else ""
            zipped(root / f"{split}.zip", {folder + name: data for name, data in images.items()})
        else:
            write(root / split, images)
    train = list_source("products10k", root)
    test = list_source("products10k", root, {"split": "test"})
    assert train.classes == test.classes == ["2", "10"]
    assert train.names == {"2": "Apple", "10": "Milk"}
    *there, gone = train.items
    assert contents(there) == {f"train/{n}.jpg": jpeg(n) for n in range(3)}
    with pytest.raises((OSError, ValueError)):
        gone.read()
    assert contents(list(test.items)) == {"test/0.jpg": jpeg(10), "test/1.jpg": jpeg(11)}
    iconic = list(list_source("products10k", root, {"iconic": True}).items)
    assert contents(iconic[-1:]) == {"iconic/2.jpg": jpeg(7)}


def test_products10k_refuses_classes_that_are_no_numbers(tmp_path):
    with pytest.raises(BadInput, match="whole numbers in the column class, got 'x'"):
        list_source("products10k", write(tmp_path, {"train.csv": "name,class,group\n0.jpg,x,1\n"}))


@pytest.mark.parametrize("packed", [False, True])
def test_landmarks_takes_the_classes_with_most_images_and_the_smaller_id_in_a_tie(tmp_path, packed):
    table = "id,url,landmark_id\n" + "".join(
        f"{i},u,{c}\n" for i, c in [("abc1", 7), ("abc2", 7), ("bcd1", 30), ("bcd2", 30), ("cde1", 4), ("../x", 7)]
    )
    images = {f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg": jpeg(int(i[-1])) for i in ("abc1", "abc2", "bcd1", "bcd2", "cde1")}
    root = write(tmp_path, {"train.csv": table})
    if packed:
        ordered = list(images.items())
        tar(root / "train" / "images_000.tar", dict(ordered[:3]))
        tar(root / "train" / "images_001.tar", dict(ordered[3:]))
    else:
        write(root / "train", images)
    listing = list_source("landmarks", root, {"classes": 2})
    assert listing.classes == ["7", "30"]
    *there, outside = listing.items
    assert contents(there) == {i: jpeg(int(i[-1])) for i in ("abc1", "abc2", "bcd1", "bcd2")}
    with pytest.raises(ValueError, match="no image id"):
        outside.read()
    assert list_source("landmarks", root, {"classes": 1}).classes == ["7"]
    write(tmp_path, {"train.csv": "id,landmark_id\nabc1,9\nabc2,10\n"})
    assert list_source("landmarks", root, {"classes": 1}).classes == ["9"]


CUB: Files = {
    "images.txt": "1 001.Black_Bird/x.jpg\n2 001.Black_Bird/y.jpg\n3 002.Red_Bird/z.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    "classes.txt": "1 001.Black_Bird\n2 002.Red_Bird\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n",
    **{
        f"images/{path}": jpeg(n)
        for n, path in enumerate(["001.Black_Bird/x.jpg", "001.Black_Bird/y.jpg", "002.Red_Bird/z.jpg"], 1)
    },
}


@pytest.mark.parametrize("form", ["folder", "above", "tgz in a folder", "tgz", "tar", "zip"])
def test_cub200_reads_folder_and_archives_alike(tmp_path, form):
    inside = {f"CUB_200_2011/{name}": data for name, data in CUB.items()}
    root = {
        "folder": lambda: write(tmp_path / "CUB_200_2011", CUB),
        "above": lambda: write(tmp_path / "set", inside),
        "tgz in a folder": lambda: tar(tmp_path / "s" / "CUB_200_2011.tgz", inside, "w:gz").parent,
        "tgz": lambda: tar(tmp_path / "CUB_200_2011.tgz", inside, "w:gz"),
        "tar": lambda: tar(tmp_path / "CUB_200_2011.tar", inside),
        "zip": lambda: zipped(tmp_path / "CUB.zip", inside),
    }[form]()
    listing = list_source("cub200", root)
    assert listing.classes == ["001.Black_Bird", "002.Red_Bird"]
    assert listing.names["002.Red_Bird"] == "Red Bird"
    whole = contents(list(listing.items))
    assert whole == {"001.Black_Bird/x.jpg": jpeg(1), "001.Black_Bird/y.jpg": jpeg(2), "002.Red_Bird/z.jpg": jpeg(3)}
    assert [i.key for i in list_source("cub200", root, {"split": "test"}).items] == ["001.Black_Bird/y.jpg"]


def test_cub200_with_tables_that_contradict_each_other_is_bad_input(tmp_path):
    for name, text in [("classes.txt", "1 a\n"), ("images.txt", "x\n"), ("image_class_labels.txt", "1 1\n")]:
        root = write(tmp_path / name, {**CUB, name: text})
        with pytest.raises(BadInput):
            list(list_source("cub200", root).items)


# the real sets


@pytest.mark.parametrize(
    ("layout", "root", "options", "classes", "items"),
    [
        ("imagenet", "imagenet", {}, 100, 6000),
        ("imagenet", "imagenet", {"split": "val"}, 100, 2000),
        ("products10k", "products10k", {}, 61, 1416),
        ("products10k", "products10k", {"split": "test", "iconic": True}, 61, 671),
        ("landmarks", "landmarks", {}, 6, 169),
        ("cub200", "CUB_200_2011", {}, 50, 2952),
        ("folder", "cifar10/train", {}, 10, 3000),
        ("folder", "cifar10/test", {}, 10, 1000),
    ],
)
def test_real_sets_are_listed_whole(shared, layout, root, options, classes, items):
    listing = list_source(layout, shared / "data" / root, options)
    listed = list(listing.items)
    assert (len(listing.classes), len(listed)) == (classes, items)
    assert {item.class_name for item in listed} == set(listing.classes)
    assert len({item.key for item in listed}) == items
    for item in listed[:: len(listed) // 20]:
        Image.open(io.BytesIO(item.read())).verify()


def test_listing_opens_no_image_and_costs_little_a_row(tmp_path, monkeypatch):
    rows = 200_000
    table = "id,landmark_id\n" + "".join(f"{n:016x},{n % 5000}\n" for n in range(rows))
    write(tmp_path, {"train.csv": table})
    (tmp_path / "train").mkdir()
    monkeypatch.setattr("tfrecords.listing.items.os.open", lambda *_: pytest.fail("an image was opened"))
    started = time.process_time()
    listing = list_source("landmarks", tmp_path, {"classes": 5000})
    assert sum(1 for _ in listing.items) == rows
    assert time.process_time() - started < 10  # ImageNet's 1.2 million in a minute on a slow core


def test_all_sets_build_in_one_label_space(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GUIE_DATA", str(shared / "data"))
    config = Path(__file__).parents[2] / "configs" / "real_images_all.yaml"
    small = ["records.cap_per_class=2", "records.workers=1", "records.image_size_px=64"]
    assert cli.main(["tfrecords", str(config), f"run_dir={tmp_path}", *small]) == 0
    table = {row.split()[0]: row.split()[1:] for row in capsys.readouterr().out.splitlines() if row.split()}
    assert table["source"] == ["classes", "train", "validation", "test", "total"]
    for source, classes in {"imagenet": 100, "products10k": 61, "landmarks": 6, "cub200": 50, "cifar10": 10}.items():
        assert (table[source][0], table[source][-1]) == (str(classes), str(2 * classes))
    space = labels.read(tmp_path / "records" / "labels.json")
    assert space.ranges() == {
        "imagenet": (0, 100),
        "products10k": (100, 61),
        "landmarks": (161, 6),
        "cub200": (167, 50),
        "cifar10": (217, 10),
    }
    assert space.names["imagenet", "n01443537"] == "goldfish, Carassius auratus"
    assert space.names["cub200", "001.Black_footed_Albatross"] == "Black footed Albatross"
