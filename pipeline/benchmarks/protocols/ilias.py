"""ILIAS's protocol: mAP@1k of the image queries, by exact inner product over positives and distractors.

Queries and positives are those of the authors' lists, whole images. The distractors are the vectors in a folder, or
are embedded out of the tars of yfcc100m, a store a tar. The core alone, without any, stands beside them: it is easy,
and no figure of the paper.

Source: Kordopatis-Zilos et al., ILIAS: Instance-Level Image retrieval At Scale, CVPR 2025, and its code.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks import results
from pipeline.benchmarks.ilias import hdf5, truth
from pipeline.benchmarks.ilias import results as files_of_results
from pipeline.benchmarks.ilias.database import Database, Listed, distractors
from pipeline.benchmarks.ilias.ranking import Answers, Queries, asked, measure, rank
from pipeline.benchmarks.results import Mode
from pipeline.benchmarks.table import Part
from pipeline.benchmarks.work import Work
from pipeline.errors import BadInput
from pipeline.retrieval.large import Neighbours
from pipeline.vectors.store import Vectors, open_store
from tfrecords.benchmarks import ilias as layout
from tfrecords.listing.unzipped import escaped

TARS = "yfcc100m"
IMAGES = "image queries"
NONE, MINI, FULL = "none", "mini", "distractors"
TAR_MARK = "tar.json"
FILE_ROWS = 1_000_000  # of a file of distractors, as the authors write them
PUBLISHED = {5_000_000: "5M distractors", 100_000_000: "100M distractors"}
GROUPS: Mapping[str, Sequence[float]] = {"scale": truth.SCALES, "clutter": truth.CLUTTERS}
ORACLE = "oracle: the share of its positives that a query has among the first 1,000"
GROUPED = "of the positives of a group: the object's others are taken out of the ranking"
TEXT_LEFT_OUT = "text queries are left out: features_text_queries.hdf5 beside the others would be asked, too"


def score(work: Work) -> list[Mode]:
    """Image queries in the whole database and in the core alone, then by scale and clutter of the positives.

    Writes similarities.json and similarities.pkl, as the authors' evaluation reads them.
    """
    lists = truth.read(work.root)
    image_queries, positives = (work.store(part) for part in work.parts)
    queries, answers = asked(lists.image_queries, image_queries), Answers(lists, positives)
    database = Database([positives, *_distractors(work, positives)])
    core, whole = rank(queries, database, kept=_kept(work, "ilias"))
    ids = database.ids_of(np.unique(whole.rows))
    files_of_results.write(work.out, queries.ids, whole.rows, whole.similarities, ids)
    work.notes += _notes(queries, answers, database)
    modes = [_mode(IMAGES, answers, queries, whole, database)]
    if database.count > positives.count:
        modes.append(_mode(IMAGES, answers, queries, core, Database([positives])))
    modes += _texts(work, lists, answers, database)
    groups = [
        Mode(name, {of: results.row({measure(): aps}, database.count) for of, aps in found.items()}, note=GROUPED)
        for name, limits in GROUPS.items()
        if (found := answers.by_group(queries.ids, whole, name, limits))
    ]
    return [*modes, *groups]


def _kept(work: Work, name: str) -> Path:
    """The file of a search; mini-ILIAS has its own, so that it does not cost what 100 million have taken."""
    return work.out / "search" / f"{name}{'-mini' * work.mini}.npz"


def _mode(what: str, answers: Answers, queries: Queries, ranking: Neighbours, database: Database) -> Mode:
    """A table of one row, under what its database has beside the positives."""
    count = database.count - database.parts[0].count
    title = PUBLISHED.get(count, f"{count:,} distractors" if count else "core alone")
    row = results.row(answers.scores(queries.ids, ranking), database.count)
    return Mode(title, {what: row}, note=f"exact over {database.stored_as} vectors; {ORACLE}")


def _texts(work: Work, lists: truth.Truth, answers: Answers, database: Database) -> list[Mode]:
    """Text queries, where the authors' features have them."""
    path = work.features and hdf5.path_of(work.features, hdf5.TEXTS)
    if not path or not path.is_file() or not lists.text_queries:
        work.notes.append(TEXT_LEFT_OUT)
        return []
    queries = asked(lists.text_queries, hdf5.Features(path))
    _, whole = rank(queries, database, kept=_kept(work, "ilias-text"))
    return [_mode("text queries", answers, queries, whole, database)]


