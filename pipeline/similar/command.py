"""STAGE  guie similar: the images most similar to one.

guie similar train  CONFIG [KEY=VALUE …]             triplet loss, set after set → run_dir/embedder.npz, mAP@k
guie similar search CONFIG [IMAGE …] [KEY=VALUE …]   top 5 of the index for each image (or each of `queries`)

Methods: `embedder` (trained by `train`), `features` (the encoder's own), `classify` (classify first, then the
nearest features within the likeliest classes). With crop.detector every picture is cut to its main object first.
`search` writes a picture a query, similar.html with all of them, neighbours.csv and, for labelled queries, mAP@1, 3
and 5 in metrics.json.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.config import to_yaml
from pipeline.data.sources import check_shared_names, list_images
from pipeline.errors import BadInput
from pipeline.retrieval.metrics import map_at_k
from pipeline.retrieval.search import nearest
from pipeline.retrieval.vectors import class_means
from pipeline.similar import classifiers, train
from pipeline.similar.config import CLASS_MEANS, Similar
from pipeline.similar.crop import Detector
from pipeline.similar.embedding_store import Stored, embed_all
from pipeline.similar.page import Found, neighbour_rows, write_pictures
from pipeline.similar.train import Vectors
from tfrecords.sources import Item, read_file

MAP_AT = (1, 3, 5)


@dataclass(frozen=True)
class Command:
    action: str
    config: Similar
    images: list[str]


def main(command: Command) -> None:
    config = command.config
    if command.action == "search":
        if not config.index:
            raise BadInput(
                "index: expected at least one source of images to search in, such as {layout: folder, …}"
            )
        check_shared_names(config.index, config.queries)
    for path in command.images:
        if not Path(path).is_file():
            raise BadInput(f"expected an image file, {path} does not exist")
    files.write_text(Path(config.run_dir) / "config.yaml", to_yaml(config))
    print(f"similar {command.action}: {config.encoder.name} → {config.run_dir}", flush=True)
    if command.action == "train":
        train.train(config.encoder, config.embedding_dim, config.seed, config.triplets, config.data_root,
                            Path(config.run_dir), config.batch_size)  # fmt: skip
    else:
        search(config, command.images)


def search(config: Similar, paths: list[str]) -> None:
    """Finds, pictures and, where the queries are labelled, scores."""
    run_dir = Path(config.run_dir)
    index_images, names = list_images(config.index, config.data_root)
    if paths:
        queries = [Item(path, "", _reader(path)) for path in paths]
    elif config.queries:
        queries, more = list_images(config.queries, config.data_root)
        names = {**more, **names}
    else:
        queries = index_images
    vectors = Vectors(config.encoder, config.embedding_dim, config.seed, run_dir, config.method == "embedder")
    detector = Detector(config.crop) if config.crop.detector else None
    folder = run_dir / "embedded"

    def stored(images: Sequence[Item], what: str) -> Stored:
        kept = embed_all(images, vectors.embed, vectors.made_by, folder, detector, config.batch_size, what)
        return replace(kept, vectors=vectors.finish(kept.vectors))

    indexed = stored(index_images, "similar: index")
    queried = indexed if queries is index_images else stored(queries, "similar: queries")
    if paths and queried.rejects:
        raise BadInput(f"{queried.rejects[0][0]}: {queried.rejects[0][1]}")
    if not indexed.images or not queried.images:
        raise BadInput(f"no image could be read, such as {(indexed.rejects + queried.rejects)[0]}")
    _write_csv(run_dir / "rejects.csv", [("key", "reason"), *indexed.rejects, *queried.rejects])
    allowed = (
        _allowed(config, indexed, queried, names, folder, detector) if config.method == "classify" else None
    )
    found = neighbours(indexed, queried, config.neighbours, allowed)
    _write_csv(run_dir / "neighbours.csv", neighbour_rows(indexed, queried, found, names))
    shown = range(len(queried.images) if paths else min(config.pictures, len(queried.images)))
    page = write_pictures(run_dir, indexed, queried, found, names, shown, labelled=not paths)
    if not paths:
        metrics = score(indexed, queried, found)
        files.write_json(run_dir / "metrics.json", {"method": config.method, **metrics})
        line = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("mAP"))
        print(
            f"similar search: {line} of {len(queried.images):,} queries among {len(indexed.images):,} images"
        )
    else:
        for place, image in enumerate(queried.images):
            print(
                f"\n{image.key}" + (f"  ({', '.join(found[place].classes)})" if found[place].classes else "")
            )
            for row, distance in zip(found[place].rows, found[place].distances, strict=True):
                hit = indexed.images[row]
                print(f"  {distance:.3f}  {names.get(hit.class_name, hit.class_name):<28} {hit.key}")
    print(f"similar search: {len(shown)} queries with their top {config.neighbours} → {page}")


def neighbours(indexed: Stored, queried: Stored, k: int, allowed: "Allowed | None" = None) -> list[Found]:
    """The k nearest images of the index for every query, itself left out (by its key).

    Args:
        allowed: restricts each query to the index images of its likeliest classes; fewer than k may come.
    """
    results: list[Found | None] = [None] * len(queried.images)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in range(len(queried.images)):
        groups.setdefault(tuple(allowed.of_queries[row]) if allowed else (), []).append(row)
    for classes, rows in groups.items():
        among = (
            np.flatnonzero(np.isin(allowed.of_index, classes)) if allowed else np.arange(len(indexed.images))
        )
        ids, distances = nearest(queried.vectors[rows], indexed.vectors[among], k + 1)
        for place, row in enumerate(rows):
            hits = [
                (int(among[hit]), float(distance))
                for hit, distance in zip(ids[place], distances[place], strict=True)
                if hit >= 0 and indexed.images[among[hit]].key != queried.images[row].key
            ][:k]
            named = [allowed.names[each] for each in classes] if allowed else []
            results[row] = Found([hit for hit, _ in hits], [distance for _, distance in hits], named)
    return [result for result in results if result is not None]


def score(indexed: Stored, queried: Stored, found: Sequence[Found]) -> dict[str, float]:
    """mAP@1, 3 and 5 by `metrics.map_at_k`'s definition; a query without a match in the index scores 0."""
    most = max(MAP_AT)
    hits = np.zeros((len(found), most), bool)
    counts: dict[str, int] = {}
    for image in indexed.images:
        counts[image.class_name] = counts.get(image.class_name, 0) + 1
    keys = {image.key for image in indexed.images}
    matches = np.zeros(len(found), np.int64)
    for row, (image, result) in enumerate(zip(queried.images, found, strict=True)):
        matches[row] = counts.get(image.class_name, 0) - (image.key in keys)
        for rank, hit in enumerate(result.rows[:most]):
            hits[row, rank] = indexed.images[hit].class_name == image.class_name
    if not matches.any():
        raise BadInput("no query has an image of its class in the index: expected the same classes in both")
    scores: dict[str, float] = {f"mAP@{k}": map_at_k(hits, matches, k) for k in MAP_AT}
    return {**scores, "queries": len(found), "index": len(indexed.images)}


