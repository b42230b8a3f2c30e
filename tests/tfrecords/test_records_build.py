"""`guie tfrecords` and `guie verify` through the command line: what is taken, split, refused, replaced, merged."""

import csv
import dataclasses
import hashlib
import json
import os
import pickle
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.config import Records, Run, Source, load
from pipeline.files import fingerprint
from tests.tfrecords.damage import encoded, photograph, png_bomb
from tfrecords import selection
from tfrecords.build import table
from tfrecords.chunks import JpegSettings, make_shard, read_mark
from tfrecords.labels import SPLITS
from tfrecords.schema import read_shard
from tfrecords.selection import Chunk
from tfrecords.shards import index_path
from tfrecords.sources import Item, Listing, read_file
from tfrecords.splits import Lowest, digest, split_classes, split_item


def class_folders(root: Path, sizes: dict[str, int], side: int = 24, quality: int = 75) -> Path:
    for number, (name, count) in enumerate(sizes.items()):
        (root / name).mkdir(parents=True)
        for image in range(count):
            data = encoded(photograph(1000 * number + image, side, side), quality=quality)
            (root / name / f"{image:03d}.jpg").write_bytes(data)
    return root


def write_config(folder: Path, sources: dict[str, Path], **records) -> Path:
    """Writes a config (JSON is YAML) whose run folder is beside it."""
    rows = [{"layout": "folder", "name": name, "root": str(root)} for name, root in sources.items()]
    config = {
        "run_dir": str(folder / "run"),
        "encoder": {"name": "none"},
        "records": {"sources": rows, "workers": 2, **records},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


def build(config: Path, *overrides: str) -> int:
    return cli.main(["tfrecords", str(config), *overrides])


def all_records(folder: Path) -> dict[str, list]:
    """Split → its records, over all shards."""
    found: dict[str, list] = {split: [] for split in SPLITS}
    for row in json.loads((folder / "manifest.json").read_text())["shards"]:
        records = list(read_shard(folder / row["file"]))
        assert len(records) == row["count"] and {record.source for record in records} == {row["source"]}
        found[row["split"]] += records
    return found


def rejects(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejects.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("birds"), {"crow": 14, "owl": 9, "tit": 3, "wren": 12, "gull": 7})


def test_a_build_has_the_designs_files_labels_and_splits(birds: Path, tmp_path: Path, capsys):
    config = write_config(
        tmp_path, {"birds": birds}, cap_per_class=8, images_per_shard=5,
        split={"by": "class", "train": 0.6, "validation": 0.2, "test": 0.2},
    )  # fmt: skip
    assert build(config) == 0
    records = tmp_path / "run" / "records"
    names = sorted(path.name for path in records.glob("*.tfrec"))
    assert all(re.fullmatch(r"birds-(train|validation|test)-\d\d-\d+\.tfrec", name) for name in names)
    assert {path.stem for path in records.glob("*.index")} == {name[:-6] for name in names}
    labels = json.loads((records / "labels.json").read_text())
    assert labels["sources"] == [{"name": "birds", "first": 0, "count": 5}]
    assert [row["class"] for row in labels["classes"]] == ["crow", "gull", "owl", "tit", "wren"]
    found = all_records(records)
    for row in labels["classes"]:
        counts = {split: sum(record.label == row["label"] for record in found[split]) for split in SPLITS}
        assert counts == {split: row[split] for split in SPLITS}
        assert sum(counts.values()) == {"crow": 8, "gull": 7, "owl": 8, "tit": 3, "wren": 8}[row["class"]]
        assert sum(count > 0 for count in counts.values()) == 1, "a class is in one split only"
    out = capsys.readouterr().out
    total = sum(map(len, found.values()))
    assert re.search(
        rf"birds +5 +{len(found['train'])} +{len(found['validation'])} +{len(found['test'])} +{total}\n", out
    )
    assert out.splitlines()[-1].startswith(f"records: {total} images in {len(names)} shards, 5 classes, 0 rejects")
    for record in found["train"]:
        assert record.encoded == (birds / record.key).read_bytes()  # at or under the target: byte for byte
    assert cli.main(["verify", str(records)]) == 0


def test_a_capped_class_keeps_the_images_of_the_lowest_hashes(birds: Path, tmp_path: Path):
    config = write_config(tmp_path, {"birds": birds}, cap_per_class=4)
    assert build(config) == 0
    taken = {record.key for record in all_records(tmp_path / "run" / "records")["train"]}
    for name in ("crow", "owl", "wren"):
        keys = sorted((f"{name}/{path.name}" for path in (birds / name).iterdir()), key=lambda key: digest("cap", key))
        assert {key for key in taken if key.startswith(name)} == set(keys[:4])


def test_the_cap_of_a_source_replaces_the_general_one(birds: Path, tmp_path: Path):
    config = write_config(tmp_path, {"few": birds, "many": birds}, cap_per_class=6)
    value = json.loads(config.read_text())
    value["records"]["sources"][0]["cap_per_class"] = 2
    config.write_text(json.dumps(value))
    assert build(config) == 0
    taken = Counter(
        (record.source, record.key.split("/")[0]) for record in all_records(tmp_path / "run" / "records")["train"]
    )
    assert {taken["few", name] for name in ("crow", "gull", "owl", "tit", "wren")} == {2}
    assert [taken["many", name] for name in ("crow", "gull", "owl", "tit", "wren")] == [6, 6, 6, 3, 6]


def test_the_order_of_images_in_shards_never_changes(birds: Path, tmp_path: Path):
    """A later version continues a build that an earlier one began, so the hashes must stay the same."""
    assert digest("cap", "crow/001.jpg") == 0x446C692B938A61D3
    assert digest("order", "crow/001.jpg") == 0xF350845324A32664
    assert digest("item-split", "ü") == 0xDAA25950051E75EB
    assert digest("class-split", "crow") == 0xF839119ECC65D54E
    config = write_config(tmp_path, {"birds": birds}, images_per_shard=10)
    assert build(config) == 0
    keys = [record.key for record in all_records(tmp_path / "run" / "records")["train"]]
    assert len(keys) == 45 and keys == sorted(keys, key=lambda key: digest("order", key))


def test_a_key_that_a_source_lists_twice_is_bad_input(birds: Path, tmp_path: Path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("path,label\ncrow/000.jpg,a\ncrow/001.jpg,b\ncrow/000.jpg,b\ncrow/002.jpg,a\n")
    config = write_config(tmp_path, {"birds": table})
    value = json.loads(config.read_text())
    value["records"]["sources"][0] |= {"layout": "csv", "options": {"images": str(birds)}}
    config.write_text(json.dumps(value))
    assert build(config) == 2
    assert "source birds lists the key 'crow/000.jpg' twice" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_new_images_change_the_selection_little(tmp_path: Path):
    keys = [f"class/{number}.jpg" for number in range(1000)]

    def taken(some: list[str]) -> set[str]:
        chooser = Lowest(50)
        for key in some:
            chooser.offer((digest("cap", key),), key)
        return {key for _, key in chooser.taken()}

    assert len(taken(keys[:900]) & taken(keys)) >= 40


def test_lowest_equals_sorting_everything_also_after_a_rank():
    rng = np.random.default_rng(0)
    for cap in (1, 2, 7, 50):
        ranks = [(int(value),) for value in rng.permutation(300)]
        chooser, behind = Lowest(cap), Lowest(cap, after=(100,))
        for rank in ranks:
            chooser.offer(rank, rank)
            behind.offer(rank, rank)
            assert max(len(chooser.entries), len(behind.entries)) <= 2 * cap
        assert [rank for rank, _ in chooser.taken()] == sorted(ranks)[:cap]
        assert [rank for rank, _ in behind.taken()] == sorted(ranks)[101 : 101 + cap]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (10, (7, 1, 2)), (96, (64, 8, 24)), (101, (67, 9, 25))],
)
def test_whole_classes_are_split_in_exact_shares_by_largest_remainder(count: int, expected: tuple):
    shares = {"train": 0.667, "validation": 0.083, "test": 0.25}
    splits = Counter(split_classes([f"class {number}" for number in range(count)], shares).values())
    assert tuple(splits[split] for split in SPLITS) == expected


