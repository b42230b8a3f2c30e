"""`guie leaks --embedder`: crops are found, within a distance that is measured on copies; vectors are kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from tests.evaluation import tiny
from tests.leaks.test_command import FOUND, leaks, photograph, table, write
from tests.tfrecords.damage import encoded


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save(tiny.MeanColour(), tmp_path_factory.mktemp("model") / "saved")


@pytest.fixture
def sides(tmp_path) -> tuple[Path, Path]:
    """Thirty training pictures of three classes; thirty others in the benchmark, and crops of the first three."""
    train, bench = tmp_path / "mine", tmp_path / "theirs"
    for seed in range(30):
        write(train / str(seed % 3) / f"{seed:02d}.jpg", encoded(photograph(seed, 160, 120)))
        write(bench / str(seed % 3) / f"{seed:02d}.jpg", encoded(photograph(1000 + seed, 160, 120)))
    for seed in range(3):
        picture = photograph(seed, 160, 120)
        write(bench / "crops" / f"{seed}.jpg", encoded(picture.crop((10, 8, 150, 112)), quality=80))
    write(bench / "crops" / "cut.jpg", encoded(photograph(0, 160, 120))[:900])
    return train, bench


def test_crops_are_found_within_the_distance_of_copies(sides, model, tmp_path, capsys):
    train, bench = sides
    out = tmp_path / "leaks"
    _, said, _ = leaks(capsys, train, "--against", bench, "--out", out)
    assert "No --embedder: crops" in said
    by_hash = {row["bench_key"] for row in table(out)}
    code, said, _ = leaks(capsys, train, "--against", bench, "--out", out, "--embedder", model)
    rows = {row["bench_key"]: row for row in table(out)}
    assert code == FOUND and not {f"crops/{seed}.jpg" for seed in range(3)} & by_hash
    for seed in range(3):
        row = rows[f"crops/{seed}.jpg"]
        assert (
            row["kind"] == "embedding" and row["key"] == f"{seed % 3}/{seed:02d}.jpg" and float(row["distance"]) < 0.3
        )
    (note,) = [line for line in said.splitlines() if "embeddings of" in line]
    assert "of copies that are cropped to 0.8 of each side" in note and "another class" in note
    assert "Near each other to the embedder" in (out / "leaks.html").read_text()
    stores = sorted((out / "vectors").glob("*/vectors-*.npy"))
    assert len(stores) == 3 and sorted(len(np.load(path)) for path in stores) == [30, 33, 99]
    times = {path: path.stat().st_mtime_ns for path in stores}
    again, _, _ = leaks(capsys, train, "--against", bench, "--out", out, "--embedder", model, "--distance", 0)
    assert again == (FOUND if by_hash else 0) and {row["bench_key"] for row in table(out)} == by_hash
    assert times == {path: path.stat().st_mtime_ns for path in stores}  # nothing is embedded twice


def test_an_embedder_that_is_none_and_options_without_one_are_refused(sides, tmp_path, capsys):
    train, bench = sides
    for words, expected in (
        (["--embedder", tmp_path / "nowhere.zip"], "nothing is there"),
        (["--distance", "0.4"], "add --embedder"),
        (["--embedder", "x.zip", "--distance", "3"], "--distance: expected a Euclidean distance"),
        (["--embedder", "x.zip", "--distance", "nan"], "--distance: expected a Euclidean distance"),
    ):
        code, _, error = leaks(capsys, train, "--against", bench, "--out", tmp_path / "leaks", *words)
        assert code == 2 and expected in error and len(error.strip().splitlines()) == 1, error


def test_a_side_without_an_image_that_can_be_read_is_one_line(sides, model, tmp_path, capsys):
    train, _ = sides
    write(tmp_path / "broken" / "a" / "1.jpg", b"no image")
    words = [train, "--against", tmp_path / "broken", "--out", tmp_path / "leaks", "--embedder", model]
    assert cli.main(["leaks", *map(str, words)]) == 2
    assert "no image can be read" in capsys.readouterr().err


def test_pictures_of_another_class_that_are_near_lower_the_distance(model, tmp_path, capsys):
    """Two classes of much alike pictures: not every copy can be told from them, and the sentence says so."""
    train, bench = tmp_path / "mine", tmp_path / "theirs"
    rng = np.random.default_rng(0)
    for number in range(40):
        for side in (train, bench):
            quarters = Image.fromarray(rng.integers(80, 140, (2, 2, 3), np.uint8)).resize(
                (32, 24), Image.Resampling.BOX
            )
            write(side / str(number % 2) / f"{number}.png", encoded(quarters, "PNG"))
    _, said, _ = leaks(capsys, train, "--against", bench, "--out", tmp_path / "leaks", "--embedder", model)
    (note,) = [line for line in said.splitlines() if "embeddings of" in line]
    copies, look_alikes = (
        float(part.split("%")[0]) for part in (note.split("so near are ")[1], note.split(" and of ")[1])
    )
    assert copies < 90 and look_alikes <= 2.5, note
