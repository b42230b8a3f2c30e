"""`guie similar search`: the nearest index images of every query, pictures of them, and mAP of labelled queries."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.console import table
from pipeline.data.array_cache import ArrayCache
from pipeline.data.image_cache import cache_images
from pipeline.data.sources import list_images
from pipeline.errors import BadInput
from pipeline.retrieval.metrics import map_at_k
from pipeline.retrieval.search import nearest
from pipeline.retrieval.vectors import class_means
from pipeline.similar import classifiers
from pipeline.similar.config import CLASS_MEANS, MAP_AT, Similar
from pipeline.similar.crop import Detector, crop_image
from pipeline.similar.embedder import CACHE, STATE, Embedder, Stored, embed_images
from pipeline.similar.page import Found, neighbour_rows, write_pictures
from tfrecords.sources import Item, read_file


@dataclass(frozen=True)
class LikelyClasses:
    """What `classify` says."""

    of_queries: np.ndarray  # int [Q, n], the likeliest classes of each query, by number
    of_index: np.ndarray  # int [N], the likeliest class of each image
    names: Sequence[str]  # of the classes


def search(config: Similar, paths: list[str]) -> None:
    """Writes neighbours.csv, pictures, similar.html and metrics.json; `paths` are queries instead of the config's."""
    run_dir = Path(config.run_dir)
    index_items, names = list_images(config.index, config.data_root)
    query_items = index_items
    if paths:
        query_items = [Item(path, "", partial(read_file, path)) for path in paths]
    elif config.queries:
        query_items, query_names = list_images(config.queries, config.data_root)
        names = {**query_names, **names}
    trained = run_dir / STATE if config.method == "embedder" else None
    embedder = Embedder(config.encoder, config.embedding_dim, config.seed, trained)
    detector = Detector(config.crop) if config.crop.detector else None
    indexed = embed_images(index_items, embedder, detector, run_dir, config.batch_size, "similar: index")
    queried = indexed
    if query_items is not index_items:
        what = "similar: queries"
        queried = embed_images(query_items, embedder, detector, run_dir, config.batch_size, what)
    rejects = indexed.rejects + queried.rejects
    if paths and queried.rejects:
        key, why = queried.rejects[0]
        raise BadInput(f"{key}: {why}")
    if not indexed.images or not queried.images:
        raise BadInput(f"no image could be read, such as {rejects[0]}")
    files.write_csv(run_dir / "rejects.csv", ("key", "reason"), rejects)
    classes = None
    if config.method == "classify":
        classes = likely_classes(config, indexed, queried, names, detector)
    found = neighbours(indexed, queried, config.neighbours, classes)
    header, *rows = neighbour_rows(indexed, queried, found, names)
    files.write_csv(run_dir / "neighbours.csv", header, rows)
    shown = range(len(queried.images) if paths else min(config.pictures, len(queried.images)))
    page = write_pictures(run_dir, indexed, queried, found, names, shown, labelled=not paths)
    if paths:
        for image, result in zip(queried.images, found, strict=True):
            print(f"\n{image.key}" + (f"  ({', '.join(result.classes)})" if result.classes else ""))
            print(_neighbour_table(indexed, result, names))
    else:
        metrics = score(indexed, queried, found)
        files.write_json(run_dir / "metrics.json", {"method": config.method, **metrics})
        line = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("mAP"))
        print(f"similar search: {line} of {len(queried.images):,} queries among {len(indexed.images):,} images")
    print(f"similar search: {len(shown)} queries with their top {config.neighbours} → {page}")


