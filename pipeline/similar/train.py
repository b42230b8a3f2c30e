"""`guie similar train`: an embedder under triplet loss, set after set (MNIST → CIFAR-10 → CIFAR-100).

embedder.npz         the state: weights, optimizer and how far training has come, after every epoch
train_metrics.json   mAP@1, 3 and 5 of each set's validation images, before and after it
train_rejects.csv    images of each set that are left out, and why
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.config import ImageSource
from pipeline.console import Progress, table
from pipeline.data.preprocessing import prepare_all
from pipeline.data.sources import list_images, read_decoded
from pipeline.errors import BadInput
from pipeline.retrieval.metrics import map_at_k, neighbour_hits
from pipeline.retrieval.search import nearest
from pipeline.retrieval.vectors import unit_length
from pipeline.similar.config import MAP_AT, Similar
from pipeline.similar.embedder import STATE, Embedder, embed_images
from pipeline.similar.triplets import Trainer, class_batches
from tfrecords import pixels
from tfrecords.sources import Item

METRICS = "train_metrics.json"
REJECTS = "train_rejects.csv"  # not rejects.csv, which is the search's, in the same folder


@dataclass(frozen=True)
class LabelledImages:
    """Images that could be read."""

    items: list[Item]
    labels: np.ndarray  # int64 [N], the classes in order of name
    # float32 [N, width], unit length, of the frozen encoder; None: it is trained, and pixels are read
    features: np.ndarray | None


def train(config: Similar) -> None:
    """Trains on each set in turn. A run that was killed goes on after its last whole epoch."""
    triplets, run_dir = config.triplets, Path(config.run_dir)
    if not triplets.sets:
        raise BadInput("triplets.sets: expected at least one set with train and validation sources")
    embedder = Embedder(config.encoder, config.embedding_dim, config.seed)
    trained = embedder.head if triplets.trainable == "head" else embedder.model
    trainer = Trainer(trained, run_dir / STATE, embedder.identity + triplets.trainable, triplets)
    last_set, epochs_of_last = trainer.restore()
    rows: dict[str, dict[str, Any]] = {}  # of train_metrics.json, by set
    if (run_dir / METRICS).exists() and (last_set or epochs_of_last):
        rows = {row["set"]: row for row in files.read_json(run_dir / METRICS)["sets"]}
    for index, part in enumerate(triplets.sets):
        row = rows.get(part.name, {})
        epochs_done = epochs_of_last if index == last_set else 0
        if index < last_set or (epochs_done >= part.epochs and row.get("after")):
            print(f"similar train: {part.name} is done", flush=True)
            continue
        rejects: list[tuple[str, str]] = []
        images = _read_images(embedder, part.train, part.name, config, rejects)
        validation = _read_images(embedder, part.validation, f"{part.name}, validation", config, rejects)
        _write_rejects(run_dir / REJECTS, part.name, rejects)
        row = {"set": part.name, "images": len(images.items), "before": row.get("before"), "after": None}
        if epochs_done == 0:
            row["before"] = validate(embedder, validation, config.batch_size)
        rows[part.name] = row
        # Written before training too: a resumed run finds `before` here.
        files.write_json(run_dir / METRICS, {"sets": list(rows.values())})
        for epoch in range(epochs_done, part.epochs):
            seed = int(files.fingerprint([config.seed, index, epoch]), 16) % 2**32
            batches = class_batches(images.labels, triplets.classes_a_batch, triplets.images_a_class, seed)
            what = f"similar train: {part.name}, epoch {epoch + 1} of {part.epochs}"
            loss = train_epoch(trainer, embedder, images, batches, what)
            trainer.save(index, epoch + 1)
            print(f"{what}: loss {loss:.4f}", flush=True)
        row["after"] = validate(embedder, validation, config.batch_size)
        files.write_json(run_dir / METRICS, {"sets": list(rows.values())})
    print(_table(list(rows.values())))
    last = triplets.sets[-1].name
    print(f"similar train: {last} mAP@5 {rows[last]['after']['mAP@5']:.4f} → {run_dir / STATE}")


def train_epoch(
    trainer: Trainer, embedder: Embedder, images: LabelledImages, batches: Sequence[np.ndarray], what: str
) -> float:
    """Trains on every batch of rows. Returns the mean loss. Raises BadInput: the loss is no longer finite."""
    progress = Progress(what, sum(map(len, batches)), "images")
    losses: list[float] = []
    for rows in batches:
        losses.append(float(trainer.step(_inputs(embedder, images, rows), images.labels[rows])))
        if not np.isfinite(losses[-1]):
            raise BadInput(f"{what}: the loss is {losses[-1]} at step {len(losses)}: lower the learning rate")
        progress.add(len(rows), f"loss {np.mean(losses[-50:]):.4f}")
    return float(np.mean(losses))


def validate(embedder: Embedder, images: LabelledImages, batch_size: int) -> dict[str, float]:
    """mAP@k, every image against all others."""
    if images.features is not None:
        embedded = embedder.head(images.features, training=False).numpy()
    else:
        every = np.arange(len(images.items))
        batches = (every[start : start + batch_size] for start in range(0, len(every), batch_size))
        embedded = np.concatenate(
            [embedder.model(_inputs(embedder, images, rows), training=False).numpy() for rows in batches]
        )
    return map_scores(unit_length(embedded), images.labels)


def map_scores(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """mAP@1, 3 and 5 of unit vectors [N, D], every row against all others. labels: int64 [N]."""
    ids, _ = nearest(vectors, vectors, max(MAP_AT), leave_one_out=True)
    hits, matches = neighbour_hits(ids, labels, labels, leave_one_out=True)
    return {f"mAP@{k}": map_at_k(hits, matches, k) for k in MAP_AT}


def _inputs(embedder: Embedder, images: LabelledImages, rows: np.ndarray) -> np.ndarray:
    """What the trained model sees of some images: features [B, width], or prepared pixels [B, S, S, 3]."""
    if images.features is not None:
        return images.features[rows]
    pictures = [pixels.read(images.items[row].read()) for row in rows]
    return prepare_all(pictures, embedder.encoder.preprocess).numpy()


def _read_images(
    embedder: Embedder, sources: Sequence[ImageSource], name: str, config: Similar, rejects: list[tuple[str, str]]
) -> LabelledImages:
    """Lists and reads once, so that no epoch meets a broken image; (key, reason) of those goes to `rejects`."""
    listed, _ = list_images(sources, config.data_root)
    features = None
    if config.triplets.trainable == "head":
        what = f"features of {name}"
        stored = embed_images(listed, embedder, None, Path(config.run_dir), config.batch_size, what)
        items, features = stored.images, stored.vectors
        rejects.extend(stored.rejects)
    else:
        items = []
        progress = Progress(f"similar train: reading {name}", len(listed), "images")
        for row, picture, why in read_decoded(listed):
            if picture is None:
                rejects.append((listed[row].key, why))
            else:
                items.append(listed[row])
            progress.add(1)
    if not items:
        raise BadInput(f"none of the {len(listed):,} images of {name} could be read, such as {rejects[-1]}")
    labels = np.unique([item.class_name for item in items], return_inverse=True)[1].astype(np.int64)
    return LabelledImages(items, labels, features)


def _write_rejects(path: Path, name: str, rejects: Sequence[tuple[str, str]]) -> None:
    """Replaces the rows of the set `name`."""
    others: list[list[str]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            others = [row for row in list(csv.reader(file))[1:] if row[0] != name]
    files.write_csv(path, ["set", "key", "reason"], [*others, *([name, *reject] for reject in rejects)])


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = [f"mAP@{k}" for k in MAP_AT]
    scored = [(row["set"], when, row[when]) for row in rows for when in ("before", "after") if row[when]]
    return table(
        ["set", "", *names],
        [[name, when, *(f"{scores[each]:.4f}" for each in names)] for name, when, scores in scored],
        left=2,
    )
