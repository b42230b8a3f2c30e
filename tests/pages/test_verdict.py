"""The report's first sentences: what a made score means."""

import pytest

from pipeline.evaluation.score_table import HELPS
from pipeline.pages import verdict

QUERIES = 400


def scores(ahead: dict[str, tuple[float, float, float]], queries: int = QUERIES, classes: int = 20) -> dict:
    """A metrics.json with the embedder so far (mean, low, high) ahead of each reference."""
    return {
        "mP@5": 0.6,
        "interval": [0.58, 0.62],
        "classes": classes,
        "domains": {"own": {"mP@5": 0.6, "queries": queries, "index": queries}},
        "references": {name: 0.6 - mean for name, (mean, _, _) in ahead.items()},
        "differences": {name: {"mean": mean, "interval": [low, high]} for name, (mean, low, high) in ahead.items()},
    }


@pytest.mark.parametrize(
    ("ahead", "word", "said"),
    [
        ((0.03, 0.01, 0.05), "better", "It is better than its encoder's raw features (0.5700) by 0.030 ±0.020"),
        ((-0.03, -0.05, -0.01), "worse", "It is worse than its encoder's raw features (0.6300) by 0.030 ±0.020"),
        ((0.01, -0.01, 0.03), "not settled", "is not settled: the difference is +0.010 ±0.020, and 0 lies within"),
        ((0.01, 0.0, 0.02), "not settled", "is not settled"),
    ],
)
def test_better_worse_and_not_settled_are_told_by_the_interval(ahead, word, said):
    found = verdict.of(scores({"raw_pixels": (0.4, 0.3, 0.5), "raw_features": ahead, "pca64": (-0.2, -0.3, -0.1)}))
    text = " ".join(found.sentences)
    assert found.word == word and said in text and "mP@5 0.6000 ±0.020" in found.title
    assert "60% are of the query's class" in found.sentences[0] and "over 400 queries" in found.sentences[0]
    assert (HELPS in text) is (word != "better") and ("score more images" in text) is (word == "not settled")
    assert ("significant" in text) is (word != "not settled")
    assert "pca64" not in text and "raw pixels" not in text


def test_without_the_encoder_s_own_rows_the_best_reference_is_held_against():
    found = verdict.of(scores({"raw_pixels": (0.4, 0.3, 0.5), "pca64": (0.1, 0.05, 0.15)}))
    assert found.word == "better" and "its encoder's features by pca64 (0.5000) by 0.100" in found.sentences[1]


def test_the_untrained_self_has_a_sentence_of_its_own_before_the_advice():
    rows = {"untrained": (0.1, 0.05, 0.15), "raw_features": (-0.1, -0.15, -0.05)}
    found = verdict.of(scores(rows))
    assert [found.word, HELPS in found.sentences[-1]] == ["worse", True]
    assert "better than its untrained self" in found.sentences[2]


def test_too_few_queries_are_said_with_the_number():
    found = verdict.of(scores({"raw_features": (0.03, 0.01, 0.05)}, queries=12, classes=3))
    assert "3 classes, 12 queries: too few for an estimate" in found.title
    assert "3 classes, 12 queries: too few for an estimate" in found.sentences[0]
    assert "significant" not in " ".join(found.sentences) and "of so few" in found.sentences[1]


def test_of_one_class_nothing_is_better_or_worse():
    result = scores({"raw_features": (0.0, 0.0, 0.0)}, classes=1) | {"index_classes": 1}
    found = verdict.of(result)
    assert found.word == "" and "two classes or more" in found.sentences[-1] and len(found.sentences) == 2
    assert "one class: every neighbour is right" in found.title and "not settled" not in " ".join(found.sentences)


@pytest.mark.parametrize("missing", ["differences", "interval"])
def test_scores_of_an_earlier_version_have_a_verdict_too(missing):
    result = scores({"raw_features": (0.03, 0.01, 0.05)})
    del result[missing]
    found = verdict.of(result)
    assert (found.word == "") is (missing == "differences") and found.title.startswith("mP@5 0.6000")
    assert ("95% interval" in found.sentences[0]) is (missing != "interval")


def test_seeds_are_counted():
    result = scores({"raw_features": (0.03, 0.01, 0.05)}) | {"seeds": {"0": 0.6, "1": 0.6}}
    assert "400 queries and 2 seeds" in verdict.of(result).sentences[0]


def test_more_queries_alone_are_not_promised_to_settle_what_seeds_leave_open():
    result = scores({"raw_features": (0.01, -0.01, 0.03)})
    assert "four times as many queries" in verdict.of(result).sentences[-1]
    advice = verdict.of(result | {"seeds": {"0": 0.6, "1": 0.6}}).sentences[-1]
    assert "four times" not in advice and "train more seeds" in advice
