"""`guie leaks` by its command: what is found of each kind, hostile files, reruns, and records without what it names."""

import csv
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageEnhance

from pipeline import cli
from pipeline.leaks import hashing
from tests.drawn_benchmarks import draw_uned
from tests.tfrecords.damage import encoded, png_bomb
from tfrecords import pixels

FOUND = 3  # the exit code


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Colours in patches of their own: two of them have nothing in common."""
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 18, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def leaks(capsys, *words) -> tuple[int, str, str]:
    code = cli.main(["leaks", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def table(out: Path) -> list[dict[str, str]]:
    with (out / "leaks.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def sides(tmp_path) -> tuple[Path, Path]:
    """Training images 0 … 11 of two classes, and a benchmark with a copy of some in each way."""
    train, bench = tmp_path / "mine" / "train", tmp_path / "theirs" / "test"
    pictures = [photograph(seed, 200, 150) for seed in range(12)]
    for seed, picture in enumerate(pictures):
        write(train / ("cup" if seed < 6 else "pot") / f"{seed}.jpg", encoded(picture, quality=92))
    first = (train / "cup" / "0.jpg").read_bytes()
    write(bench / "mug" / "bytes.jpg", first)
    lossless = Image.fromarray(pixels.read((train / "cup/1.jpg").read_bytes()))
    write(bench / "mug" / "pixels.png", encoded(lossless, "PNG"))
    write(bench / "mug" / "recoded.jpg", encoded(pictures[2], quality=40))
    write(bench / "mug" / "resized.webp", encoded(pictures[3].resize((120, 90)), "WEBP", quality=80))
    write(bench / "jug" / "mirrored.jpg", encoded(pictures[6].transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    write(bench / "jug" / "brighter.jpg", encoded(ImageEnhance.Brightness(pictures[7]).enhance(1.2), quality=85))
    for seed in range(100, 106):
        write(bench / "jug" / f"{seed}.jpg", encoded(photograph(seed, 180, 140)))
    return train, bench


def test_each_kind_of_copy_is_found_and_unrelated_pictures_are_not(sides, tmp_path, capsys):
    train, bench = sides
    out = tmp_path / "leaks"
    code, said, _ = leaks(capsys, train, "--against", bench, "--out", out)
    assert code == FOUND
    rows = table(out)
    assert [(row["kind"], row["key"], row["bench_key"]) for row in rows] == sorted(
        [
            ("bytes", "cup/0.jpg", "mug/bytes.jpg"),
            ("pixels", "cup/1.jpg", "mug/pixels.png"),
            *(("hash", key, copy) for key, copy in (
                ("cup/2.jpg", "mug/recoded.jpg"), ("cup/3.jpg", "mug/resized.webp"), ("pot/7.jpg", "jug/brighter.jpg"),
            )),
            ("mirrored", "pot/6.jpg", "jug/mirrored.jpg"),
        ],
        key=lambda row: (("bytes", "pixels", "hash", "mirrored").index(row[0]), [r["key"] for r in rows].index(row[1])),
    )  # fmt: skip
    distances = [int(row["distance"]) for row in rows if row["kind"] == "hash"]
    assert distances == sorted(distances) and distances[-1] <= 40
    assert {(row["source"], row["split"], row["bench_source"], row["bench_split"]) for row in rows} == {
        ("mine", "train", "theirs", "test")
    }
    assert rows[0]["class"] == "cup" and rows[0]["bench_class"] == "mug"
    last = said.strip().splitlines()[-1]
    assert last == f"leaks: 6 of 12 benchmark images are in the training data, as 6 of its 12 → {out}/leaks.html"
    page = (out / "leaks.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 12 and "mug/bytes.jpg" in page and "of 256 bits" in page


def test_without_a_copy_the_exit_code_is_0(sides, tmp_path, capsys):
    train, bench = sides
    shutil.rmtree(bench / "mug")
    (bench / "jug" / "mirrored.jpg").unlink()
    (bench / "jug" / "brighter.jpg").unlink()
    code, said, _ = leaks(capsys, train, "--against", bench, "--out", tmp_path / "leaks")
    assert code == 0 and "leaks: 0 of 6 benchmark images" in said and not table(tmp_path / "leaks")
    assert "No image of the training data is in a benchmark" in (tmp_path / "leaks/leaks.html").read_text()


def test_what_cannot_be_read_is_listed_and_names_are_data(sides, tmp_path, capsys):
    train, bench = sides
    whole = (train / "cup/4.jpg").read_bytes()
    hostile = {"cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "bomb.png": png_bomb(), "text.jpg": b"no image"}
    for name, data in hostile.items():
        write(train / "pot" / name, data)
        write(bench / "mug" / name, data)  # the same bytes on both sides: not a picture, not a leak
    os.mkfifo(bench / "mug" / "pipe.jpg")
    (bench / "mug" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    write(bench / "mug" / "<b>=cmd(),\n.jpg", whole)
    write(bench / "mug" / "flat.png", encoded(Image.new("RGB", (64, 64), "white"), "PNG"))
    write(train / "pot" / "flat.png", encoded(Image.new("RGB", (80, 80), "gray"), "PNG"))
    out = tmp_path / "leaks"
    code, *_ = leaks(capsys, train, "--against", bench, "--out", out)
    assert code == FOUND
    with (out / "rejects.csv").open(newline="") as file:
        rejects = list(csv.DictReader(file))
    assert sorted(row["key"] for row in rejects if row["source"] == "mine") == sorted(f"pot/{name}" for name in hostile)
    theirs = {row["key"]: row["reason"] for row in rejects if row["source"] == "theirs"}
    assert set(theirs) == {f"mug/{name}" for name in (*hostile, "pipe.jpg", "gone.jpg")} and all(theirs.values())
    rows = table(out)
    assert len(rows) == 7 and ("cup/4.jpg", "mug/<b>=cmd(),\n.jpg") in {(row["key"], row["bench_key"]) for row in rows}
    page = (out / "leaks.html").read_text()
    assert "<b>=cmd" not in page and "&lt;b&gt;=cmd" in page and "10 images cannot be read" in page


def test_a_rerun_hashes_only_what_is_new_or_changed(sides, tmp_path, capsys, monkeypatch):
    train, bench = sides
    out = tmp_path / "leaks"
    monkeypatch.setattr(hashing, "CHUNK", 5)  # 12 training images: three chunks
    leaks(capsys, train, "--against", bench, "--out", out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert len(before) == 6
    kept = (out / "leaks.csv").read_bytes()
    (first,) = [path for path in before if path.name == "00001.npz"][:1]
    first.write_bytes(first.read_bytes()[:100])  # damaged
    code, said, _ = leaks(capsys, train, "--against", bench, "--out", out)
    assert code == FOUND and (out / "leaks.csv").read_bytes() == kept
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert again == {first} and "images are hashed" in said
    write(train / "cup" / "0.jpg", encoded(photograph(500, 200, 150)))  # another picture under the name
    shutil.rmtree(bench / "jug")
    leaks(capsys, train, "--against", bench, "--out", out)
    assert "mug/bytes.jpg" not in {row["bench_key"] for row in table(out)}
    assert len(list(out.rglob("*.npz"))) == 3 + 1


def test_what_the_command_refuses_is_one_line(sides, tmp_path, capsys):
    train, bench = sides
    (tmp_path / "file").write_text("")
    for words, expected in (
        ([train, "--against", tmp_path / "nowhere"], "does not exist"),
        ([train, "--against", bench, "--out", tmp_path / "file"], "expected a folder, it is a file"),
        ([train, "--against", bench, "--bits", "200"], "--bits: expected 0 … 127"),
        ([train], "Missing option '--against'"),
    ):
        code, _, error = leaks(capsys, *words)
        assert code == 2 and expected in error and len(error.strip().splitlines()) == 1, error


def build(config: Path, *words) -> int:
    return cli.main(["tfrecords", str(config), *map(str, words)])


def test_records_without_the_leaks_have_none(sides, tmp_path, capsys):
    """records → leaks → records.leave_out → no leak, and each class takes its next images."""
    train, bench = sides
    run_dir, out = tmp_path / "run", tmp_path / "leaks"
    source = {"layout": "folder", "name": "mine", "root": str(train)}
    records = {"sources": [source], "cap_per_class": 4, "image_size_px": 120}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(run_dir), "records": records}))
    assert build(config) == 0
    shards = f"{run_dir}/records/*-train-*.tfrec"
    code, *_ = leaks(capsys, shards, "--against", bench, "--out", out)
    rows = table(out)
    assert code == FOUND and {row["kind"] for row in rows} <= {"hash", "mirrored"}  # recoded when they were shrunk
    assert {row["source"] for row in rows} == {"mine"} and {row["split"] for row in rows} == {"train"}
    assert {row["class"] for row in rows} <= {"cup", "pot"}
    code, *_ = leaks(capsys, f"mine={train}", "--against", bench, "--out", out)  # of all images, not of the capped ones
    assert code == FOUND
    assert build(config, f"records.leave_out={out}/leaks.csv") == 2  # as after any change of the config
    assert "--redo" in capsys.readouterr().err
    shutil.rmtree(run_dir)
    assert build(config, f"records.leave_out={out}/leaks.csv") == 0
    said = capsys.readouterr().out
    assert "left out: 6 images that" in said
    with (run_dir / "records" / "rejects.csv").open(newline="") as file:
        reasons = {row["key"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {row["key"] for row in table(out)} and "records.leave_out" in reasons["cup/0.jpg"]
    code, *_ = leaks(capsys, shards, "--against", bench, "--out", out)
    assert code == 0 and not table(out)
    assert "2 classes" in said and "6 images in" in said  # 6 + 6 less 4 + 2: both classes below their cap of 4
    stale = cli.main(["status", str(config)])
    assert stale == 0


def test_a_table_that_leaves_nothing_out_is_refused(sides, tmp_path, capsys):
    train, _ = sides
    source = {"layout": "folder", "name": "mine", "root": str(train)}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "records": {"sources": [source]}}))
    for text, expected in (
        ("source,key\nothers,cup/0.jpg\n", "no source 'others', records.sources has mine"),
        ("source,key\nmine,cup/77.jpg\n", "no image of the sources has its keys, such as cup/77.jpg of mine"),
        ("source,path\n", "expected the column 'key'"),
    ):
        (tmp_path / "out.csv").write_text(text)
        assert build(config, f"records.leave_out={tmp_path}/out.csv") == 2
        assert expected in capsys.readouterr().err
    assert build(config, f"records.leave_out={tmp_path}/nowhere.csv") == 2
    assert "expected a CSV file" in capsys.readouterr().err
    (tmp_path / "out.csv").write_text("source,key\n")  # nothing leaked
    assert build(config, f"records.leave_out={tmp_path}/out.csv") == 0


def test_a_benchmark_in_its_own_layout(tmp_path, capsys):
    """UnED's index of the Met is its training list."""
    root = draw_uned(tmp_path / "uned", domains=("met",))
    train, index = (f"uned,domain=met,split={split}:{root}" for split in ("train", "index"))
    code, *_ = leaks(capsys, f"met_train={train}", "--against", index, "--out", tmp_path / "out")
    rows = table(tmp_path / "out")
    assert code == FOUND and len(rows) == 20 and {row["kind"] for row in rows} == {"bytes"}
    assert all(row["key"] == row["bench_key"] and row["class"] == row["bench_class"] for row in rows)
    sources = {(row["source"], row["split"], row["bench_source"], row["bench_split"]) for row in rows}
    assert sources == {("met_train", "train", "met", "index")}