def test_single_images_are_split_by_their_own_key_alone():
    shares = {"train": 0.7, "validation": 0.2, "test": 0.1}
    dealt = Counter(split_item(f"{number}.jpg", shares) for number in range(20_000))
    for split, share in shares.items():
        assert abs(dealt[split] / 20_000 - share) < 0.015
    capped = sorted((f"{number}.jpg" for number in range(20_000)), key=lambda key: digest("cap", key))[:1000]
    dealt = Counter(split_item(key, shares) for key in capped)  # the cap does not favour a split
    assert all(abs(dealt[split] / 1000 - share) < 0.05 for split, share in shares.items())
    only_test = {"train": 0.0, "validation": 0.0, "test": 1.0}
    assert {split_item(str(number), only_test) for number in range(100)} == {"test"}


def test_split_by_item_keeps_classes_in_every_split(birds: Path, tmp_path: Path):
    split = {"by": "item", "train": 0.5, "validation": 0.25, "test": 0.25}
    assert build(write_config(tmp_path, {"birds": birds}, split=split)) == 0
    found = all_records(tmp_path / "run" / "records")
    for split_name, records in found.items():
        assert records and all(split_item(record.key, {**split}) == split_name for record in records)  # type: ignore[arg-type]


def test_the_missions_three_sets_get_the_public_label_ranges():
    def listing(count: int) -> Listing:
        classes = [f"{number:05d}" for number in range(count)]
        return Listing(classes, [Item(f"{name}/{image}", name, bytes) for name in classes for image in (0, 1)])

    listings = {"imagenet1k-mini": listing(1000), "products10k": listing(9691), "glr2021mini": listing(7000)}
    records = Records(sources=[Source("folder", name) for name in listings])
    selected = selection.select(records, listings)
    assert selected.space.ranges() == {
        "imagenet1k-mini": (0, 1000),
        "products10k": (1000, 9691),
        "glr2021mini": (10691, 7000),
    }
    labels = selected.space.labels()
    assert sorted(labels.values()) == list(range(17_691))
    assert labels["products10k", "00000"] == 1000 and labels["products10k", "09690"] == 10690
    assert labels["glr2021mini", "00000"] == 10691 and labels["glr2021mini", "06999"] == 17690
    assert {label for chunk in selected.chunks for _, label in chunk.items()} == set(range(17_691))