def neighbours(indexed: Stored, queried: Stored, k: int, classes: LikelyClasses | None = None) -> list[Found]:
    """The k nearest images of the index for every query, without the query itself (by its key).

    `classes`: restricts each query to the index images of its likeliest classes; fewer than k may come.
    """
    found: dict[int, Found] = {}  # by the query's row
    groups: dict[tuple[int, ...], list[int]] = {}  # likeliest classes → rows of the queries
    for row in range(len(queried.images)):
        groups.setdefault(tuple(classes.of_queries[row]) if classes else (), []).append(row)
    for likely, rows in groups.items():
        among = np.arange(len(indexed.images))
        if classes:
            among = np.flatnonzero(np.isin(classes.of_index, likely))
        ids, distances = nearest(queried.vectors[rows], indexed.vectors[among], k + 1)
        for row, row_ids, row_distances in zip(rows, ids, distances, strict=True):
            hits = [
                (int(among[hit]), float(distance))
                for hit, distance in zip(row_ids, row_distances, strict=True)
                if hit >= 0 and indexed.images[among[hit]].key != queried.images[row].key
            ][:k]
            named = [classes.names[each] for each in likely] if classes else []
            found[row] = Found([hit for hit, _ in hits], [distance for _, distance in hits], named)
    return [found[row] for row in range(len(queried.images))]


def score(indexed: Stored, queried: Stored, found: Sequence[Found]) -> dict[str, float]:
    """mAP@1, 3 and 5 by `metrics.map_at_k`; a query without a match in the index scores 0."""
    sizes = Counter(image.class_name for image in indexed.images)
    keys = {image.key for image in indexed.images}
    hits = np.zeros((len(found), max(MAP_AT)), bool)
    matches = np.zeros(len(found), np.int64)
    for row, (image, result) in enumerate(zip(queried.images, found, strict=True)):
        matches[row] = sizes[image.class_name] - (image.key in keys)
        for rank, hit in enumerate(result.rows[: max(MAP_AT)]):
            hits[row, rank] = indexed.images[hit].class_name == image.class_name
    if not matches.any():
        raise BadInput("no query has an image of its class in the index: expected the same classes in both")
    scores: dict[str, float] = {f"mAP@{k}": map_at_k(hits, matches, k) for k in MAP_AT}
    return {**scores, "queries": len(found), "index": len(indexed.images)}


def likely_classes(
    config: Similar, indexed: Stored, queried: Stored, names: dict[str, str], detector: Detector | None
) -> LikelyClasses:
    """The likeliest classes of every image, by the means of the index's classes or by the config's classifier."""
    count = config.classifier.top_classes
    if config.classifier.name == CLASS_MEANS:
        known, of_index = np.unique([image.class_name for image in indexed.images], return_inverse=True)
        means = class_means(indexed.vectors, of_index).astype(np.float32)
        of_queries = classifiers.by_class_means(queried.vectors, means, count)
        return LikelyClasses(of_queries, of_index, [names.get(name, name) for name in known.tolist()])
    classifier = classifiers.load(config.classifier)
    labels = classifiers.label_map(Path(config.classifier.labels), classifier.outputs)
    made_by = ["classes", classifier.made_by, count, detector and detector.made_by]
    cache = ArrayCache(Path(config.run_dir) / CACHE, made_by)

    def compute(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        if detector:
            pictures = [crop_image(picture, detector.find_box(picture)) for picture in pictures]
        return {"classes": classifiers.top_outputs(classifier.scores(pictures), count)}

    def classify(items: list[Item], what: str) -> np.ndarray:  # int64 [N, count]
        return cache.get(cache_images(cache, items, compute, what, config.batch_size).keys)["classes"]

    of_index = classify(indexed.images, "similar: classes of the index")
    of_queries = of_index
    if queried is not indexed:
        of_queries = classify(queried.images, "similar: classes of the queries")
    return LikelyClasses(of_queries, of_index[:, 0], labels)


def _neighbour_table(indexed: Stored, found: Found, names: dict[str, str]) -> str:
    hits = [indexed.images[row] for row in found.rows]
    rows = [
        (names.get(hit.class_name, hit.class_name), hit.key, f"{distance:.3f}")
        for hit, distance in zip(hits, found.distances, strict=True)
    ]
    return table(["class", "image", "distance"], rows, left=2)
