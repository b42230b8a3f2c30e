"""ILIAS's protocol: mAP@1k of the image queries, by exact inner product over positives and distractors.

Queries and positives are those of the authors' lists, whole images. The distractors are the vectors in a folder, or
are embedded out of the tars of yfcc100m, a store a tar. The core alone, without any, stands beside them: it is easy,
and no figure of the paper.

Source: Kordopatis-Zilos et al., ILIAS: Instance-Level Image retrieval At Scale, CVPR 2025, and its code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.benchmarks import results
from pipeline.benchmarks.ilias import hdf5, truth
from pipeline.benchmarks.ilias import results as files_of_results
from pipeline.benchmarks.ilias.database import Database, Listed, Vectors, distractors, read_ids
from pipeline.benchmarks.ilias.ranking import Answers, Asked, Ranking, asked, measure, rank
from pipeline.benchmarks.results import Mode, Row
from pipeline.benchmarks.table import Part
from pipeline.benchmarks.work import Work

TARS, MINI_IDS = "yfcc100m", "mini_ilias_yfcc100m_ids.txt"
NONE = "none"
PUBLISHED = {5_000_000: "5M distractors", 100_000_000: "100M distractors"}
GROUPS: Mapping[str, Sequence[float]] = {"scale": truth.SCALES, "clutter": truth.CLUTTERS}
TEXT_LEFT_OUT = "text queries are left out: features_text_queries.hdf5 beside the others would be asked, too"


def score(work: Work) -> list[Mode]:
    """Image queries in the whole database and in the core alone, then by scale and clutter of the positives.

    Writes similarities.json and similarities.pkl, as the authors' evaluation reads them.
    """
    lists = truth.read(work.root)
    image_queries, positives = (work.store(part) for part in work.parts)
    queries, answers = asked(lists.image_queries, image_queries), Answers(lists, positives)
    database = Database([positives, *_distractors(work, positives)])
    core, whole = rank(queries, database, kept=work.out / "search" / "ilias.npz")
    ids = database.ids_of(np.unique(whole.rows))
    files_of_results.write(work.out, queries.ids, whole.rows, whole.similarities, ids)
    work.notes += _notes(lists, queries, answers, database)
    sizes = dict.fromkeys([database.count, positives.count])  # the core once, where it is all there is
    rows = {
        _database(size - positives.count): _row(answers, queries, whole if size == database.count else core, size)
        for size in sizes
    }
    rows.update(_texts(work, lists, answers, database))
    groups = [
        Mode(name, {bounds: results.row({measure(): aps}, database.count) for bounds, aps in found.items()})
        for name, limits in GROUPS.items()
        if (found := answers.by_group(queries.ids, whole, name, limits))
    ]
    return [Mode("database", rows, note=f"exact over {database.stored_as} vectors"), *groups]


def _database(distractors: int) -> str:
    return PUBLISHED.get(distractors, f"{distractors:,} distractors" if distractors else "core alone")


def _row(answers: Answers, queries: Asked, ranking: Ranking, size: int) -> Row:
    return results.row(answers.scores(queries.ids, ranking), size)


def _texts(work: Work, lists: truth.Truth, answers: Answers, database: Database) -> dict[str, Row]:
    """The row of the text queries, where the authors' features have them."""
    path = work.features and hdf5.path_of(work.features, hdf5.TEXTS)
    if not path or not path.is_file() or not lists.text_queries:
        work.notes.append(TEXT_LEFT_OUT)
        return {}
    queries = asked(lists.text_queries, hdf5.Features(path))
    _, whole = rank(queries, database, kept=work.out / "search" / "ilias-text.npz")
    return {"text queries": _row(answers, queries, whole, database.count)}


def _distractors(work: Work, positives: Vectors) -> list[Vectors]:
    """Of the folder that the command names, of the features' folder, or embedded out of the tars below the root."""
    if work.distractors == NONE:
        return []
    listed = read_ids(_ids_path(work.root)) if work.mini else None
    if work.distractors or work.features:
        folder = Path(work.distractors or work.features)
        found = distractors(folder, getattr(positives, "fingerprint", ""), needed=bool(work.distractors))
        return [Listed(part, listed) for part in found] if listed is not None else found
    tars = sorted((work.root / TARS).glob("*.tar"))
    name = "mini" if work.mini else "distractors"
    return [
        work.store(Part(f"{name}/{tar.stem}", {"split": "distractors", "mini": work.mini, "tars": tar.name}))
        for tar in tars
    ]


def _ids_path(root: Path) -> Path:
    return next((path for path in (root / truth.LISTS / MINI_IDS, root / MINI_IDS) if path.exists()), root / MINI_IDS)


def _notes(lists: truth.Truth, queries: Asked, answers: Answers, database: Database) -> list[str]:
    """What the numbers do not say of themselves."""
    notes = lists.caveats()
    if queries.missing:
        notes.append(f"{len(queries.missing):,} queries without a vector find nothing, such as {queries.missing[0]}")
    if queries.unknown:
        notes.append(f"{queries.unknown:,} vectors of queries that are not listed are not asked")
    if answers.missing:
        notes.append(
            f"{len(answers.missing):,} positives without a vector are never found, such as {answers.missing[0]}"
        )
    if len(database.parts) == 1:
        notes.append("the core alone: without distractors it is no figure of the paper")
    return notes
