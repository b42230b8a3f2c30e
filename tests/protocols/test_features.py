"""Vectors that are there already: UnED's descriptors in and out, stores, and what is said of those that do not fit."""

import json
import pickle

import numpy as np
import pytest

from pipeline import cli
from pipeline.benchmarks import descriptors
from pipeline.errors import BadInput
from tests.drawn_benchmarks import draw_sop, draw_uned
from tests.protocols.made import bench, coarse, fine, stores

DOMAINS = ("--domain", "cars", "--domain", "inshop")


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    """Root and stores of two domains of UnED."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("uned", "features"))
    draw_uned(root, domains=("cars", "inshop"), pictures=False)
    stores(folder, "uned", root, fine, domains=("cars", "inshop"))
    return root, folder


@pytest.fixture(scope="module")
def exported(cars, tmp_path_factory):
    """Their vectors as UnED's descriptors, as text."""
    root, folder = cars
    out = tmp_path_factory.mktemp("exported")
    bench("uned", folder, root, out / "out", *DOMAINS, "--export", out / "descriptors.json")
    return (out / "descriptors.json").read_text()


def refused(capsys, *words):
    assert cli.main(["bench", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("guie bench: ") and said.count("\n") == 1
    return said


def test_descriptors_go_out_and_come_back_to_the_same_scores(cars, tmp_path, capsys):
    root, folder = cars
    file = tmp_path / "descriptors.pkl"
    result = bench("uned", folder, root, tmp_path / "a", *DOMAINS, "--export", file)
    held = json.loads(file.read_text())
    assert {domain: list(splits) for domain, splits in held.items()} == {"cars": ["test"], "inshop": ["test", "index"]}
    assert [len(held["cars"]["test"]), len(held["cars"]["test"][0][0])] == [1, 8]
    again = bench("uned", file, root, tmp_path / "b", *DOMAINS)
    assert again["modes"] == result["modes"]
    capsys.readouterr()
    assert bench("uned", file, root, tmp_path / "b", *DOMAINS) == again
    assert "reads" not in capsys.readouterr().out  # its vectors are there


def test_a_file_of_descriptors_never_takes_the_place_of_what_a_model_embedded(cars, tmp_path, capsys):
    root, folder = cars
    file, out = tmp_path / "descriptors.json", tmp_path / "out"
    bench("uned", folder, root, tmp_path / "a", *DOMAINS, "--export", file)
    stores(out / "vectors", "uned", root, fine, domains=("cars", "inshop"))
    held = {path: path.read_bytes() for path in (out / "vectors").rglob("*.npy")}
    assert "holds other vectors" in refused(capsys, "uned", file, "--root", root, "--out", out, *DOMAINS)
    assert held == {path: path.read_bytes() for path in (out / "vectors").rglob("*.npy")}
    bench("uned", file, root, tmp_path / "b", *DOMAINS)
    other = tmp_path / "other.json"
    other.write_text(file.read_text() + " ")
    bench("uned", other, root, tmp_path / "b", *DOMAINS)  # a copy makes way for another


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held["cars"]["test"][0].pop(), "cars-test has 19 vectors, fewer than its list has images"),
        (lambda held: held["cars"]["test"][0].append([0.0] * 8), "cars-test has more vectors than its list has images"),
        (lambda held: held.pop("inshop"), "no descriptors of inshop: index"),
        (lambda held: held["cars"]["test"][0][3].pop(), "expected 8 numbers a vector, got 7"),
        (lambda held: held["cars"]["test"][0][3].__setitem__(0, "x"), "expected a vector of numbers"),
        (lambda held: held["cars"]["test"][0][3].__setitem__(0, 1e39), "a number is not finite"),
        (lambda held: held.__setitem__("cars", 7), "expected '{', got '7'"),
    ],
)
def test_descriptors_that_do_not_fit_are_refused_in_a_line(cars, exported, tmp_path, capsys, change, said):
    held, file = json.loads(exported), tmp_path / "descriptors.json"
    change(held)
    file.write_text(json.dumps(held))
    assert said in refused(capsys, "uned", file, "--root", cars[0], "--out", tmp_path / "out", *DOMAINS)


