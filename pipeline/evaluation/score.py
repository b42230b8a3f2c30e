"""STAGE  embedder + labelled images → mean Precision@5.

guie score EMBEDDER --index DATA [--index DATA …] [--queries DATA …] [--out metrics.json]
guie score EMBEDDINGS --solution solution.csv

Without --queries every image queries all others. Several --index merge into one index; the table then gives each
domain (searched in its own index) and the whole (searched in the merged one).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import files
from pipeline.console import Progress
from pipeline.data import sources
from pipeline.data.sources import ImageSet
from pipeline.errors import BadInput
from pipeline.evaluation import embedders, solution
from pipeline.retrieval.metrics import mean_precision_at_5, neighbour_hits
from pipeline.retrieval.search import nearest

RAW_PIXELS_SIDE_PX = 32
EXAMPLES = 12  # queries whose neighbours are kept for the report


@dataclass(frozen=True)
class Options:
    embedder: str
    index: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    out: str = ""
    batch_size: int = 64
    solution: str = ""


@dataclass
class Embedded:
    """Images of one or several sets with their vectors.

    Attributes:
        vectors: row name → float32 [N, D]; rows are "embedder" and the references.
        domains: int [N] place of each image's domain.
        labels: int64 [N], over all domains; domains of one label space may share a class.
        rejects: (domain, key, reason) of every image left out.
    """

    names: list[str]
    vectors: dict[str, np.ndarray]
    domains: np.ndarray
    labels: np.ndarray
    keys: list[str]
    rejects: list[tuple[str, str, str]]


def main(options: Options) -> None:
    if options.solution:
        result = solution.score(options.embedder, options.solution)
    else:
        if not options.index:
            raise BadInput(
                "expected at least one --index DATA: a folder of class folders, shards, or LAYOUT:ROOT"
            )
        submission = embedders.load(options.embedder)
        print(
            f"score: {options.embedder} ({submission.embedding_dim} dimensions) on {', '.join(options.index)}"
        )
        result = score(submission, options.index, options.queries, options.batch_size)
    if options.out:
        files.write_json(Path(options.out), result)
    print(f"score: mP@5 {result['mP@5']:.4f}" + (f" → {options.out}" if options.out else ""))


def score(
    submission: embedders.Submission, index: list[str], queries: list[str], batch_size: int, references=None
) -> dict:
    """The whole of `guie score`: embeds, searches, prints the table.

    Args:
        references: None, or further rows to compute from the same images, see references.py.

    Returns:
        What metrics.json holds.

    Raises:
        BadInput: see `data.open_data`; a --queries without its --index; no image that has a match.
    """
    index_sets = _unique_names([each for spec in index for each in sources.open_data(spec)])
    query_sets = (
        _paired([each for spec in queries for each in sources.open_data(spec)], index_sets)
        if queries
        else None
    )
    classes: dict[tuple[str, str], int] = {}
    indexed = embed_sets(submission, index_sets, batch_size, "index", classes, references)
    queried = (
        embed_sets(submission, query_sets, batch_size, "queries", classes, references)
        if query_sets
        else indexed
    )
    leave_one_out = query_sets is None
    if not len(queried.labels) or not len(indexed.labels):
        raise BadInput("no image could be read: nothing to score")
    if not np.isin(queried.labels, indexed.labels).any() or (
        leave_one_out and len(np.unique(indexed.labels)) == len(indexed.labels)
    ):
        raise BadInput(
            "no query has an image of its class in the index: expected classes with at least two images"
        )
    rows = {row: _mp5_rows(row, queried, indexed, leave_one_out) for row in indexed.vectors}
    result = {
        "mP@5": rows["embedder"][""],
        "domains": {
            name: {
                "mP@5": rows["embedder"][name],
                "queries": int((queried.domains == place).sum()),
                "index": int((indexed.domains == place).sum()),
                "references": {row: values[name] for row, values in rows.items() if row != "embedder"},
            }
            for place, name in enumerate(indexed.names)
        },
        "references": {row: values[""] for row, values in rows.items() if row != "embedder"},
        "embedding_dim": submission.embedding_dim,
        "leave_one_out": leave_one_out,
        "examples": _examples(queried, indexed, leave_one_out),
        "embedder": submission.fingerprint,
        "rejects": [
            dict(zip(("domain", "key", "reason"), reject, strict=True))
            for reject in _all_rejects(indexed, queried)
        ],
    }
    print(table(result))
    return result


def table(result: dict) -> str:
    """The score table as text: one row a domain and the whole, one column an embedding."""
    names = ["embedder", *result["references"]]
    lines = [f"{'mP@5':<20}{'queries':>9}{'index':>9}" + "".join(f"{name:>14}" for name in names)]
    for name, domain in result["domains"].items():
        values = [domain["mP@5"], *domain["references"].values()]
        lines.append(_row(name, domain["queries"], domain["index"], values))
    if len(result["domains"]) > 1:
        queries, index = (
            sum(domain[key] for domain in result["domains"].values()) for key in ("queries", "index")
        )
        lines.append(_row("all, one index", queries, index, [result["mP@5"], *result["references"].values()]))
    if result["rejects"]:
        lines.append(f"{len(result['rejects'])} image(s) left out, the first: {result['rejects'][0]}")
    return "\n".join(lines)


def embed_sets(
    submission, sets: list[ImageSet], batch_size: int, what: str, classes: dict, references=None
) -> Embedded:
    """Reads and embeds every image, images of one size together.

    Args:
        classes: (label space, or domain where it has its own, class) → label; grows.
    """
    items = [(place, item) for place, each in enumerate(sets) for item in each.items]
    names = [each.name for each in sets]
    spaces = [each.label_space or each.name for each in sets]
    progress = Progress(f"score: {what}", len(items), "images")
    vectors = np.zeros((len(items), submission.embedding_dim), np.float32)
    kept = np.zeros(len(items), bool)
    others: dict[str, dict[int, np.ndarray]] = {}
    rejects: list[tuple[str, str, str]] = []
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}  # image shape → rows of that shape

    def flush(group: list[tuple[int, np.ndarray]]) -> None:
        images = np.stack([image for _, image in group])
        vectors[[row for row, _ in group]] = submission.embed(images)
        found = {"raw_pixels": np.stack([raw_pixels(image) for image in images])}
        for name, values in {**found, **(references.encode(images) if references else {})}.items():
            others.setdefault(name, {}).update(zip((row for row, _ in group), values, strict=True))

    for row, image, reason in sources.read_decoded([item for _, item in items]):
        progress.add(1)
        if image is None:
            rejects.append((names[items[row][0]], items[row][1].key, reason))
            continue
        kept[row] = True
        group = waiting.setdefault(image.shape, [])
        group.append((row, image))
        if len(group) >= max(1, min(batch_size, 64_000_000 // image.size)):
            flush(waiting.pop(image.shape))
        if sum(len(rows) for rows in waiting.values()) > 4 * batch_size:  # many sizes: do not hold them all
            flush(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
    for group in waiting.values():
        flush(group)
    rows = np.flatnonzero(kept).tolist()
    stacked = (
        {name: np.stack([found[row] for row in rows]) for name, found in others.items()} if len(rows) else {}
    )
    labels = [
        classes.setdefault((spaces[items[row][0]], items[row][1].class_name), len(classes)) for row in rows
    ]
    return Embedded(
        names,
        {"embedder": vectors[rows], **(references.finish(stacked) if references else stacked)},
        np.array([items[row][0] for row in rows], np.int64),
        np.array(labels, np.int64),
        [items[row][1].key for row in rows],
        rejects,
    )


def raw_pixels(image: np.ndarray) -> np.ndarray:
    """The reference that has learned nothing: uint8 [H, W, 3] → float32 [3072], 32 × 32 pixels, mean 0, unit length."""
    small = Image.fromarray(image).resize((RAW_PIXELS_SIDE_PX, RAW_PIXELS_SIDE_PX), Image.Resampling.BOX)
    flat = np.asarray(small, dtype=np.float32).ravel()
    flat -= flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def _mp5_rows(row: str, queried: Embedded, indexed: Embedded, leave_one_out: bool) -> dict[str, float]:
    """Domain → mP@5 within its own index; "" → of all queries in the merged index."""

    def value(among_queries: np.ndarray, among_index: np.ndarray) -> float:
        index, queries = indexed.vectors[row][among_index], queried.vectors[row][among_queries]
        neighbours, _ = nearest(queries, index, 5, leave_one_out)
        labels = indexed.labels[among_index], queried.labels[among_queries]
        return mean_precision_at_5(*neighbour_hits(neighbours, *labels, leave_one_out))

    found = {
        name: value(queried.domains == place, indexed.domains == place)
        for place, name in enumerate(indexed.names)
    }
    whole = np.ones(len(queried.labels), bool), np.ones(len(indexed.labels), bool)
    return {**found, "": value(*whole) if len(found) > 1 else next(iter(found.values()))}


def _examples(queried: Embedded, indexed: Embedded, leave_one_out: bool) -> list[dict]:
    """A few queries with their five neighbours in the merged index, for people to look at."""
    rows = np.unique(np.linspace(0, len(queried.labels) - 1, EXAMPLES).astype(int))
    if leave_one_out:  # a row cannot find itself: search one further and drop it
        found, distances = nearest(queried.vectors["embedder"][rows], indexed.vectors["embedder"], 6)
    else:
        found, distances = nearest(queried.vectors["embedder"][rows], indexed.vectors["embedder"], 5)
    examples = []
    for row, ids, far in zip(rows.tolist(), found.tolist(), distances.tolist(), strict=True):
        others = [
            (i, d) for i, d in zip(ids, far, strict=True) if i >= 0 and not (leave_one_out and i == row)
        ][:5]
        neighbours = [
            {
                "domain": indexed.names[indexed.domains[i]],
                "key": indexed.keys[i],
                "distance": round(d, 4),
                "match": bool(indexed.labels[i] == queried.labels[row]),
            }
            for i, d in others
        ]
        domain = queried.names[queried.domains[row]]
        examples.append({"domain": domain, "key": queried.keys[row], "neighbours": neighbours})
    return examples


def _row(name: str, queries: int, index: int, values: list[float]) -> str:
    return f"{name:<20}{queries:>9,}{index:>9,}" + "".join(f"{value:>14.4f}" for value in values)


def _unique_names(sets: list[ImageSet]) -> list[ImageSet]:
    seen: dict[str, int] = {}
    named = []
    for each in sets:
        seen[each.name] = seen.get(each.name, 0) + 1
        named.append(each if seen[each.name] == 1 else replace(each, name=f"{each.name}-{seen[each.name]}"))
    return named


def _paired(query_sets: list[ImageSet], index_sets: list[ImageSet]) -> list[ImageSet]:
    """Query sets as their index sets' namesakes, in their label spaces: by name where all agree, else by place."""
    by_name = {each.name: each.items for each in query_sets}
    if len(by_name) == len(query_sets) and set(by_name) <= {each.name for each in index_sets}:
        return [replace(each, items=by_name.get(each.name, [])) for each in index_sets]
    if len(query_sets) != len(index_sets):
        raise BadInput(
            f"expected one --queries for every --index, got {[each.name for each in query_sets]} for "
            f"{[each.name for each in index_sets]}"
        )
    return [replace(index, items=query.items) for query, index in zip(query_sets, index_sets, strict=True)]


def _all_rejects(indexed: Embedded, queried: Embedded) -> list[tuple[str, str, str]]:
    return indexed.rejects if queried is indexed else [*indexed.rejects, *queried.rejects]