def test_merged_classes_share_a_label_a_split_and_a_cap(tmp_path: Path, capsys):
    first = class_folders(tmp_path / "a", {"cat": 6, "dog": 6}, side=16)
    second = class_folders(tmp_path / "b", {"Katze": 6, "pony": 6}, side=16)
    merges = tmp_path / "merges.csv"
    merges.write_text("source,class,into_source,into_class\nb,Katze,a,cat\n")
    config = write_config(
        tmp_path, {"a": first, "b": second}, cap_per_class=8, merge_classes=str(merges),
        split={"by": "class", "train": 0.5, "test": 0.5},
    )  # fmt: skip
    assert build(config) == 0
    records = tmp_path / "run" / "records"
    labels = json.loads((records / "labels.json").read_text())
    assert [(row["source"], row["class"]) for row in labels["classes"]] == [("a", "cat"), ("a", "dog"), ("b", "pony")]
    found = all_records(records)
    cats = [(split, record) for split in SPLITS for record in found[split] if record.label == 0]
    assert (
        len(cats) == 8
        and {record.source for _, record in cats} == {"a", "b"}
        and len({split for split, _ in cats}) == 1
    )
    for text, why in (
        ("b,Katze,a,lion\n", "no class 'lion'"),
        ("b,Katze,a,cat\na,cat,a,dog\n", "merged itself"),
        ("b,Katze,a,cat\nb,Katze,a,dog\n", "merged twice or into itself"),
        ("b,Katze,b,Katze\n", "merged twice or into itself"),
        ("b,Katze,a\n", "line 2 has 3 values"),
    ):
        merges.write_text("source,class,into_source,into_class\n" + text)
        capsys.readouterr()
        assert build(config, f"run_dir={tmp_path / 'other'}") == 2
        assert why in capsys.readouterr().err


