"""Each protocol on a small set in the benchmark's own layout, against the same written a second time as plain loops."""

import json

import numpy as np
import pytest

from pipeline import cli
from pipeline.benchmarks import work
from pipeline.benchmarks.protocols import met
from pipeline.benchmarks.table import UNED_DOMAINS, UNED_INDEX
from pipeline.retrieval.large import most_similar
from tests.drawn_benchmarks import (
    draw_cars196,
    draw_cub200,
    draw_food2k,
    draw_gldv2,
    draw_gpr1200,
    draw_inat2018,
    draw_inshop,
    draw_met,
    draw_oml,
    draw_rp2k,
    draw_sop,
    draw_uned,
)
from tests.protocols import slow
from tests.protocols.made import bench, coarse, fine, stores, values
from tfrecords.benchmarks import uned as layout

INDEX_OF = {domain: "index" if domain in ("inshop", "met", "gldv2") else "test" for domain in UNED_DOMAINS}


def test_the_benchmarks_table_has_the_domains_of_the_layout_and_their_indexes():
    """`--help` reads the table, and does without the layouts."""
    assert tuple(layout.DOMAINS) == UNED_DOMAINS
    assert {domain: "index" for domain, lists in layout.DOMAINS.items() if "index" in lists} == UNED_INDEX


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.fixture(scope="module")
def uned(tmp_path_factory):
    """Root, stores, lists and vectors of all domains: ties, duplicates, lists of labels, a query without a match."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("uned", "features"))
    draw_uned(root, pictures=False)
    path = root / "info_files/gldv2/test.json"
    rows = json.loads(path.read_text())
    rows[1]["class_id"] = [2999, 2003]  # nothing has the first, four images have the second alone
    path.write_text(json.dumps(rows))
    stores(folder, "uned", root, coarse)
    lists, vectors = {}, {}
    for domain in UNED_DOMAINS:
        for split in {"test", INDEX_OF[domain]}:
            rows = json.loads((root / "info_files" / domain / f"{split}.json").read_text())
            lists[domain, split] = [(row["path"], row["class_id"]) for row in rows]
            vectors[domain, split] = [coarse(f"{domain} {row['path']}") for row in rows]
    return root, folder, lists, vectors


def test_uned_merged_and_separate_by_position_and_by_identity(uned, tmp_path):
    root, folder, lists, vectors = uned
    result = bench("uned", folder, root, tmp_path)
    assert [mode["title"] for mode in result["modes"]] == ["merged index", "separate indexes"]
    for mode, merged in zip(result["modes"], (True, False), strict=True):
        expected = slow.uned(lists, vectors, INDEX_OF, merged)
        found = values(mode)
        assert list(found) == list(UNED_DOMAINS)
        for domain in UNED_DOMAINS:
            close(found[domain], expected[domain])
        for name, value in mode["mean"]["values"].items():
            by_domain = np.mean([each[name] for each in expected.values()])
            assert value == pytest.approx(by_domain if "identity" in name else float(np.round(by_domain, 3)), abs=1e-12)
        indexes = [row["index"] for row in mode["rows"].values()]
        assert mode["mean"]["index"] == (indexes[0] if merged else sum(indexes))
        low, high = mode["mean"]["intervals"]["mMP@5"]
        assert low < mode["mean"]["values"]["mMP@5"] < high
    merged = values(result["modes"][0])
    assert any(each["R@1"] != round(each["R@1 by identity"], 3) for each in merged.values())  # duplicates tell
    assert merged["cars"] != values(result["modes"][1])["cars"]
    assert result["modes"][0]["rows"]["gldv2"]["without_match"] == 1  # the label that no index image has
    assert not [note for note in result["notes"] if "domains" in note]


def test_uned_of_some_domains_says_that_it_is_no_score_of_the_benchmark(uned, tmp_path):
    root, folder, lists, vectors = uned
    result = bench("uned", folder, root, tmp_path, "--domain", "sop", "--domain", "gldv2")
    some = {domain: INDEX_OF[domain] for domain in ("sop", "gldv2")}
    expected = slow.uned(lists, vectors, some, True)
    close(values(result["modes"][0])["gldv2"], expected["gldv2"])
    assert any(note.startswith("2 of 8 domains") for note in result["notes"])


@pytest.mark.parametrize("vector", [coarse, fine])
@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("sop", draw_sop), ("cars196", draw_cars196), ("cub200", draw_cub200), ("rp2k", draw_rp2k),
        ("food2k", draw_food2k), ("inat2018", draw_inat2018),
    ],
)  # fmt: skip
def test_metric_learning_leaves_out_itself(tmp_path, name, draw, vector):
    root = draw(tmp_path / "set")
    if name == "food2k":  # drawn with one test image a class
        (root / "Food2k_label/test_finetune.txt").write_text(
            "".join(f"{c}/{n}.jpg {c}\n" for c in (0, 1) for n in (1, 2, 4))
        )
    found = stores(tmp_path / "features", name, root, vector)["test"]
    rows = [(item.key, item.class_name, each) for item, each in found]
    result = bench(name, tmp_path / "features", root, tmp_path / "out")
    (mode,) = result["modes"]
    (row,) = values(mode).values()
    close(row, slow.metric_learning(rows, rows))


def test_in_shop_queries_ask_the_gallery(tmp_path):
    root = draw_inshop(tmp_path / "set")
    found = stores(tmp_path / "features", "inshop", root, coarse)
    queries, gallery = ([(i.key, i.class_name, v) for i, v in found[name]] for name in ("query", "gallery"))
    (mode,) = bench("inshop", tmp_path / "features", root, tmp_path / "out")["modes"]
    (row,) = values(mode).values()
    close(row, slow.metric_learning(queries, gallery))


def test_an_oml_image_that_is_query_and_gallery_does_not_find_itself(tmp_path):
    root = draw_oml(tmp_path / "set", classes=6, images=4)
    found = stores(tmp_path / "features", "oml", root, coarse)
    queries, gallery = ([(i.key, i.class_name, v) for i, v in found[name]] for name in ("query", "gallery"))
    assert {key for key, *_ in queries} & {key for key, *_ in gallery}
    (mode,) = bench("oml", tmp_path / "features", root, tmp_path / "out")["modes"]
    (row,) = values(mode).values()
    close(row, slow.metric_learning(queries, gallery))


def test_map_at_r_and_r_at_1_are_those_of_pytorch_metric_learning(tmp_path):
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    root = draw_sop(tmp_path / "set", classes=5, images=4)
    lines = (root / "Ebay_test.txt").read_text().splitlines()
    (root / "Ebay_test.txt").write_text("\n".join(lines[:-3]) + "\n")  # one of the last class is left: a lone query
    found = stores(tmp_path / "features", "sop", root, fine)["test"]
    labels = np.array([int(item.class_name) for item, _ in found])
    assert (np.unique(labels, return_counts=True)[1] == 1).any()
    expected = calculator.AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
    ).get_accuracy(np.stack([each for _, each in found]), labels)
    (mode,) = bench("sop", tmp_path / "features", root, tmp_path / "out")["modes"]
    (row,) = mode["rows"].values()
    assert row["values"]["R@1"] == pytest.approx(expected["precision_at_1"])
    assert row["values"]["MAP@R"] == pytest.approx(expected["mean_average_precision_at_r"])
    assert row["without_match"] == 1 and row["queries"] == len(labels) - 1


def test_gpr1200_with_and_without_the_query(tmp_path):
    root = draw_gpr1200(tmp_path / "set", classes=203, images=2)
    (root / "203_alone.jpg").write_bytes((root / "0_0_n.jpg").read_bytes())  # the only one of its class
    found = stores(tmp_path / "features", "gpr1200", root, coarse)["all"]
    rows = [(item.class_name, each) for item, each in found]
    (mode,) = bench("gpr1200", tmp_path / "features", root, tmp_path / "out")["modes"]
    second = [place for place, (name, _) in enumerate(rows) if int(name) >= 200]
    assert list(mode["rows"]) == ["landmarks", "inat", "all"]
    close(values(mode)["inat"], slow.gpr1200(rows, second))
    close(values(mode)["all"], slow.gpr1200(rows, range(len(rows))))
    assert mode["rows"]["all"]["without_match"] == 1


def test_landmarks_of_public_and_private_queries(tmp_path):
    root = draw_gldv2(tmp_path / "set")
    found = stores(tmp_path / "features", "gldv2_retrieval", root, coarse)
    index = {item.key: each for item, each in found["index"]}
    solution = [line.split(",") for line in (root / "retrieval_solution_v2.1.csv").read_text().splitlines()[1:]]
    answers = {query: images.split() for query, images, _ in solution}
    (mode,) = bench("gldv2_retrieval", tmp_path / "features", root, tmp_path / "out")["modes"]
    for name in ("private", "public"):
        queries = {item.key: each for item, each in found[name]}
        assert values(mode)[name]["mAP@100"] == pytest.approx(slow.landmarks(queries, index, answers), abs=1e-12)
    assert mode["rows"]["private"]["without_match"] == 1  # its image is not in the index


def test_landmarks_beyond_rank_100_count_for_nothing(tmp_path):
    root = draw_gldv2(tmp_path / "set")
    ids = [f"a{number:03d}0123456789ab" for number in range(260)]  # lists alone: no image is opened
    (root / "index.csv").write_text("\n".join(["id", *ids]) + "\n")
    answers = {"q00123456789abc": ids[::2], "q10123456789abc": ids[:7]}
    rows = [
        f"{query},{' '.join(found)},{usage}"
        for (query, found), usage in zip(answers.items(), ("Public", "Private"), strict=True)
    ]
    (root / "retrieval_solution_v2.1.csv").write_text("\n".join(["id,images,Usage", *rows]) + "\n")
    found = stores(tmp_path / "features", "gldv2_retrieval", root, coarse, chunk=100)
    index = {item.key: each for item, each in found["index"]}
    (mode,) = bench("gldv2_retrieval", tmp_path / "features", root, tmp_path / "out")["modes"]
    for name in ("private", "public"):
        queries = {item.key: each for item, each in found[name]}
        assert values(mode)[name]["mAP@100"] == pytest.approx(slow.landmarks(queries, index, answers), abs=1e-12)


def test_the_mets_classifier_with_distractors(tmp_path):
    root = draw_met(tmp_path / "set", exhibits=12)
    found = stores(tmp_path / "features", "met", root, near_its_class)
    sets = {
        name: [(None if item.class_name == "-1" else int(item.class_name), each) for item, each in rows]
        for name, rows in found.items()
    }
    assert [label for label, _ in sets["test"]].count(None) == 2
    classified, retrieved = bench("met", tmp_path / "features", root, tmp_path / "out")["modes"]
    close(values(classified)["as they are"], slow.met(sets["train"], sets["val"], sets["test"]))
    low, high = classified["rows"]["as they are"]["intervals"]["GAP"]
    assert low <= classified["rows"]["as they are"]["values"]["GAP"] <= high
    whitened = {name: white(sets["train"], rows) for name, rows in sets.items()}
    expected = slow.met(whitened["train"], whitened["val"], whitened["test"])
    assert values(classified)["PCA-whitened"] == pytest.approx(expected, abs=1e-6)
    (row,) = retrieved["rows"].values()
    assert row["without_match"] == 2 and row["queries"] == len(sets["test"]) - 2


def near_its_class(key, dim=6):
    """Vectors of an exhibit lie together, so that a classifier is right now and then."""
    digits = "".join(each for each in key.split("/")[1] if each.isdigit()) or key
    vector = fine(digits, dim) + 0.6 * fine(key, dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def white(train, rows):
    """PCA-whitening as the Met's repository writes it: eigenvectors of the covariance over the root of eigenvalues."""
    found = np.stack([each for _, each in train]).astype(np.float64)
    centre = found.mean(axis=0)
    eigenvalues, directions = np.linalg.eigh((found - centre).T @ (found - centre) / len(found))
    changed = [(label, (each - centre) @ directions / np.sqrt(eigenvalues)) for label, each in rows]
    return [(label, (each / np.linalg.norm(each)).astype(np.float32)) for label, each in changed]


