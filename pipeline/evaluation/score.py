"""COMMAND  embedder + labelled images → mean Precision@5.

guie score EMBEDDER --index DATA [--index DATA …] [--queries DATA …] [--out metrics.json]
guie score EMBEDDINGS --solution solution.csv

Without --queries every image queries all others. Several --index merge into one index; the table then gives each
domain (searched in its own index) and the whole (searched in the merged one), each with its 95 % interval, and what
the embedder is ahead of each reference, with the interval over the same queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.errors import BadInput
from pipeline.evaluation import embedders, precisions, score_table, solution
from pipeline.evaluation.embed import Embedded, embed_sets
from pipeline.evaluation.precisions import EMBEDDER, Precisions
from pipeline.evaluation.scored import BOTH, INDEX, QUERY, Scored, open_sets
from pipeline.retrieval.precisions import precisions as query_precisions
from pipeline.retrieval.search import nearest

EXAMPLES = 12  # queries whose neighbours are kept for the report


@dataclass(frozen=True)
class Options:
    embedder: str
    index: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    out: str = ""
    batch_size: int = 64
    solution: str = ""
    trust: bool = False  # load an embedder that reaches files, the network or Python


def main(options: Options) -> None:
    if options.solution:
        result = solution.score(options.embedder, options.solution)
    else:
        if not options.index:
            raise BadInput("expected at least one --index DATA: a folder of class folders, shards, or LAYOUT:ROOT")
        submission = embedders.load(options.embedder, options.trust)
        for warning in submission.warnings:
            print(f"score: warning: {options.embedder} {warning}")
        print(f"score: {options.embedder} ({submission.embedding_dim} dimensions) on {', '.join(options.index)}")
        result, _, _ = score(submission, options.index, options.queries, options.batch_size)
    if options.out:
        files.write_json(Path(options.out), result)
    print(f"score: {score_table.headline(result)}" + (f" → {options.out}" if options.out else ""))


def score(
    submission: embedders.Submission,
    index: list[str],
    queries: list[str],
    batch_size: int,
    references=None,
    left_out: Sequence[str] = (),
    classes_trained_on: int | None = None,
) -> tuple[dict, Precisions, Scored]:
    """The whole of `guie score`: embeds, searches, prints the table.

    Args:
        index, queries: DATA; without queries every image of the index queries all others.
        references: None, or further rows to compute from the same images, see references.py.
        left_out: domains that nothing was trained on; the others' classes then get a row of their own.
        classes_trained_on: how many of the scored classes were; None: not known.

    Returns:
        What metrics.json holds; the precisions that it was computed from; the images and their vectors.

    Raises:
        BadInput: as `data.sources.open_data`; a --queries without its --index; no image that has a match.
    """
    leave_one_out = not queries
    index_sets, query_sets = open_sets(index, queries)
    labels: dict[tuple[str, str], int] = {}
    indexed = embed_sets(submission, index_sets, batch_size, "score: index", labels, references)
    queried = indexed
    if not leave_one_out:
        queried = embed_sets(submission, query_sets, batch_size, "score: queries", labels, references)
    if not len(queried.labels) or not len(indexed.labels):
        raise BadInput("no image could be read: nothing to score")
    if not np.isin(queried.labels, indexed.labels).any() or (
        leave_one_out and len(np.unique(indexed.labels)) == len(indexed.labels)
    ):
        raise BadInput("no query has an image of its class in the index: expected classes with at least two images")
    found = measure(queried, indexed, leave_one_out, left_out)
    index_sizes = np.bincount(indexed.domains, minlength=len(indexed.names)).tolist()
    classes = {name: _classes(queried, indexed, group) for name, group in groups(indexed.names, left_out).items()}
    rejects = indexed.rejects if leave_one_out else [*indexed.rejects, *queried.rejects]
    result = {
        **precisions.scores(found, dict(zip(indexed.names, index_sizes, strict=True)), left_out, classes),
        "classes_trained_on": classes_trained_on,
        "embedding_dim": submission.embedding_dim,
        "leave_one_out": leave_one_out,
        "examples": _examples(queried, indexed, leave_one_out),
        "embedder": submission.fingerprint,
        "rejects": [dict(zip(("domain", "key", "reason"), reject, strict=True)) for reject in rejects],
    }
    print(score_table.text(result))
    parts = [(indexed, BOTH)] if leave_one_out else [(indexed, INDEX), (queried, QUERY)]
    human = {each.class_of(name): said for each in index_sets for name, said in each.names.items()}
    return result, found, _scored(parts, [human.get(class_id, class_id[1]) for class_id in labels])


def measure(queried: Embedded, indexed: Embedded, leave_one_out: bool, left_out: Sequence[str]) -> Precisions:
    """The precision of every query: in its own domain's index, among the unseen classes, in the whole."""
    found: Precisions = {}
    by_domains: dict[tuple[int, ...], dict[str, np.ndarray]] = {}  # of one domain, a merged index is its own
    for group, domains in groups(indexed.names, left_out).items():
        if tuple(domains) not in by_domains:
            of_queries, of_index = (np.isin(each.domains, domains) for each in (queried, indexed))
            by_domains[tuple(domains)] = rows = {}
            for row in indexed.vectors:
                index = indexed.vectors[row][of_index], indexed.labels[of_index]
                queries = queried.vectors[row][of_queries], queried.labels[of_queries]
                rows[row] = query_precisions(index, None if leave_one_out else queries)
        found[group] = by_domains[tuple(domains)]
    return found


