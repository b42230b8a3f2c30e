"""The same picture in two splits is found; Apache Beam makes the same shards."""

import csv
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.tfrecords.damage import encoded, photograph
from tests.tfrecords.test_records_build import build, class_folders, write_config
from tfrecords import perceptual
from tfrecords.duplicates import Image as Where
from tfrecords.duplicates import exact, near, perceptual_hash
from tfrecords.splits import split_item


def test_near_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    hashes = np.repeat(rng.integers(0, 256, (40, perceptual.BYTES), np.uint8), 10, axis=0)
    for at in range(len(hashes)):
        for bit in rng.choice(8 * perceptual.BYTES, rng.choice([0, 3, 12, 16, 40]), replace=False):
            hashes[at, bit // 8] ^= 1 << bit % 8
    hashes[::37] = 0
    hashes = hashes[rng.permutation(len(hashes))]
    images = [Where("set", ("train", "validation", "test")[at % 3], str(at)) for at in range(len(hashes))]
    obvious = {}
    for at in range(len(hashes)):
        best = None
        for before in range(at):
            if hashes[at].any() and hashes[before].any() and images[at].split != images[before].split:
                distance = sum(
                    int(one ^ other).bit_count() for one, other in zip(hashes[at], hashes[before], strict=True)
                )
                if distance <= perceptual.MAX_DISTANCE and (best is None or distance < best[0]):
                    best = (distance, str(before))
        if best is not None:
            obvious[str(at)] = best
    assert len(obvious) > 100 and max(distance for distance, _ in obvious.values()) > 20
    assert {pair.other.key: (pair.distance, pair.image.key) for pair in near(images, hashes)} == obvious


def test_a_perceptual_hash_survives_recoding_resizing_and_light_and_differs_between_pictures():
    hashes = []
    for seed in range(20):
        image = photograph(seed, 200, 160)
        original = perceptual_hash(encoded(image, quality=95))
        hashes.append(original)
        brighter = ImageEnhance.Brightness(image).enhance(1.05)
        for other in (encoded(image, quality=60), encoded(image.resize((120, 96)), quality=90), encoded(brighter)):
            assert bits(original, perceptual_hash(other)) <= perceptual.MAX_DISTANCE
    distances = [bits(one, other) for at, one in enumerate(hashes) for other in hashes[:at]]
    assert min(distances) > perceptual.MAX_DISTANCE


def test_the_hash_is_the_signs_of_the_low_frequencies_about_their_median():
    """The cosine transform as a double sum, from its definition."""
    side, low = perceptual.SIDE_PX, perceptual.FREQUENCIES
    grey = perceptual.thumbnail(np.asarray(photograph(3, 200, 160)))
    waves = [[math.cos(math.pi * (2 * at + 1) * wave / (2 * side)) for at in range(side)] for wave in range(low)]
    scale = [math.sqrt((1 if wave == 0 else 2) / side) for wave in range(low)]
    values = [
        scale[down] * scale[right] * float(np.outer(waves[down], waves[right]).ravel() @ grey.ravel().astype(float))
        for down in range(low)
        for right in range(low)
    ]
    middle = statistics.median(values)
    signs = "".join("1" if value > middle else "0" for value in values)
    found = "".join(f"{byte:08b}" for byte in perceptual.perceptual_hash(grey))
    assert sum(one != other for one, other in zip(signs, found, strict=True)) <= 2  # the two about the median


def test_flat_pictures_have_no_hash():
    assert not perceptual_hash(encoded(Image.new("RGB", (64, 64), "gray"))).any()
    assert perceptual_hash(encoded(photograph(1, 64, 64))).any()


def bits(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ other).sum())


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