def splits_of(records: Path) -> dict[tuple[str, str], str]:
    """(source, class) → the splits that hold images of the source of that class."""
    found: dict[tuple[str, str], set[str]] = {}
    for split, rows in all_records(records).items():
        for record in rows:
            found.setdefault((record.source, record.key.split("/")[0]), set()).add(split)
    return {class_id: "+".join(sorted(splits)) for class_id, splits in found.items()}


@pytest.mark.parametrize("by", ["class", "item"])
def test_a_source_left_out_is_test_data_whole_and_the_others_split_as_before(birds: Path, tmp_path: Path, by: str):
    cars = class_folders(tmp_path / "cars", {f"car{number}": 6 for number in range(6)}, side=16)
    config = write_config(
        tmp_path, {"birds": birds, "cars": cars}, split={"by": by, "train": 0.5, "validation": 0.2, "test": 0.3}
    )
    assert build(config) == 0
    assert build(config, f"run_dir={tmp_path / 'left'}", "records.split.left_out=[cars]") == 0
    before, after = (all_records(tmp_path / run / "records") for run in ("run", "left"))
    for split in SPLITS:
        kept = [[record.key for record in found[split] if record.source == "birds"] for found in (before, after)]
        assert kept[0] == kept[1] and kept[0]
    assert sum(record.source == "cars" for record in before["train"]) > 0
    assert sum(record.source == "cars" for record in after["test"]) == 36
    assert {record.source for split in ("train", "validation") for record in after[split]} == {"birds"}


def test_a_class_that_a_source_left_out_shares_is_test_data_in_both(tmp_path: Path):
    first = class_folders(tmp_path / "a", {"cat": 4, "dog": 4, "emu": 4}, side=16)
    second = class_folders(tmp_path / "b", {"Katze": 4, "pony": 4}, side=16)
    merges = tmp_path / "merges.csv"
    merges.write_text("source,class,into_source,into_class\nb,Katze,a,cat\n")
    config = write_config(tmp_path, {"a": first, "b": second}, merge_classes=str(merges))
    assert build(config, "records.split.left_out=[b]") == 0
    expected = {("a", "cat"): "test", ("b", "Katze"): "test", ("b", "pony"): "test"}
    assert splits_of(tmp_path / "run" / "records") == expected | {("a", "dog"): "train", ("a", "emu"): "train"}


def test_records_are_those_of_before_the_key_where_no_source_is_left_out(birds: Path, tmp_path: Path, capsys):
    config = write_config(tmp_path, {"birds": birds, "again": birds})
    value = json.loads(config.read_text())
    assert build(config) == 0
    identity = json.loads((tmp_path / "run/records/.build/identity.json").read_text())
    run = load(Run, config)
    fields = dataclasses.asdict(run.records)
    del fields["split"]["left_out"]
    for key in ("workers", "max_reject_share", "near_duplicates", "runner", "beam_options"):
        del fields[key]
    assert identity["config"] == fingerprint(fields)
    assert build(config, "records.split.left_out=[birds]") == 2
    assert "of another config: remove it" in capsys.readouterr().err
    value["run_dir"] = str(tmp_path / "other")
    config.write_text(json.dumps(value))
    assert build(config, "records.split.left_out=[birds,again]") == 0
    assert build(config, "records.split.left_out=[again,birds,again]") == 0, "their order is no matter"


