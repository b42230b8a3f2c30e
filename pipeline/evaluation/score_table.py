"""The score table of metrics.json: one row a domain and the whole, one column an embedding. No TensorFlow."""

from typing import Any

from pipeline import console


def header_and_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table that `guie score` prints and `guie report` shows; with several domains its last row is the whole."""
    header = ["mP@5", "queries", "index", "embedder", *result["references"]]
    domains = result["domains"]
    rows = [_row(name, domain["queries"], domain["index"], domain) for name, domain in domains.items()]
    if len(rows) > 1:
        queries, index = (sum(each[key] for each in domains.values()) for key in ("queries", "index"))
        rows.append(_row("all, one index", queries, index, result))
    return header, rows


def text(result: dict[str, Any]) -> str:
    """The table, and how many images were left out."""
    drawn = console.table(*header_and_rows(result))
    rejects = result["rejects"]
    return f"{drawn}\n{len(rejects)} image(s) left out, the first: {rejects[0]}" if rejects else drawn


def _row(name: str, queries: int, index: int, scores: dict[str, Any]) -> list[str]:
    values = [scores["mP@5"], *scores["references"].values()]
    return [name, f"{queries:,}", f"{index:,}", *(f"{value:.4f}" for value in values)]
