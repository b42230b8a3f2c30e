"""From vectors to the scores of metrics.json: groups of domains, differences, seeds, the file."""

import numpy as np
import pytest

from pipeline.evaluation import precisions, score, score_table
from pipeline.evaluation.embed import Embedded


def embedded(random: np.random.Generator, sizes: dict[str, int]) -> Embedded:
    """Random vectors of three domains; a class's images lie together."""
    domains = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    labels = 10 * domains + random.integers(0, 4, len(domains))
    centers = random.normal(size=(10 * len(sizes), 6))
    vectors = {row: (centers[labels] + noise * random.normal(size=(len(labels), 6))).astype(np.float32)
               for row, noise in (("embedder", 1.0), ("worse", 2.0))}  # fmt: skip
    return Embedded(list(sizes), vectors, domains, labels, [""] * len(labels), [])


def slow_precision(vectors: np.ndarray, labels: np.ndarray, query: int, among: list[int]) -> float:
    """Precision@5 of one query among the rows `among`, itself left out, by sorting all distances."""
    others = [row for row in among if row != query]
    others.sort(key=lambda row: float(np.linalg.norm(vectors[row] - vectors[query])))
    counted = min(5, sum(labels[row] == labels[query] for row in others))
    return sum(labels[row] == labels[query] for row in others[:counted]) / counted if counted else 0.0


def test_each_group_is_searched_in_its_own_index():
    found = embedded(np.random.default_rng(0), {"a": 30, "b": 25, "c": 20})
    groups = score.measure(found, found, True, ["b"])
    assert list(groups) == ["domain a", "domain b", "domain c", "unseen", "whole"]
    for group, domains in (("domain b", [1]), ("unseen", [0, 2]), ("whole", [0, 1, 2])):
        among = [row for row in range(75) if found.domains[row] in domains]
        for row in ("embedder", "worse"):
            expected = [slow_precision(found.vectors[row], found.labels, query, among) for query in among]
            np.testing.assert_allclose(groups[group][row], expected)
    classes = {group: (4, 4 + number) for number, group in enumerate(groups)}
    whole = precisions.scores(groups, {"a": 30, "b": 25, "c": 20}, ["b"], classes)
    assert precisions.classes_of(whole) == classes and whole["domains"]["b"]["index_classes"] == 5
    assert [each["left_out"] for each in whole["domains"].values()] == [False, True, False]
    assert whole["unseen"]["queries"] == whole["unseen"]["index"] == 50


@pytest.mark.parametrize("left_out", [[], ["elsewhere"], ["a", "b", "c"]])
def test_without_a_domain_that_is_left_out_alone_there_is_no_unseen_row(left_out):
    found = embedded(np.random.default_rng(0), {"a": 12, "b": 12, "c": 12})
    groups = score.measure(found, found, True, left_out)
    assert "unseen" not in groups
    assert "unseen" not in precisions.scores(groups, dict.fromkeys("abc", 12), left_out, dict.fromkeys(groups, (4, 4)))


def test_scores_over_seeds_are_means_and_differences_are_of_the_same_queries(tmp_path):
    random = np.random.default_rng(4)
    runs = []
    for seed in range(3):
        groups = {
            group: {row: random.integers(0, 6, 40) / 5 for row in ("embedder", "pca4")}
            for group in ("domain a/b", "whole")
        }
        precisions.save(tmp_path / f"{seed}.npz", groups)
        runs.append(precisions.read(tmp_path / f"{seed}.npz"))
        assert all((runs[-1][group][row] == values).all() for group in groups for row, values in groups[group].items())
    found = precisions.scores(precisions.stack(runs), {"a/b": 40}, [], {"domain a/b": (9, 9), "whole": (9, 9)})
    values = {row: np.array([run["whole"][row] for run in runs]) for row in ("embedder", "pca4")}
    assert found["mP@5"] == pytest.approx(values["embedder"].mean())
    assert found["references"]["pca4"] == pytest.approx(values["pca4"].mean())
    assert found["differences"]["pca4"]["mean"] == pytest.approx((values["embedder"] - values["pca4"]).mean())
    for mean, (low, high) in ((found["mP@5"], found["interval"]), found["differences"]["pca4"].values()):
        assert low < mean < high
    assert found["domains"]["a/b"]["queries"] == 40
    assert found["domains"]["a/b"]["interval"] != found["interval"]


