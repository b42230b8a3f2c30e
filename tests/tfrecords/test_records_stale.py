"""Records know what they were made of: images that change in place are noticed in every layout, touched ones are not
taken for changed. What is damaged of the records is made again.
"""

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.tfrecords.damage import encoded, photograph
from tests.tfrecords.test_records_build import build, class_folders, rejects, write_config
from tests.tfrecords.test_sources_layouts import tar, zipped
from tfrecords.listing.items import Item, reader_below, refuse
from tfrecords.schema import Record, serialize
from tfrecords.shards import frame
from tfrecords.sources import list_source

pytestmark = pytest.mark.faults("stale results")
CLASSES, IMAGES = 3, 4


def images(start: int) -> dict[str, bytes]:
    names = [f"c{label}/{number}.jpg" for label in range(CLASSES) for number in range(IMAGES)]
    return {name: encoded(photograph(start + number, 24, 24)) for number, name in enumerate(names)}


def class_of(name: str) -> int:
    return int(name[1])


def folder(root: Path, start: int) -> Path:
    for name, data in images(start).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def csv(root: Path, start: int) -> Path:
    folder(root, start)
    rows = [f"{name},{class_of(name)}" for name in images(start)]
    (root / "table.csv").write_text("\n".join(["path,label", *rows]))
    return root / "table.csv"


def cub200(root: Path, start: int, pack: Callable = tar) -> Path:
    found, numbered = images(start), list(enumerate(images(start), 1))
    files: dict[str, bytes | str] = {f"images/{name}": data for name, data in found.items()}
    files["images.txt"] = "".join(f"{number} {name}\n" for number, name in numbered)
    files["image_class_labels.txt"] = "".join(f"{number} {class_of(name) + 1}\n" for number, name in numbered)
    files["classes.txt"] = "".join(f"{label + 1} {label + 1:03d}.c{label}\n" for label in range(CLASSES))
    root.mkdir(parents=True, exist_ok=True)
    return pack(root / "CUB.archive", {f"CUB_200_2011/{name}": data for name, data in files.items()})


def packed_tar(path: Path, files: dict) -> Path:
    return tar(path, files, "w:gz")


