"""`guie score --solution`: embeddings with ids against the competition's solution."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput
from pipeline.evaluation.solution import read_solution
from pipeline.retrieval import intervals
from pipeline.retrieval.metrics import hits_of_predictions, mean_precision_at_5, precision_at_5
from tests.evaluation.tiny import run, write


def test_the_competitions_solution_is_scored_public_and_private_apart(tmp_path, capsys):
    rng = np.random.default_rng(0)
    ids = [f"q{n}" for n in range(6)] + [f"i{n}" for n in range(40)]
    vectors = rng.normal(size=(46, 8)).astype(np.float32)
    solution = {f"q{n}": [f"i{m}" for m in rng.choice(40, rng.integers(1, 9), replace=False)] for n in range(6)}
    solution["missing"] = ["i1"]
    lines = [
        f"{q},{' '.join(wanted)},{'Public' if n % 2 else 'Private'}" for n, (q, wanted) in enumerate(solution.items())
    ]
    (tmp_path / "solution.csv").write_text("id,index ids,Usage\n" + "\n".join(lines) + "\n")
    np.savez(tmp_path / "e.npz", ids=np.array(ids), embeddings=vectors)
    out = tmp_path / "m.json"
    code, text, _ = run(capsys, "score", tmp_path / "e.npz", "--solution", tmp_path / "solution.csv", "--out", out)
    distances = np.linalg.norm(vectors[:6, None] - vectors[None, 6:], axis=2)
    predictions = {f"q{n}": [f"i{m}" for m in np.argsort(distances[n])[:5]] for n in range(6)}
    result = json.loads(out.read_text())
    assert code == 0 and "1 queries of the solution have no embedding" in text
    each = precision_at_5(*hits_of_predictions(predictions, solution))
    assert result["interval"] == list(intervals.interval(each))
    halves = [(part["interval"][1] - part["interval"][0]) / 2 for part in (result, *result["usage"].values())]
    few = "(7 queries: too few for an estimate)"
    assert text.strip().splitlines()[-1] == f"score: mP@5 {result['mP@5']:.4f} ±{halves[0]:.3f} {few} → {out}"
    assert all(
        f"{part['mP@5']:.4f} ±{half:.3f}" in text
        for part, half in zip(result["usage"].values(), halves[1:], strict=True)
    )
    assert result["mP@5"] == pytest.approx(mean_precision_at_5(*hits_of_predictions(predictions, solution)))
    assert set(result["usage"]) == {"Public", "Private"} and result["usage"]["Private"]["queries"] == 4


@pytest.mark.parametrize("text", ["", "a\n1\n", "id,index ids,Usage\n", "id,index ids,Usage\nq1,i1\n"])
def test_a_solution_of_another_form_is_refused(text, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(BadInput):
        read_solution(tmp_path / "s.csv")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
@pytest.mark.faults("broken submission")
def test_embeddings_that_cannot_be_read_are_refused_in_one_line(content, tmp_path, capsys):
    (tmp_path / "s.csv").write_text("id,index ids,Usage\nq1,i1,Public\n")
    path = write(tmp_path / "e.npz", content)
    code, _, error = run(capsys, "score", path, "--solution", tmp_path / "s.csv")
    assert code == 2 and "expected embeddings with ids" in error and error.count("\n") == 1


def test_a_solution_of_one_query_without_usage_is_read(tmp_path):
    (tmp_path / "s.csv").write_text("id,index ids\nq0,i1 i2\n")
    assert read_solution(tmp_path / "s.csv") == {"all": {"q0": ["i1", "i2"]}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("q1,i1,public", "Usage Public or Private, got 'public'"),
        ("q1,i1,Ignored", "Usage Public or Private, got 'Ignored'"),
        ("q1,i1, Public", "Usage Public or Private, got ' Public'"),
        ("q1,,Public", "got none"),
        ("q1, ,Public", "got none"),
        ("q1,i1  i2,Public", "one space apart"),
        ("q1,i1 ,Public", "one space apart"),
        ("q1,i1\ti2 i\t,Public", "one space apart"),
        ("q1,i1,Public,more", "3 columns, got 4"),
        ("", "3 columns, got 0"),
    ],
)
def test_what_the_competition_refuses_is_refused_with_its_line(row, said, tmp_path):
    (tmp_path / "s.csv").write_text(f"id,images,Usage\nq0,i0,Private\n{row}\nq2,i2,Public\n")
    with pytest.raises(BadInput, match=f"line 3: .*{said}"):
        read_solution(tmp_path / "s.csv")


def slow_halves(text):
    """The competition's reading, from its facts; None where it refuses. Ids of 16 characters."""
    halves = {"Public": {}, "Private": {}}
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        if len(row) != 3 or row[2] not in halves or any(len(i) != 16 or i != i.strip() for i in row[1].split(" ")):
            return None
        halves[row[2]].pop(row[0], None)
        halves[row[2]][row[0]] = row[1].split(" ")
    return halves