@pytest.mark.parametrize("length", [0, 1, 9, 40, 130])
def test_a_file_that_is_cut_off_is_refused(tmp_path, length):
    path = tmp_path / "cut.json"
    descriptors.write(path, {"cars": {"test": lambda: iter([np.ones((9, 4), np.float32)])}})
    path.write_text(path.read_text()[:length])
    with pytest.raises(BadInput, match="expected UnED's descriptors"):
        for _, _, blocks in descriptors.read(path, lambda *_: True):
            list(blocks)


def test_a_pickle_is_refused(cars, tmp_path, capsys):
    (tmp_path / "descriptors.pkl").write_bytes(pickle.dumps({"cars": {"test": [[[1.0]]]}}))
    words = ("uned", tmp_path / "descriptors.pkl", "--root", cars[0], "--out", tmp_path / "out", *DOMAINS)
    assert "expected UnED's descriptors" in refused(capsys, *words)


def test_descriptors_are_read_in_pieces_whatever_their_ends(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    path = tmp_path / "descriptors.json"
    path.write_text(json.dumps({"sop": {"train": [[[1.0]]], "test": [vectors.tolist()]}, "met": {}}, indent=1))
    for characters in (1, 7, 64):
        monkeypatch.setattr(descriptors, "READ_CHARACTERS", characters)
        monkeypatch.setattr(descriptors, "BLOCK_ROWS", 8)
        found = {}
        for domain, split, blocks in descriptors.read(path, lambda _, split: split == "test"):
            found[domain, split] = list(blocks)
        assert not found["sop", "train"]
        np.testing.assert_array_equal(np.concatenate(found["sop", "test"]), vectors)


def test_a_store_of_other_images_is_refused(tmp_path, capsys):
    root = draw_sop(tmp_path / "set")
    stores(tmp_path / "features", "sop", root, coarse)
    other = draw_sop(tmp_path / "other", classes=3)
    words = ("--root", other, "--out", tmp_path / "out")
    assert "image 1 is chair_final/000000000004_0.JPG" in refused(capsys, "sop", tmp_path / "features", *words)
    said = refused(capsys, "inshop", tmp_path / "features", "--root", root, "--out", tmp_path / "out")
    assert "a store of vectors of query, it has test" in said or "layout inshop expects" in said


def test_vectors_that_are_not_of_unit_length_are_taken_as_they_are_and_said(tmp_path):
    root = draw_sop(tmp_path / "set")
    stores(tmp_path / "features", "sop", root, coarse)
    notes = bench("sop", tmp_path / "features", root, tmp_path / "out")["notes"]
    assert any("the protocol takes inner products as they are" in note for note in notes)
    assert any("not the published images: test 12 of 60,502" in note for note in notes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sop", "FEATURES", "--domain", "cars"), "--domain cars: sop has none"),
        (("uned", "FEATURES", "--domain", "car"), "--domain car: uned has cars"),
        (("sop", "FEATURES", "--export", "x.json"), "--export writes UnED's descriptors"),
        (("sop", "FEATURES", "--distractors", "none"), "--distractors and --mini are of ilias"),
        (("sop", "FEATURES", "--weights", "none"), "are of an encoder"),
        (("sop", "nothing"), "nearest"),
        (("sop", "vit_b_16", "--root", "nothing"), "expected the folder of Stanford Online Products"),
        (("soq", "x"), "nearest: sop"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path, capsys, words, said):
    root = draw_sop(tmp_path / "set")
    stores(tmp_path / "features", "sop", root, coarse)
    words = [str(tmp_path / "features") if word == "FEATURES" else word for word in words]
    words += [] if "--root" in words else ["--root", str(root)]
    assert said in refused(capsys, *words, "--out", tmp_path / "out")
