"""`guie bench ilias`, run by its real main over images and tars in the authors' exact layout."""

import io
import json
import tarfile

import numpy as np
import pytest

from pipeline.benchmarks.ilias import hdf5
from tests.drawn_benchmarks import draw_ilias
from tests.evaluation.tiny import MeanColour, run, save
from tests.ilias import drawn, slow
from tfrecords import pixels
from tfrecords.benchmarks import ilias as layout

OBJECTS, TARS, DISTRACTORS = 5, 2, 6
WIDTH = 2  # so few numbers that objects are taken for each other


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_ilias(tmp_path_factory.mktemp("ilias"), objects=OBJECTS, tars=TARS, distractors=DISTRACTORS)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return save(MeanColour(WIDTH), tmp_path_factory.mktemp("embedder"))


def slowly(root, tars=TARS, mini=False):
    """mAP@1k by the slow implementation, on vectors that the embedder gives each image by itself."""
    model = MeanColour(WIDTH)  # the function alone does not keep it

    def vector(data):
        found = model.embed(pixels.read(data)[None])["embedding_norm"].numpy()[0]
        return found.astype(np.float16)

    def listed(name):
        lines = (root / "image_ids" / name).read_text().splitlines()
        return sorted(line.split(",")[0] for line in lines)

    core = root / "ilias_core"
    queries = {key: vector((core / key).read_bytes()) for key in listed("image_query_ids.txt")}
    positives = listed("positive_ids.txt")
    database = [(key, vector((core / key).read_bytes())) for key in positives]
    chosen = set(listed("mini_ilias_yfcc100m_ids.txt"))
    for path in sorted((root / "yfcc100m").glob("*.tar"))[:tars]:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (not mini or member.name.removesuffix(".jpg") in chosen):
                    data = io.BytesIO(tar.extractfile(member).read()).getvalue()
                    database.append((f"{path.name}/{member.name.removesuffix('.jpg')}", vector(data)))
    return slow.mean_average_precision(queries, database, positives, 1000)[0], len(database)


def bench(capsys, out, embedder, root, *more):
    code, said, errors = run(capsys, "bench", "ilias", embedder, "--root", root, "--out", out, *more)
    assert code == 0, errors
    return json.loads((out / "bench.json").read_text()), said


def table(result, queries="image queries"):
    """Database → the row of these queries."""
    return {mode["title"]: mode["rows"][queries] for mode in result["modes"] if queries in mode["rows"]}