def test_a_rejected_image_is_replaced_by_the_next_of_its_class(tmp_path: Path):
    root = class_folders(tmp_path / "set", {"crow": 12, "owl": 6, "wren": 12})
    for name in ("crow", "owl"):
        keys = sorted((f"{name}/{number:03d}.jpg" for number in range(12)), key=lambda key: digest("cap", key))
        spoilt = [key for key in keys if (root / key).exists()][:3]
        for key in spoilt:
            (root / key).write_bytes(b"no image")
        if name == "crow":  # the first of the replacements is spoilt too
            (root / keys[6]).write_bytes(b"")
    config = write_config(tmp_path, {"birds": root}, cap_per_class=6, images_per_shard=8, max_reject_share=0.5)
    assert build(config) == 0
    records = tmp_path / "run" / "records"
    counts = Counter(record.key.split("/")[0] for record in all_records(records)["train"])
    assert counts == {"crow": 6, "owl": 3, "wren": 6}
    listed = rejects(records)
    assert len(listed) == 7 == len({row["key"] for row in listed})
    assert sorted({row["reason"].split(" (")[0] for row in listed}) == ["empty file", "not an image"]
    assert cli.main(["verify", str(records)]) == 0


@pytest.mark.faults("damaged image")
def test_every_kind_of_bad_image_gets_a_row_and_the_rest_is_built(tmp_path: Path, capsys):
    root = class_folders(tmp_path / "set", {"crow": 8, "owl": 8, "lonely": 1})
    whole = (root / "crow" / "000.jpg").read_bytes()
    (root / "crow" / "cut.jpg").write_bytes(whole[:-20])
    (root / "crow" / "bomb.png").write_bytes(png_bomb())
    (root / "crow" / "notes.txt").write_text("not an image, but in its folder")
    (root / "owl" / "png.jpg").write_bytes(encoded(photograph(77, 30, 30), "PNG"))
    (root / "owl" / "broken.jpg").symlink_to("nowhere.jpg")
    (root / "owl" / "folder.jpg").mkdir()
    config = write_config(tmp_path, {"birds": root}, max_reject_share=0.5)
    assert build(config) == 0
    records = tmp_path / "run" / "records"
    reasons = {row["key"]: row["reason"] for row in rejects(records)}
    assert set(reasons) == {"crow/cut.jpg", "crow/bomb.png", "crow/notes.txt", "owl/broken.jpg", "lonely/000.jpg"}
    for key, word in (("crow/cut.jpg", "damaged JPEG"), ("crow/bomb.png", "bomb"), ("crow/notes.txt", "not an image"),
                      ("owl/broken.jpg", "No such file"), ("lonely/000.jpg", "class of 1")):  # fmt: skip
        assert word in reasons[key]
    stored = {record.key: record.encoded for record in all_records(records)["train"]}
    assert len(stored) == 17 and stored["owl/png.jpg"][:2] == b"\xff\xd8"
    labels = json.loads((records / "labels.json").read_text())
    assert [row["class"] for row in labels["classes"]] == ["crow", "owl"], "a class left out has no label"
    assert capsys.readouterr().out.splitlines()[-1].startswith("records: 17 images in 1 shards, 2 classes, 5 rejects")


@pytest.mark.faults("hostile name")
def test_file_names_that_are_no_utf8_are_built_and_rejected_as_text(tmp_path: Path):
    root = class_folders(tmp_path / "set", {"n00000001": 3, "n00000002": 3})
    folder = os.fsencode(root / "n00000001")
    os.rename(folder + b"/000.jpg", folder + b"/caf\xe9.jpg")
    os.mkfifo(folder + b"/\xff.jpg")  # the reason names its path
    config = write_config(tmp_path, {"birds": root}, max_reject_share=0.5)
    config.write_text(config.read_text().replace('"folder"', '"imagenet"'))
    assert build(config) == 0
    records = tmp_path / "run" / "records"
    assert "n00000001/caf\\xe9.jpg" in {record.key for record in all_records(records)["train"]}
    (row,) = rejects(records)
    assert row["key"] == "n00000001/\\xff.jpg" and row["reason"].endswith("\\xff.jpg is not a regular file")