def test_a_story_on_real_images(shared, tmp_path, capsys):
    """Birds of CUB in a training folder; some of them, altered, in a benchmark of other birds."""
    birds = sorted((shared / "data/CUB_200_2011/images").iterdir())
    rng, copies = np.random.default_rng(0), 0
    for number, folder in enumerate(birds[:10]):
        for place, path in enumerate(sorted(folder.iterdir())[:6]):
            side = "train" if place < 4 else "test"
            write(tmp_path / side / f"{number}" / path.name, path.read_bytes())
        image = Image.open(io.BytesIO(path_of(tmp_path / "train" / f"{number}").read_bytes())).convert("RGB")
        if number % 2:
            altered = image.resize((image.width * 2 // 3, image.height * 2 // 3))
            write(tmp_path / "test" / f"{number}" / "copy.jpg", encoded(altered, quality=int(rng.integers(50, 90))))
            copies += 1
    code, said, _ = leaks(
        capsys, f"birds={tmp_path}/train", "--against", f"cub={tmp_path}/test", "--out", tmp_path / "out"
    )
    rows = table(tmp_path / "out")
    assert code == FOUND and {row["bench_key"] for row in rows} == {f"{number}/copy.jpg" for number in range(1, 10, 2)}
    assert all(row["key"].split("/")[0] == row["bench_key"].split("/")[0] for row in rows) and len(rows) == copies
    assert f"leaks: {copies} of {20 + copies} benchmark images" in said


def path_of(folder: Path) -> Path:
    return min(folder.iterdir())