def groups(names: list[str], left_out: Sequence[str]) -> dict[str, list[int]]:
    """Group of `precisions` → the numbers of its domains.

    There are unseen classes apart from the whole where some, not all of the domains are left out.
    """
    found = {precisions.of_domain(name): [number] for number, name in enumerate(names)}
    trained = [number for number, name in enumerate(names) if name not in left_out]
    if 0 < len(trained) < len(names):
        found[precisions.UNSEEN] = trained
    return {**found, precisions.WHOLE: list(range(len(names)))}


def _classes(queried: Embedded, indexed: Embedded, domains: list[int]) -> tuple[int, int]:
    """Classes of the queries and of the index of these domains."""
    of_queries, of_index = (len(np.unique(e.labels[np.isin(e.domains, domains)])) for e in (queried, indexed))
    return of_queries, of_index


def _scored(parts: list[tuple[Embedded, str]], class_names: list[str]) -> Scored:
    """The images of the embedded sets, each with its role. `class_names`: by label."""
    labels = np.concatenate([each.labels for each, _ in parts])
    return Scored(
        np.concatenate([each.vectors[EMBEDDER] for each, _ in parts]),
        [key for each, _ in parts for key in each.keys],
        [class_names[label] for label in labels.tolist()],
        [each.names[domain] for each, _ in parts for domain in each.domains.tolist()],
        [role for each, role in parts for _ in each.keys],
        labels,
    )


def _examples(queried: Embedded, indexed: Embedded, leave_one_out: bool) -> list[dict]:
    """A few queries with their five neighbours in the merged index, for people to look at."""
    rows = np.unique(np.linspace(0, len(queried.labels) - 1, EXAMPLES).astype(int))
    queries, index = queried.vectors[EMBEDDER][rows], indexed.vectors[EMBEDDER]
    found, distances = nearest(queries, index, 5, leave_one_out and rows)
    examples = []
    for row, ids, near in zip(rows.tolist(), found.tolist(), distances.tolist(), strict=True):
        neighbours = [
            {
                "domain": indexed.names[indexed.domains[i]],
                "key": indexed.keys[i],
                "distance": round(distance, 4),
                "match": bool(indexed.labels[i] == queried.labels[row]),
            }
            for i, distance in zip(ids, near, strict=True)
            if i >= 0
        ]
        domain = queried.names[queried.domains[row]]
        examples.append({"domain": domain, "key": queried.keys[row], "neighbours": neighbours})
    return examples