def test_a_model_is_scored_by_the_protocol_and_goes_on_by_tars(root, embedder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    result, said = bench(capsys, out, embedder, root)
    expected, count = slowly(root)
    alone, core = slowly(root, tars=0)
    name = f"{TARS * DISTRACTORS} distractors"
    rows = table(result)
    assert list(rows) == [name, "core alone"] and (rows[name]["index"], rows["core alone"]["index"]) == (count, core)
    assert rows[name]["queries"] == 2 * OBJECTS - 1  # the last object has one query, and no positive
    assert rows[name]["values"]["mAP@1k"] == pytest.approx(expected, abs=1e-6)
    assert rows["core alone"]["values"]["mAP@1k"] == pytest.approx(alone, abs=1e-6) and 1 > alone > expected > 0
    assert "exact over float16 vectors" in said and "reported" in said
    assert "text queries are left out" in said

    # Killed before the second tar was whole: the first is not read again, and the search goes on behind it.
    read = []
    members = layout.tar_members
    monkeypatch.setattr(layout, "tar_members", lambda path, where: read.append(path.name) or members(path, where))
    (out / "vectors" / "distractors" / "yfcc100m_00001" / "tar.json").unlink()
    again, _ = bench(capsys, out, embedder, root)
    assert read == ["yfcc100m_00001.tar"] and table(again) == rows
    read.clear()
    assert table(bench(capsys, out, embedder, root)[0]) == rows and not read

    # The vectors of the distractors serve another run of the same embedder; another embedder's are refused.
    stores = out / "vectors" / "distractors"
    elsewhere, _ = bench(capsys, tmp_path / "elsewhere", embedder, root, "--distractors", stores)
    assert table(elsewhere) == rows and not (tmp_path / "elsewhere" / "vectors" / "distractors").exists()
    other = save(MeanColour(width=5), tmp_path / "other")
    code, _, errors = run(
        capsys, "bench", "ilias", other, "--root", root, "--out", tmp_path / "b", "--distractors", stores
    )
    assert code == 2 and "of the embedder of the queries" in errors

    searched = (out / "search" / "ilias.npz").read_bytes()
    assert list(table(bench(capsys, out, embedder, root, "--mini")[0])) == ["4 distractors", "core alone"]
    assert (out / "search" / "ilias.npz").read_bytes() == searched  # a search of all distractors takes hours

    without, said = bench(capsys, out, embedder, root, "--distractors", "none")
    assert list(table(without)) == ["core alone"] and "no figure of the paper" in said


def test_features_that_are_exported_score_the_same_without_an_image(root, embedder, tmp_path, capsys):
    folder = tmp_path / "features"
    result, _ = bench(capsys, tmp_path / "a", embedder, root, "--mini", "--export", folder)
    expected, count = slowly(root, mini=True)
    (name, row), _ = table(result).items()
    assert name == "4 distractors" and row["index"] == count
    assert row["values"]["mAP@1k"] == pytest.approx(expected, abs=1e-6)
    names = ["distractors_00000", "image_queries", "positives"]
    assert sorted(path.name for path in folder.iterdir()) == [f"features_{each}.hdf5" for each in names]
    ids, vectors = drawn.read(folder / "features_distractors_00000.hdf5")
    assert len(ids) == 4 and vectors.dtype == np.float16 and all(each.startswith("yfcc100m_0000") for each in ids)

    lists = tmp_path / "lists"
    lists.mkdir()
    (root / "image_ids").rename(lists / "image_ids")  # no image can be read, none is asked for
    try:
        again, _ = bench(capsys, tmp_path / "b", folder, lists)
        full, _ = bench(capsys, tmp_path / "c", folder, lists, "--mini")
        texts = (lists / "image_ids" / "text_query_ids.txt").read_text().split()
        drawn.features(folder / "features_text_queries.hdf5", texts, np.ones((len(texts), WIDTH)))
        with_texts, _ = bench(capsys, tmp_path / "d", folder, lists)
    finally:
        (lists / "image_ids").rename(root / "image_ids")
    assert table(again) == table(full) == table(result) and again["pixels"] == "features that were there already"
    (of_texts,) = table(with_texts, "text queries").values()
    assert of_texts["queries"] == OBJECTS and of_texts["index"] == count and table(with_texts) == table(result)


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_features_are_cut_into_files_of_so_many_rows(rows):
    from pipeline.benchmarks.protocols import ilias

    blocks = (np.full((n, 2), n) for n in (3, 0, 5, 1, 2))
    found = [np.concatenate(list(each)) for each in ilias._cut(blocks, rows)]
    assert np.concatenate(found)[:, 0].tolist() == [3] * 3 + [5] * 5 + [1] + [2] * 2
    assert [len(each) for each in found] == [rows] * (11 // rows) + [11 % rows] * (11 % rows > 0)


def test_what_is_wrong_is_said_in_a_line(root, embedder, tmp_path, capsys):
    for more, said in (
        (["--distractors", tmp_path], "expected a store of vectors"),
        (["--distractors", tmp_path / "none"], "expected a store of vectors"),
    ):
        code, _, errors = run(capsys, "bench", "ilias", embedder, "--root", root, "--out", tmp_path / "o", *more)
        assert code == 2 and said in errors and "Traceback" not in errors
    code, _, errors = run(capsys, "bench", "ilias", embedder, "--root", tmp_path, "--out", tmp_path / "o")
    assert code == 2 and len(errors.strip().splitlines()) == 1
    drawn.features(hdf5.path_of(tmp_path, "positives"), ["a/pos/x.jpg"], np.ones((1, 3)))
    code, _, errors = run(capsys, "bench", "ilias", tmp_path, "--root", root, "--out", tmp_path / "o")
    assert code == 2 and "features_image_queries.hdf5 does not exist" in errors
    code, _, errors = run(capsys, "bench", "uned", tmp_path, "--root", root, "--out", tmp_path / "o")
    assert code == 2 and "ILIAS's form alone" in errors