@pytest.mark.faults("damaged image")
def test_too_many_rejects_fail_the_build_and_keep_the_list(tmp_path: Path, capsys):
    root = class_folders(tmp_path / "set", {"crow": 8, "owl": 8})
    for number in range(4):
        (root / "owl" / f"{number:03d}.jpg").write_bytes(bytes(100))
    config = write_config(tmp_path, {"birds": root})
    assert build(config) == 2
    said = capsys.readouterr().err
    assert "4 of 16 images were rejected" in said and "rejects.csv" in said and said.count("\n") == 1
    records = tmp_path / "run" / "records"
    assert len(rejects(records)) == 4 and not (records / "manifest.json").exists()
    assert cli.main(["verify", str(records)]) == 2, "a failed build is no set to train on"
    assert build(config, "records.max_reject_share=0.5") == 0
    assert cli.main(["verify", str(records)]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"root": "MISSING"}, "does not exist"),
        ({"root": "EMPTY"}, "found no folder|hold no images"),
        ({"layout": "foldr"}, "nearest known: folder"),
        ({"name": "a/b"}, "source name"),
        ({"name": "cifar10-train"}, "read as train.*cifar10_train"),
        ({"cap_per_class": 0}, "records.sources.0.cap_per_class: expected 1 or more, got 0"),
        ({"cap_per_class": -1}, "expected 1 or more, got -1"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(birds: Path, tmp_path: Path, capsys, change: dict, said: str):
    (tmp_path / "EMPTY").mkdir()
    config = write_config(tmp_path, {"birds": birds})
    value = json.loads(config.read_text())
    if "root" in change:
        change = {"root": str(tmp_path / change["root"])}
    value["records"]["sources"][0] |= change
    config.write_text(json.dumps(value))
    assert build(config) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("records.split.train=0.5", "sum to 1"),
        ("records.split.by=family", "class or item"),
        ("records.split.left_out=[bird]", "left_out: no source 'bird'; records.sources has birds"),
        ("records.cap_per_class=0", "expected 1 or more"),
        ("records.jpeg_quality=101", "1 … 100"),
        ("records.min_per_class=100", "no class has"),
        ("records.runner=spark", "processes or beam"),
        ("records.merge_classes=nowhere.csv", "nowhere.csv"),
        ("records.sources=[]", "at least one source"),
    ],
)
def test_a_bad_setting_is_one_line(birds: Path, tmp_path: Path, capsys, override: str, said: str):
    assert build(write_config(tmp_path, {"birds": birds}), override) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.faults("stale results")
def test_records_of_another_config_or_listing_are_refused(tmp_path: Path, capsys):
    root = class_folders(tmp_path / "set", {"crow": 4, "owl": 4}, side=16)
    config = write_config(tmp_path, {"birds": root})
    assert build(config) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "records").glob("*.tfrec")}
    assert build(config) == 0, "the same again is no fault"
    assert build(config, "records.jpeg_quality=90") == 2
    assert "another config" in capsys.readouterr().err
    (root / "crow" / "new.jpg").write_bytes(encoded(photograph(5, 16, 16)))
    assert build(config) == 2
    assert "other images" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "records").glob("*.tfrec")}