def test_the_mets_confidence_of_vectors_of_any_length_is_a_share():
    """A softmax over all exhibits: of 900 and 890 at temperature 5 all is the first's, of 0 each has the same."""
    found = met.predicted(met.Nearest(np.array([[3, 7], [3, 7]]), np.array([[900.0, 890.0], [0.0, 1000.0]])), 5.0, 3)
    assert found.classes.tolist() == [3, 7] and found.confidences.tolist() == pytest.approx([1.0, 1.0])
    near = met.Nearest(np.array([[3, -1]]), np.array([[0.0, -np.inf]]))
    assert met.predicted(near, 500.0, 4).confidences.tolist() == pytest.approx([0.25])


def test_a_search_that_was_killed_goes_on_behind_its_last_lot(tmp_path, monkeypatch):
    root = draw_sop(tmp_path / "set")
    stores(tmp_path / "features", "sop", root, coarse)
    expected = bench("sop", tmp_path / "features", root, tmp_path / "whole")["modes"]
    monkeypatch.setattr(work, "QUERIES", 5)
    searched = []

    def search(queries, blocks, k, exclude=None):
        searched.append(len(queries))
        if len(searched) == 2:
            raise KeyboardInterrupt
        return most_similar(queries, blocks, k, exclude)

    monkeypatch.setattr(work, "most_similar", search)
    words = ["bench", "sop", str(tmp_path / "features"), "--root", str(root), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 130
    next((tmp_path / "out/search").rglob("00000.npz")).with_name("00001.npz").write_bytes(b"damaged")
    assert cli.main(words) == 0
    assert searched == [5, 5, 5, 2]
    assert json.loads((tmp_path / "out/bench.json").read_text())["modes"] == expected
