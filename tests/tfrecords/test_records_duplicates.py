"""The same picture in two splits is found; Apache Beam makes the same shards."""

import csv
import io
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.tfrecords.damage import encoded, photograph
from tests.tfrecords.test_records_build import build, class_folders, write_config
from tfrecords.duplicates import FLAT_SIGNS, MAX_DISTANCE, exact, near, perceptual_hash
from tfrecords.duplicates import Image as Where
from tfrecords.splits import split_item


def test_near_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    centres = rng.integers(1, 2**63, 40, dtype=np.uint64)
    hashes = np.repeat(centres, 10)
    for at in range(len(hashes)):
        for bit in rng.choice(64, rng.integers(0, 5), replace=False):
            hashes[at] ^= np.uint64(1) << np.uint64(bit)
    hashes[::37] = 0
    order = rng.permutation(len(hashes))
    hashes = hashes[order]
    images = [Where("set", ("train", "validation", "test")[at % 3], str(at)) for at in range(len(hashes))]
    obvious = {}
    for at in range(len(hashes)):
        best = None
        for before in range(at):
            if hashes[at] and hashes[before] and images[at].split != images[before].split:
                distance = bin(int(hashes[at]) ^ int(hashes[before])).count("1")
                if distance <= MAX_DISTANCE and (best is None or distance < best[0]):
                    best = (distance, str(before))
        if best is not None:
            obvious[str(at)] = best
    assert len(obvious) > 100
    assert {pair.other.key: (pair.distance, pair.image.key) for pair in near(images, hashes)} == obvious


def test_a_perceptual_hash_survives_recoding_resizing_and_light_and_differs_between_pictures():
    hashes = []
    for seed in range(20):
        image = photograph(seed, 200, 160)
        original = perceptual_hash(encoded(image, quality=95))
        hashes.append(original)
        brighter = ImageEnhance.Brightness(image).enhance(1.05)
        for other in (encoded(image, quality=60), encoded(image.resize((120, 96)), quality=90), encoded(brighter)):
            assert (original ^ perceptual_hash(other)).bit_count() <= MAX_DISTANCE
    distances = [(one ^ other).bit_count() for at, one in enumerate(hashes) for other in hashes[:at]]
    assert min(distances) > 2 * MAX_DISTANCE


def test_the_hash_is_of_the_smallest_decode_of_at_least_32_px():
    for seed in range(12):
        data = encoded(photograph(seed, 256, 256), quality=95)
        small = Image.open(io.BytesIO(data))
        small.draft("L", (32, 32))  # an eighth, by Pillow's libjpeg
        assert small.size == (32, 32)
        rows = cv2.resize(np.asarray(small), (9, 8), interpolation=cv2.INTER_AREA).tolist()
        signs = "".join("1" if right > left else "0" for row in rows for left, right in pairwise(row))
        assert perceptual_hash(data) == int(signs, 2)


def test_flat_pictures_have_no_hash():
    assert perceptual_hash(encoded(Image.new("RGB", (64, 64), "gray"))) == 0
    assert FLAT_SIGNS > 0


def test_exact_pairs_each_image_with_the_first_split_that_has_it():
    images = [
        Where("a", split, key) for split, key in (("test", "1"), ("train", "2"), ("train", "3"), ("validation", "4"))
    ]
    pairs = exact(images, ["x", "x", "x", "y"])
    assert [(pair.image.key, pair.other.key) for pair in pairs] == [("2", "1")]


def test_a_build_reports_both_kinds(tmp_path: Path, capsys):
    root = class_folders(tmp_path / "set", {"crow": 4, "owl": 4, "tit": 4}, side=60)
    shares = {"train": 0.4, "validation": 0.3, "test": 0.3}
    picture = photograph(99, 90, 80)
    exact_copy, recoded = encoded(picture, quality=90), encoded(picture.resize((81, 72)), quality=70)

    def put(name: str, split: str, data: bytes) -> str:
        key = next(key for number in range(99) if split_item(key := f"{name}/copy{number}.jpg", shares) == split)
        (root / key).write_bytes(data)
        return key

    train, test, validation = (
        put("crow", "train", exact_copy), put("owl", "test", exact_copy), put("tit", "validation", recoded)
    )  # fmt: skip
    assert (
        build(write_config(tmp_path, {"birds": root}, split={"by": "item", **shares}), "records.near_duplicates=true")
        == 0
    )
    with (tmp_path / "run" / "records" / "duplicates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["kind"], row["key"], row["other_key"]) for row in rows} == {
        ("exact", train, test),
        ("near", train, validation),
    }
    out = capsys.readouterr().out
    assert "1 images are in two splits (exact" in out and "1 images are in two splits (near" in out


def test_beam_makes_the_same_shards(tmp_path: Path):
    pytest.importorskip("apache_beam")
    root = class_folders(tmp_path / "set", {"crow": 9, "owl": 9, "tit": 9}, side=40)
    (root / "owl" / "003.jpg").write_bytes(b"spoilt")
    config = write_config(
        tmp_path, {"birds": root}, cap_per_class=8, images_per_shard=4, image_size_px=30, max_reject_share=0.5
    )
    trees = []
    for runner in ("processes", "beam"):
        run_dir = tmp_path / runner
        assert build(config, f"records.runner={runner}", f"run_dir={run_dir}") == 0
        (run_dir / "stages.jsonl").unlink()  # what it took
        files = [path for path in run_dir.rglob("*") if path.is_file() and path.parent.name != ".build"]
        trees.append({str(path.relative_to(run_dir)): path.read_bytes() for path in files})
    assert trees[0] == trees[1] and len(trees[0]) > 15


def test_a_wrong_beam_option_is_one_line(tmp_path: Path, capsys):
    pytest.importorskip("apache_beam")
    root = class_folders(tmp_path / "set", {"crow": 2}, side=16)
    config = write_config(tmp_path, {"birds": root})
    assert build(config, "records.runner=beam", "records.beam_options=[--runner=NoSuchRunner]") == 2
    assert "NoSuchRunner" in capsys.readouterr().err
