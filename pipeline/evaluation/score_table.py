"""The score table of metrics.json: one row a domain and the whole, one column an embedding. No TensorFlow."""

from collections.abc import Callable
from typing import Any

from pipeline import console

WIDTH = 120  # columns of a terminal; a wider table breaks its headers at the underscores
UNSEEN_ROW, WHOLE_ROW = "unseen classes, one index", "all, one index"

Table = tuple[list[str], list[list[str]]]


def header_and_rows(result: dict[str, Any]) -> Table:
    """The table that `guie score` prints and `guie report` shows.

    Several domains have the whole as their last row. Where some were left out of training, the others are first, then
    their unseen classes in one index, then those left out.
    """

    def cells(scores: dict[str, Any]) -> list[str]:
        embedder = f"{scores['mP@5']:.4f}{_half_width(scores)}"
        return [
            f"{scores['queries']:,}",
            f"{scores['index']:,}",
            embedder,
            *(f"{value:.4f}" for value in scores["references"].values()),
        ]

    return ["mP@5", "queries", "index", "embedder", *result["references"]], _rows(result, cells)


def differences(result: dict[str, Any]) -> Table | None:
    """How far the embedder is ahead of each reference on the same queries; None without a reference."""
    if not result.get("differences"):  # a metrics.json of an earlier version has none
        return None

    def cells(scores: dict[str, Any]) -> list[str]:
        return [f"{each['mean']:+.3f}{_half_width(each)}" for each in scores["differences"].values()]

    return ["embedder minus", *result["differences"]], _rows(result, cells)


def text(result: dict[str, Any]) -> str:
    """Both tables, and how many images were left out."""
    parts = [_drawn(header_and_rows(result))]
    if (ahead := differences(result)) is not None:
        over = f"queries and {len(result['seeds'])} seeds" if "seeds" in result else "queries"
        note = f"±: half the width of the 95 % interval over {over}; a difference is taken query by query"
        parts += ["", _drawn(ahead), note]
    if rejects := result["rejects"]:
        parts.append(f"{len(rejects)} image(s) left out, the first: {rejects[0]}")
    return "\n".join(parts)


def _rows(result: dict[str, Any], cells: Callable[[dict[str, Any]], list[str]]) -> list[list[str]]:
    domains = result["domains"]
    trained = {name: each for name, each in domains.items() if not each.get("left_out")}
    rows = [[name, *cells(each)] for name, each in trained.items()]
    if "unseen" in result:
        rows.append([UNSEEN_ROW, *cells(result["unseen"])])
    rows += [[f"{name} (left out)", *cells(each)] for name, each in domains.items() if name not in trained]
    if len(domains) > 1:
        sizes = {key: sum(each[key] for each in domains.values()) for key in ("queries", "index")}
        rows.append([WHOLE_ROW, *cells({**result, **sizes})])
    return rows


def _half_width(scores: dict[str, Any]) -> str:
    if "interval" not in scores:  # a metrics.json of an earlier version
        return ""
    low, high = scores["interval"]
    return f" ±{(high - low) / 2:.3f}"


def _drawn(table: Table) -> str:
    header, rows = table
    drawn = console.table(header, rows)
    if max(map(len, drawn.splitlines())) > WIDTH:
        drawn = console.table([name.replace("_", "_\n") for name in header], rows)
    return drawn