@dataclass(frozen=True)
class Allowed:
    """What `classify` says: of_queries int [Q, n], of_index int [N], names of the classes."""

    of_queries: np.ndarray
    of_index: np.ndarray
    names: Sequence[str]


def _allowed(
    config: Similar,
    indexed: Stored,
    queried: Stored,
    names: dict[str, str],
    folder: Path,
    detector: Detector | None,
) -> Allowed:
    wanted = config.classifier.top_classes
    if config.classifier.name == CLASS_MEANS:
        known = sorted({image.class_name for image in indexed.images})
        place = {name: number for number, name in enumerate(known)}
        of_index = np.array([place[image.class_name] for image in indexed.images])
        means = class_means(indexed.vectors, of_index).astype(np.float32)
        of_queries = classifiers.by_class_means(queried.vectors, means, wanted)
        return Allowed(of_queries, of_index, [names.get(name, name) for name in known])
    classify, outputs = classifiers.load(config.classifier)
    labels = classifiers.label_map(Path(config.classifier.labels), outputs)
    made_by = [vars(config.classifier), _stamp(config.classifier.name)]

    def likeliest(stored: Stored, what: str) -> np.ndarray:
        def best(images: list[np.ndarray]) -> np.ndarray:
            return classifiers.top_outputs(classify(images), wanted).astype(np.float32)

        return embed_all(
            stored.images, best, made_by, folder, detector, config.batch_size, what
        ).vectors.astype(np.int64)

    of_index = likeliest(indexed, "similar: classes of the index")[:, 0]
    of_queries = (
        of_index[:, None] if queried is indexed and wanted == 1 else likeliest(queried, "similar: classes")
    )
    return Allowed(of_queries, of_index, labels)


def _reader(path: str):
    return lambda: read_file(path)


def _stamp(name: str) -> list[int]:
    path = Path(name.partition(":")[2])
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else []


def _write_csv(path: Path, rows: Sequence[Sequence]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write_text(path, text.getvalue())
