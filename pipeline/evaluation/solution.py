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

USAGES = ("Public", "Private")  # no other word is known
# NumPy and csv raise these for a file that is empty, cut off, damaged or of another format.
UNREADABLE = (
    OSError, EOFError, KeyError, ValueError, IndexError, TypeError, csv.Error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def score(embeddings_path: str, solution_path: str) -> dict[str, Any]:
    """mP@5 of all queries and of each Usage (Public, Private); prints the table.

    The competition scores its two usages apart, so a query that stands in both counts in both; the mP@5 of all is the
    mean over the usages' queries. An id that is no query of the solution is an index image. Raises BadInput: a file
    of another format; embeddings without a query or without an index image.
    """
    ids, vectors = read_embeddings(Path(embeddings_path))
    usages = read_solution(Path(solution_path))
    queries = set().union(*usages.values())
    is_query = np.array([each in queries for each in ids])
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
    parts = {usage: precision_at_5(*hits_of_predictions(predictions, solution)) for usage, solution in usages.items()}
    missing = len(queries - set(query_ids))
    result: dict[str, Any] = {
        **_mean(np.concatenate(list(parts.values()))),
        "usage": {usage: _mean(parts[usage]) for usage in sorted(parts)},
        "missing_queries": missing,
        "index": len(index_ids),
        "embedding_dim": int(vectors.shape[1]),
    }
    rows = [
        (name, f"{part['queries']:,}", intervals.text(part["mP@5"], part["interval"]))
        for name, part in result["usage"].items()
    ]
    print(console.table(("usage", "queries", "mP@5"), rows))
    if missing:
        print(f"{missing} queries of the solution have no embedding: they score 0")
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


def read_solution(path: Path) -> dict[str, dict[str, list[str]]]:
    """Usage → query id → matching index ids, of a CSV with the columns id, index ids, Usage.

    As the competition reads it: the first line is the header, Usage is Public or Private, index ids stand one space
    apart; of a query that stands twice in one Usage the last row counts, one that stands in both belongs to both; an
    index id that stands twice counts twice in the number of matches. Two things are wider here: ids may have any
    length but 0 (there 16), and without a third column all queries are of the Usage `all`.

    Raises BadInput: what the competition refuses, by its line: another Usage, another number of columns (a blank line
    too), a query without index ids, more than one space between them.

    Source: google-research `universal_embedding_challenge/read_retrieval_solution.py`.
    """
    csv.field_size_limit(sys.maxsize)  # a query may match thousands of index images
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: expected the competition's solution CSV ({reason(error)})") from None
    header = rows[0][1] if rows else []
    if len(header) not in (2, 3):
        raise BadInput(f"{path}: expected the columns id, index ids, Usage; got {header or 'an empty file'}")
    if len(rows) < 2:
        raise BadInput(f"{path}: expected a row a query below the header {header}, found none")
    usages: dict[str, dict[str, list[str]]] = {}
    for line, row in rows[1:]:
        wrong = f"{path}, line {line}: expected"
        if len(row) != len(header):
            raise BadInput(f"{wrong} {len(header)} columns, got {len(row)}")
        query, index_ids, usage = row[0], row[1].split(" "), row[2] if len(row) == 3 else "all"
        if len(row) == 3 and usage not in USAGES:
            raise BadInput(f"{wrong} the Usage {' or '.join(USAGES)}, got {usage!r}")
        if not row[1].strip():
            raise BadInput(f"{wrong} the index ids that match {query!r}, got none: leave a query without a match out")
        if any(not each or each.strip() != each for each in index_ids):
            raise BadInput(f"{wrong} index ids one space apart, got {row[1][:60]!r}")
        usages.setdefault(usage, {})[query] = index_ids
    return usages