def tfrecords(root: Path, start: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    records = [Record(data, class_of(name), name, "set") for name, data in images(start).items()]
    (root / f"set-train-00-{len(records)}.tfrec").write_bytes(b"".join(frame(serialize(each)) for each in records))
    return root


def mnist(root: Path, start: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng, labels = np.random.default_rng(start), np.repeat(np.arange(10, dtype=np.uint8), 3)
    for name, array in (("images-idx3", rng.integers(0, 255, (30, 28, 28), np.uint8)), ("labels-idx1", labels)):
        header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (root / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
    return root


def parquet(root: Path, start: int) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root.mkdir(parents=True, exist_ok=True)
    found = images(start)
    pictures = [{"bytes": data, "path": name} for name, data in found.items()]
    table = pa.table({"image": pictures, "label": [class_of(name) for name in found]})
    out = io.BytesIO()
    pq.write_table(table, out)
    (root / "train-00000-of-00001.parquet").write_bytes(out.getvalue())
    return root


LAYOUTS: dict[str, tuple[str, Callable[[Path, int], Path]]] = {
    "folder": ("folder", folder),
    "csv": ("csv", csv),
    "tar": ("cub200", cub200),
    "tar.gz": ("cub200", lambda root, start: cub200(root, start, packed_tar)),
    "zip": ("cub200", lambda root, start: cub200(root, start, zipped)),
    "tfrecords": ("tfrecords", tfrecords),
    "mnist": ("mnist", mnist),
    "parquet": ("parquet", parquet),
}


def stats(root: Path) -> dict[Path, os.stat_result]:
    return {path: path.stat() for path in root.rglob("*") if path.is_file()}


def shards(records: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in records.glob("*.tfrec")}


@pytest.mark.parametrize("form", LAYOUTS)
def test_images_replaced_in_place_are_noticed_and_touched_ones_are_not(tmp_path, monkeypatch, form, capsys):
    monkeypatch.setenv("GUIE_CACHE", str(tmp_path / "cache"))
    layout, make = LAYOUTS[form]
    root = make(tmp_path / "set", 0)
    config = write_config(tmp_path, {"set": root}, workers=1)
    value = json.loads(config.read_text())
    value["records"]["sources"][0]["layout"] = layout
    config.write_text(json.dumps(value))
    assert build(config) == 0
    made = shards(tmp_path / "run/records")
    capsys.readouterr()
    for path in stats(tmp_path / "set"):
        os.utime(path)
    assert build(config) == 0
    assert "comparing their images" in capsys.readouterr().out
    assert build(config) == 0  # by now the times are known
    assert "comparing" not in capsys.readouterr().out and shards(tmp_path / "run/records") == made
    before = stats(tmp_path / "set")
    make(tmp_path / "set", 100)
    for path, was in before.items():
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert build(config) == 2
    error = capsys.readouterr().err
    assert "images changed since the records were built, the first: " in error and error.count("\n") == 1
    assert shards(tmp_path / "run/records") == made


@pytest.mark.parametrize("form", LAYOUTS)
def test_every_layout_says_which_file_an_image_is_read_of(tmp_path, monkeypatch, form):
    monkeypatch.setenv("GUIE_CACHE", str(tmp_path / "cache"))
    layout, make = LAYOUTS[form]
    found = {item.file for item in list_source(layout, make(tmp_path / "set", 0)).items}
    assert found and all(Path(path).is_file() and Path(path).is_relative_to(tmp_path) for path in found)


def test_what_is_drawn_or_refused_is_read_of_no_file(tmp_path):
    assert {item.file for item in list_source("drawn", Path()).items} == {""}
    assert Item("a", "b", reader_below(tmp_path, "../up.jpg")).file == Item("a", "b", lambda: refuse("x")).file == ""


def test_a_rejected_image_that_was_mended_is_noticed(tmp_path, capsys):
    root = class_folders(tmp_path / "set", {"crow": 3, "owl": 3})
    good = (root / "crow/000.jpg").read_bytes()
    (root / "crow/000.jpg").write_bytes(b"spoilt")
    (root / "owl/001.jpg").unlink()
    (root / "owl/001.jpg").symlink_to(root / "nowhere.jpg")
    config = write_config(tmp_path, {"birds": root}, max_reject_share=0.9, workers=1)
    assert build(config) == 0 and len(rejects(tmp_path / "run/records")) == 2
    assert build(config) == 0
    (root / "crow/000.jpg").write_bytes(good)
    (root / "nowhere.jpg").write_bytes(good)
    assert build(config) == 2
    assert "2 images changed since the records were built" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["labels.json", "rejects.csv", "duplicates.csv", "manifest.json", "shard", "index"])
@pytest.mark.parametrize("how", ["deleted", "cut off", "a bit"])
def test_what_is_damaged_of_the_records_is_made_again(tmp_path, name, how):
    config = write_config(tmp_path, {"birds": class_folders(tmp_path / "set", {"crow": 3, "owl": 3})}, workers=1)
    assert build(config) == 0
    records = tmp_path / "run/records"
    expected = {path.name: path.read_bytes() for path in records.iterdir() if path.is_file()}
    named = {"shard": "birds-train-00-6.tfrec", "index": "birds-train-00-6.index"}
    path = records / named.get(name, name)
    was, content = path.stat(), path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        middle = len(content) // 2
        other = content[:middle] if how == "cut off" else content[:middle] + b"\0" + content[middle + 1 :]
        path.write_bytes(other)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert build(config) == 0
    assert {path.name: path.read_bytes() for path in records.iterdir() if path.is_file()} == expected