def _distractors(work: Work, positives: Vectors) -> list[Vectors]:
    """Of the folder that the command names, of the features' folder, or embedded out of the tars below the root."""
    if work.distractors == NONE:
        return []
    name = MINI if work.mini else FULL
    if work.distractors:
        found = distractors(Path(work.distractors), positives.fingerprint)
    elif work.features is None:
        return [_embedded(work, tar, name, positives) for tar in sorted((work.root / TARS).glob("*.tar"))]
    else:
        folder = work.features / "vectors" if (work.features / "vectors").is_dir() else work.features
        if positives.fingerprint:  # stores, not the authors' files
            folder = folder / name if (folder / name).is_dir() else folder / FULL
        found = distractors(folder, positives.fingerprint, needed=False)
    if not work.mini:
        return found
    listed = layout.read_keys(layout.find_list(work.root, layout.MINI))
    return [Listed(part, listed) for part in found]


def _embedded(work: Work, tar: Path, name: str, positives: Vectors) -> Vectors:
    """The store of a tar; of one that is whole the tar's headers are not read again, which takes minutes."""
    part = Part(f"{name}/{tar.stem}", {"split": "distractors", "mini": work.mini, "tars": tar.name})
    folder = work.out / "vectors" / part.name
    ids = files.identity(layout.find_list(work.root, layout.MINI)) if work.mini else ""
    made_of = {"tar": files.identity(tar), "ids": ids}
    with contextlib.suppress(BadInput):
        if files.read_json(folder / TAR_MARK) == made_of:
            store = open_store(folder)
            if (store.fingerprint, store.dtype) == (positives.fingerprint, positives.dtype):
                return store
    found = work.store(part)
    files.write_json(folder / TAR_MARK, made_of)
    return found


def _notes(queries: Queries, answers: Answers, database: Database) -> list[str]:
    """What the numbers do not say of themselves."""
    notes = []
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


def export(folder: Path, work: Work) -> None:
    """Writes the vectors in the form of the authors' features, which their search reads: float16."""
    image_queries, positives = (work.store(part) for part in work.parts)
    for name, part in ((hdf5.QUERIES, image_queries), (hdf5.POSITIVES, positives)):
        blocks = (block for _, block in part.blocks())
        hdf5.write(hdf5.path_of(folder, name), _ids(part), blocks, part.dim)
    found = _distractors(work, positives)
    ids = (each for part in found for each in _ids(part))
    blocks = (block for part in found for _, block in part.blocks())
    for number, of_file in enumerate(_cut(blocks, FILE_ROWS)):
        hdf5.write(hdf5.distractor_path(folder, number), islice(ids, FILE_ROWS), of_file, positives.dim)
    count = sum(part.count for part in found)
    print(f"bench: {folder}: ILIAS's features of queries, positives and {count:,} distractors")


def _ids(part: Vectors) -> Iterator[str]:
    return (escaped(row.key) for row in part.items())


def _cut(blocks: Iterable[np.ndarray], rows: int) -> Iterator[Iterator[np.ndarray]]:
    """Blocks [n, D] as several iterators of blocks, each of `rows` rows in all; each is used up before the next."""
    rest = np.zeros(0)
    stream = (block for block in blocks if len(block))

    def of_one() -> Iterator[np.ndarray]:
        nonlocal rest
        wanted = rows
        while wanted and len(rest):
            block, rest = rest[:wanted], rest[wanted:]
            wanted -= len(block)
            if not len(rest):
                rest = next(stream, rest)
            yield block

    rest = next(stream, rest)
    while len(rest):
        yield of_one()