@pytest.mark.faults("damaged shard")
def test_verify_names_shard_and_offset_of_every_kind_of_damage(birds: Path, tmp_path: Path, capsys):
    assert build(write_config(tmp_path, {"birds": birds}, images_per_shard=20)) == 0
    records = tmp_path / "run" / "records"
    shard = next(records.glob("birds-train-00-*.tfrec"))
    whole, index = shard.read_bytes(), shard.with_suffix(".index")
    offset, length = map(int, index.read_text().split("\n")[3].split())

    def said() -> str:
        assert cli.main(["verify", str(records)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        return captured.out + captured.err

    shard.write_bytes(whole[: offset + 100])
    assert re.search(rf"{shard}: record at offset {offset} is cut off.*half-written", said())
    shard.write_bytes(whole[: offset + 200] + b"?" + whole[offset + 201 :])
    assert re.search(rf"{shard}: record at offset {offset} has a wrong CRC", said())
    shard.write_bytes(whole[:offset] + whole[offset + length :])
    assert "bytes, the manifest says" in said()
    shard.unlink()
    assert f"{shard}: missing" in said()
    shard.write_bytes(whole)
    (records / "birds-train-99-1.tfrec").write_bytes(whole[: int(index.read_text().split()[1])])
    assert "not in the manifest" in said()
    (records / "birds-train-99-1.tfrec").unlink()
    text = index.read_text()
    index.write_text(text.replace(str(length), str(length + 1), 1))
    assert str(index.stem) in said()
    index.write_text(text)
    assert cli.main(["verify", str(records)]) == 0


@pytest.mark.faults("damaged shard")
def test_verify_finds_shards_that_contradict_the_manifest_the_labels_or_lack_an_index(
    birds: Path, tmp_path: Path, capsys
):
    assert build(write_config(tmp_path, {"birds": birds}, images_per_shard=50)) == 0
    records = tmp_path / "run" / "records"
    (shard,) = records.glob("*.tfrec")
    manifest = json.loads((records / "manifest.json").read_text())
    assert manifest["shards"][0]["count"] == 45

    def said(**changed: object) -> str:
        shards = [manifest["shards"][0] | changed]
        (records / "manifest.json").write_text(json.dumps({**manifest, "shards": shards}))
        assert cli.main(["verify", str(records)]) == 2
        return capsys.readouterr().out

    assert f"{shard}: its SHA-256 is not the manifest's" in said(sha256="0" * 64)
    assert f"{shard}: 45 records, expected 46" in said(count=46)
    assert "record at offset 0: source 'birds', expected 'other'" in said(source="other")
    labels = (records / "labels.json").read_text()
    fewer = json.loads(labels)
    fewer["classes"].pop()
    (records / "labels.json").write_text(json.dumps(fewer))
    assert said().count("label 4, labels.json has 0 to 3") == 12  # wrens
    (records / "labels.json").write_text(labels)
    index_path(shard).unlink()
    assert f"{index_path(shard)}: missing" in said()


@pytest.mark.faults("stale results")
def test_a_mark_counts_only_with_its_own_chunk_and_its_whole_shard(tmp_path: Path):
    def chunk(keys: list[str]) -> Chunk:
        items = [(Item(key, "a", partial(read_file, str(tmp_path / key))), 3) for key in keys]
        return Chunk("birds-train-00", "birds", "train", len(items), pickle.dumps(items))

    for number, key in enumerate(("1.jpg", "2.jpg")):
        (tmp_path / key).write_bytes(encoded(photograph(number, 40, 40)))
    first = chunk(["1.jpg", "2.jpg", "gone.jpg"])
    mark = make_shard(tmp_path, JpegSettings(24, 95), first)
    shard = tmp_path / "birds-train-00-2.tfrec"
    assert mark["file"] == shard.name and mark["labels"] == {"3": 2}
    assert mark["rejects"] == [("gone.jpg", "a", "cannot be read: No such file or directory")]
    as_found = [hashlib.blake2b((tmp_path / key).read_bytes(), digest_size=8) for key in ("1.jpg", "2.jpg")]
    assert mark["hashes"] == [each.hexdigest() for each in as_found]
    assert read_mark(tmp_path, first) == json.loads(json.dumps(mark))
    assert read_mark(tmp_path, chunk(["2.jpg", "1.jpg", "gone.jpg"])) is None
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert read_mark(tmp_path, first) is None
    shard.write_bytes(whole)
    index_path(shard).rename(tmp_path / "elsewhere")
    assert read_mark(tmp_path, first) is None
    (tmp_path / "elsewhere").rename(index_path(shard))
    shard.unlink()
    assert read_mark(tmp_path, first) is None


@pytest.mark.faults("damaged shard")
def test_verify_finds_an_image_that_does_not_decode_in_a_set_without_manifest(tmp_path: Path, capsys):
    from tfrecords.schema import Record, serialize
    from tfrecords.shards import frame

    good = frame(serialize(Record(encoded(photograph(1, 20, 20)), 0)))
    bad = frame(serialize(Record(encoded(photograph(2, 20, 20))[:-9], 1)))
    (tmp_path / "set-train-00-2.tfrec").write_bytes(good + bad)
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert f"set-train-00-2.tfrec: record at offset {len(good)}: image '': damaged JPEG" in capsys.readouterr().out
    (tmp_path / "set-train-00-2.tfrec").write_bytes(good + good)
    assert cli.main(["verify", str(tmp_path)]) == 0


def test_the_table_adds_up():
    from tfrecords.labels import build as build_labels

    marks = [{"source": s, "split": p, "count": c} for s, p, c in
             (("a", "train", 1200), ("a", "test", 5), ("b", "validation", 30), ("b", "train", 7))]  # fmt: skip
    rows = table(build_labels({"a": ["x", "y"], "b": ["z"]}), marks).splitlines()
    assert [row.split() for row in rows[1:]] == [
        ["a", "2", "1,200", "0", "5", "1,205"],
        ["b", "1", "7", "30", "0", "37"],
        ["all", "3", "1,207", "30", "5", "1,242"],
    ]


def test_one_worker_and_three_write_the_same_bytes(birds: Path, tmp_path: Path):
    config = write_config(tmp_path, {"birds": birds}, images_per_shard=6, image_size_px=16)
    seen = []
    for workers in (1, 3):
        assert build(config, f"records.workers={workers}", f"run_dir={tmp_path / str(workers)}") == 0
        folder = tmp_path / str(workers) / "records"
        seen.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert seen[0] == seen[1] and len(seen[0]) > 8


def test_all_five_public_layouts_build_in_one_config_with_one_label_space(shared: Path, tmp_path: Path):
    data, cap = shared / "data", 3
    layouts = {"imagenet": "imagenet", "products10k": "products10k", "landmarks": "landmarks",
               "cub200": "CUB_200_2011", "folder": "cifar10/train"}  # fmt: skip
    sources = [{"layout": layout, "name": layout, "root": str(data / root)} for layout, root in layouts.items()]
    config = tmp_path / "config.yaml"
    records = {"sources": sources, "cap_per_class": cap, "workers": 2, "image_size_px": 128}
    config.write_text(json.dumps({"run_dir": str(tmp_path), "encoder": {"name": "none"}, "records": records}))
    assert build(config) == 0
    # The second implementation: counts from the sets' tables.
    listed = {"imagenet": Counter(path.parent.name for path in data.glob("imagenet/ILSVRC/Data/CLS-LOC/train/*/*"))}
    for layout, column in (("products10k", "class"), ("landmarks", "landmark_id")):
        with (data / layout / "train.csv").open() as file:
            listed[layout] = Counter(row[column] for row in csv.DictReader(file))
    rows = (data / "CUB_200_2011" / "image_class_labels.txt").read_text().splitlines()
    listed["cub200"] = Counter(row.split()[1] for row in rows)
    listed["folder"] = Counter(path.parent.name for path in data.glob("cifar10/train/*/*"))
    expected = {name: sum(min(cap, count) for count in found.values() if count >= 2) for name, found in listed.items()}
    stored = Counter(record.source for record in all_records(tmp_path / "records")["train"])
    assert stored == expected
    labels = json.loads((tmp_path / "records" / "labels.json").read_text())
    first = 0
    for row in labels["sources"]:
        assert row["first"] == first and row["count"] == sum(count >= 2 for count in listed[row["name"]].values())
        first += row["count"]
    assert [row["label"] for row in labels["classes"]] == list(range(first))
    assert cli.main(["verify", str(tmp_path / "records")]) == 0
