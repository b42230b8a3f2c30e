"""Scoring as the competition does: embeddings with ids, and its solution CSV (`id, index ids, Usage`)."""

import csv
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.errors import BadInput, reason
from pipeline.retrieval import intervals
from pipeline.retrieval.metrics import hits_of_predictions, precision_at_5
from pipeline.retrieval.search import nearest

# NumPy and csv raise these for a file that is empty, cut off, damaged or of another format.
UNREADABLE = (
    OSError, EOFError, KeyError, ValueError, IndexError, TypeError, csv.Error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def score(embeddings_path: str, solution_path: str) -> dict[str, Any]:
    """mP@5 of all queries and of each Usage (Public, Private); prints the table.

    An id that is no query of the solution is an index image. Raises BadInput: a file of another format; embeddings
    without a query or without an index image.
    """
    ids, vectors = read_embeddings(Path(embeddings_path))
    solution, usage = read_solution(Path(solution_path))
    is_query = np.array([each in solution for each in ids])
    if not is_query.any() or is_query.all():
        raise BadInput(
            f"{embeddings_path}: expected embeddings of queries and of index images, "
            f"{int(is_query.sum())} of {len(ids)} ids are queries of {solution_path}"
        )
    index_ids = [each for each, query in zip(ids, is_query, strict=True) if not query]
    query_ids = [each for each, query in zip(ids, is_query, strict=True) if query]
    neighbours, _ = nearest(vectors[is_query], vectors[~is_query], 5)
    predictions = {
        query: [index_ids[neighbour] for neighbour in row if neighbour >= 0]
        for query, row in zip(query_ids, neighbours, strict=True)
    }
    hits, matches = hits_of_predictions(predictions, solution)
    usages = np.array([usage[query] for query in solution])
    each = precision_at_5(hits, matches)
    result: dict[str, Any] = {
        **_mean(each),
        "usage": {name: _mean(each[usages == name]) for name in sorted(set(usages))},
        "missing_queries": len(solution) - len(query_ids),
        "index": len(index_ids),
        "embedding_dim": int(vectors.shape[1]),
    }
    parts = result["usage"].items()
    rows = [(name, f"{part['queries']:,}", intervals.text(part["mP@5"], part["interval"])) for name, part in parts]
    print(console.table(("usage", "queries", "mP@5"), rows))
    if result["missing_queries"]:
        print(f"{result['missing_queries']} queries of the solution have no embedding: they score 0")
    return result


def _mean(precisions: np.ndarray) -> dict[str, Any]:
    return {
        "mP@5": float(precisions.mean()),
        "interval": list(intervals.interval(precisions)),
        "queries": len(precisions),
    }


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids, float32 [N, D]) of a folder by `guie embed`, an .npz (`ids`, `embeddings`) or a CSV (id, numbers …)."""
    try:
        if path.is_dir():
            with (path / "items.csv").open(newline="", encoding="utf-8") as file:
                ids = [row["key"] for row in csv.DictReader(file)]
            vectors = np.load(path / "embeddings.npy")
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                ids, vectors = [str(each) for each in arrays["ids"]], arrays["embeddings"]
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.reader(file))[1:]
            ids = [row[0] for row in rows]
            numbers = [row[1].split() if len(row) == 2 else row[1:] for row in rows]
            vectors = np.array(numbers, dtype=np.float32)
        vectors = np.asarray(vectors, dtype=np.float32)
    except UNREADABLE as error:
        raise BadInput(
            f"{path}: expected embeddings with ids (a folder by guie embed, .npz with ids and embeddings, or CSV): "
            f"{reason(error)}"
        ) from None
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise BadInput(f"{path}: expected one row of numbers an id, got {len(ids)} ids and shape {list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise BadInput(f"{path}: holds NaN or infinity")
    if len(set(ids)) != len(ids):
        raise BadInput(f"{path}: {len(ids) - len(set(ids))} ids are there more than once")
    return ids, vectors


def read_solution(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """(query id → matching index ids, query id → Usage) of a CSV with the columns id, index ids, Usage."""
    csv.field_size_limit(sys.maxsize)  # a query may match thousands of index images
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: expected the competition's solution CSV ({reason(error)})") from None
    if len(rows) < 2 or len(rows[0]) not in (2, 3) or rows[0][0].strip().lower() != "id":
        raise BadInput(f"{path}: expected the columns id, index ids, Usage; got {rows[0] if rows else 'an empty file'}")
    solution, usage = {}, {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise BadInput(f"{path}, line {number}: expected {len(rows[0])} columns, got {len(row)}")
        solution[row[0]] = row[1].split()
        usage[row[0]] = row[2] if len(row) == 3 else "all"
    return solution, usage