def slow_mean_precision(predictions, solution):
    total = 0.0
    for query, predicted in predictions.items():
        if query in solution:
            slots = min(5, len(solution[query]))  # ids that stand twice count twice
            right = {each for each in predicted[:slots] if each in solution[query]}
            total += len(right) / slots
    return total / len(solution)


IDS = st.integers(0, 7).map(lambda number: f"index{number:011d}")
QUERIES = st.integers(0, 5).map(lambda number: f"query{number:011d}")
TRUTHS = st.lists(IDS, max_size=9).map(" ".join) | st.just("short") | st.just("two  spaces here")
GOOD_TRUTHS = st.lists(IDS, min_size=1, max_size=9).map(" ".join)
USAGES = st.sampled_from(["Public", "Private"])
GOOD = st.tuples(QUERIES, GOOD_TRUTHS, USAGES)
ANY = st.tuples(QUERIES, TRUTHS, USAGES | st.sampled_from(["public", "", "Ignored"])) | st.tuples(QUERIES, GOOD_TRUTHS)


@given(rows=st.lists(GOOD, min_size=1, max_size=8) | st.lists(GOOD | ANY, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_solutions_are_read_and_scored_as_the_competition_does(tmp_path, rows):
    text = "id,images,Usage\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "s.csv").write_text(text)
    expected = slow_halves(text)
    if expected is None:
        if "short" not in text:  # ids of other lengths are taken here
            with pytest.raises(BadInput):
                read_solution(tmp_path / "s.csv")
        return
    found = read_solution(tmp_path / "s.csv")
    assert found == {usage: held for usage, held in expected.items() if held}
    random = np.random.default_rng(len(text))
    names = [f"index{number:011d}" for number in range(8)]
    predictions = {query: list(random.choice(names, 5)) for held in found.values() for query in sorted(held)[1:]}
    for solution in found.values():
        got = mean_precision_at_5(*hits_of_predictions(predictions, solution))
        assert got == pytest.approx(slow_mean_precision(predictions, solution))


def test_a_query_of_both_halves_counts_in_both_and_an_index_id_twice_counts_twice(tmp_path, capsys):
    (tmp_path / "s.csv").write_text("id,images,Usage\nq0,i9,Public\nq0,i0 i0,Public\nq0,i0,Private\nq1,i1,Private\n")
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 1]]
    np.savez(tmp_path / "e.npz", ids=np.array(["q0", "q1", "i0", "i1"]), embeddings=vectors)
    out = tmp_path / "m.json"
    assert run(capsys, "score", tmp_path / "e.npz", "--solution", tmp_path / "s.csv", "--out", out)[0] == 0
    result = json.loads(out.read_text())
    found = {name: (part["mP@5"], part["queries"]) for name, part in result["usage"].items()}
    assert found == {"Private": (1.0, 2), "Public": (0.5, 1)}
    assert result["mP@5"] == pytest.approx(2.5 / 3) and result["queries"] == 3 and result["missing_queries"] == 0
