"""`guie score --solution`: embeddings with ids against the competition's solution."""

import json

import numpy as np
import pytest

from pipeline.errors import BadInput
from pipeline.evaluation.solution import read_solution
from pipeline.retrieval.metrics import hits_of_predictions, mean_precision_at_5
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
    assert text.strip().splitlines()[-1] == f"score: mP@5 {result['mP@5']:.4f} → {out}"
    assert result["mP@5"] == pytest.approx(mean_precision_at_5(*hits_of_predictions(predictions, solution)))
    assert set(result["usage"]) == {"Public", "Private"} and result["usage"]["Private"]["queries"] == 4


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "id,index ids,Usage\nq1,i1\n"])
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
    assert read_solution(tmp_path / "s.csv") == ({"q0": ["i1", "i2"]}, {"q0": "all"})