def wide_result(**more) -> dict:
    references = dict.fromkeys(
        ("raw_pixels", "untrained", "raw_features", "pca64", "half_whitened64", "pml_arcface"), 0.25
    )
    differences = {row: {"mean": 0.25, "interval": [0.2437, 0.2563]} for row in references}
    scores = {"mP@5": 0.5, "interval": [0.4912, 0.5112], "references": references, "differences": differences}
    domain = {**scores, "queries": 11_853, "index": 11_853}
    domains = dict.fromkeys(("cifar10", "products10k", "landmarks"), domain)
    domains["products10k"] = {**domain, "mP@5": 0.6, "left_out": True}
    return {**scores, "domains": domains, "unseen": domain, "rejects": [], "classes_trained_on": 0, **more}


def test_the_table_names_what_was_left_out_and_fits_a_terminal():
    text = score_table.text(wide_result())
    names = ["cifar10", "landmarks", "unseen classes, one index", "products10k (left out)", "all, one index"]
    values, ahead = (table.splitlines() for table in text.split("\n\n"))
    assert [line.split("  ")[0] for line in values[-5:]] == names == [line.split("  ")[0] for line in ahead[-6:-1]]
    assert "0.6000 ±0.010" in values[-2] and "+0.250 ±0.006" in ahead[-2]
    assert ahead[-1].endswith("over queries; a difference is taken query by query")
    assert max(map(len, text.splitlines())) <= 120
    for trained in (None, 3):  # not known, or known to be false
        assert "trained sources, one index" in score_table.text(wide_result(classes_trained_on=trained, classes=9))
    assert "over queries and 2 seeds" in score_table.text(wide_result(seeds={"0": 0.5, "1": 0.5}))


def scored(embedder: float, *, classes=24, index_classes=24, queries=1000, **more) -> dict:
    """A metrics.json of one domain, with the embedder so far ahead of its raw features and its untrained self."""
    ahead = {row: {"mean": embedder, "interval": [embedder - 0.01, embedder + 0.01]} for row in score_table.OWN}
    domain = {"mP@5": 0.5, "interval": [0.48, 0.52], "references": dict.fromkeys(ahead, 0.5), "differences": ahead}
    domain |= {"classes": classes, "index_classes": index_classes}
    return {**domain, "domains": {"birds": {**domain, "queries": queries, "index": queries}}, "rejects": [], **more}


@pytest.mark.parametrize(
    ("result", "said", "noted"),
    [
        (scored(0.02), "mP@5 0.5000 ±0.020", []),
        (scored(0.02, classes=3), "mP@5 0.5000 ±0.020 (3 classes: too few for an estimate)", []),
        (scored(0.02, queries=49), "mP@5 0.5000 ±0.020 (49 queries: too few for an estimate)", []),
        (
            scored(0.02, classes=1, index_classes=1),
            "mP@5 0.5000 ±0.020 (one class: every neighbour is right)",
            ["warning: one class: every neighbour is right"],
        ),
        (
            scored(0.02, classes_trained_on=24),
            "mP@5 0.5000 ±0.020",
            ["24 of 24 scored classes were trained on: no score on unseen classes"],
        ),
        (scored(-0.005), "mP@5 0.5000 ±0.020", []),  # the interval holds 0
    ],
)
def test_what_a_number_is_not_stands_beside_it(result, said, noted):
    assert score_table.headline(result) == said and score_table.notes(result) == noted
    assert all(note in score_table.text(result).splitlines() for note in noted)


def test_an_embedder_below_its_own_features_is_told_what_to_try():
    (note,) = score_table.notes(scored(-0.03))
    assert note.startswith(
        "warning: the embedder is below its encoder's raw features by 0.030 ±0.010 and its untrained self by 0.030 ±"
    )
    assert "fewer epochs" in note and note in score_table.text(scored(-0.03))
    one = scored(-0.03)
    one["differences"]["untrained"]["interval"] = [-0.06, 0.001]
    assert "untrained" not in score_table.notes(one)[0]


def test_of_several_domains_each_with_few_classes_is_named():
    result = scored(0.02)
    result["domains"]["cars"] = {**result["domains"]["birds"], "classes": 1, "index_classes": 1}
    result["domains"]["boats"] = {**result["domains"]["birds"], "classes": 4, "queries": 12}
    assert score_table.notes(result) == [
        "warning: cars: one class: every neighbour is right",
        "warning: boats: 4 classes, 12 queries: too few for an estimate",
    ]
    assert score_table.headline(result) == "mP@5 0.5000 ±0.020"  # of 24 classes in all
