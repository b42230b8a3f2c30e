"""`guie similar train`: an embedder under triplet loss, set after set (MNIST → CIFAR-10 → CIFAR-100)."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline import files
from pipeline.config import Encoder
from pipeline.console import Progress
from pipeline.data.preprocessing import prepare_all
from pipeline.data.sources import list_images, read_decoded
from pipeline.errors import BadInput
from pipeline.models import encoders
from pipeline.models.weights.variables import weights_digest
from pipeline.retrieval.metrics import map_at_k, neighbour_hits
from pipeline.retrieval.search import nearest
from pipeline.retrieval.vectors import unit_length
from pipeline.similar.config import Triplets
from pipeline.similar.embedding_store import embed_all
from pipeline.similar.triplets import Trainer, class_batches
from tfrecords import pixels
from tfrecords.sources import Item

STATE = "embedder.npz"
REJECTS = "train_rejects.csv"  # not rejects.csv: that is the search's, in the same folder


class Vectors:
    """Pictures → unit vectors, by the encoder alone or with the trained head.

    Args:
        trained: reads the state that `guie similar train` left in `run_dir`.
    """

    def __init__(self, encoder: Encoder, embedding_dim: int, seed: int, run_dir: Path, trained: bool):
        self.encoder = encoders.build(encoder, seed=seed, train_batch_norm=True)
        self.head = build_head(self.encoder.width, embedding_dim, seed)
        self.model = keras.Model(self.encoder.model.inputs, self.head(self.encoder.model.outputs[0]))
        self.identity = files.fingerprint([asdict(encoder), embedding_dim])
        self.apply_head, used = False, self.encoder.model
        if trained:
            if not (run_dir / STATE).exists():
                raise BadInput(f"expected a trained embedder in {run_dir}: run `guie similar train` first")
            self.apply_head = restore(self.model, self.head, run_dir / STATE, self.identity) == "head"
            used = self.encoder.model if self.apply_head else self.model
        self.made_by = ["unit", asdict(self.encoder.preprocess), weights_digest(used.weights)]
        self._run = tf.function(lambda images: used(images, training=False), reduce_retracing=True)

    def embed(self, pictures: list[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each → float32 [B, D], unit length; to be stored. `finish` makes the embeddings of them."""
        return unit_length(self._run(prepare_all(pictures, self.encoder.preprocess)).numpy())

    def finish(self, vectors: np.ndarray) -> np.ndarray:
        """What `embed` gave → unit vectors to compare: a head on a frozen encoder needs no second run of it."""
        if not self.apply_head or not len(vectors):
            return vectors
        return unit_length(self.head(vectors, training=False).numpy())


def build_head(width: int, embedding_dim: int, seed: int) -> keras.Model:
    """float32 [B, width] → [B, embedding_dim], unit length. An orthogonal start keeps the features' distances."""
    features = keras.Input([width])
    unit = keras.layers.UnitNormalization(dtype="float32")(features)
    projected = keras.layers.Dense(
        embedding_dim,
        use_bias=False,
        kernel_initializer=keras.initializers.Orthogonal(seed=seed),
        dtype="float32",
        name="embedding",
    )(unit)
    return keras.Model(features, keras.layers.UnitNormalization(dtype="float32")(projected), name="head")


def train(
    encoder: Encoder,
    embedding_dim: int,
    seed: int,
    triplets: Triplets,
    data_root: str,
    run_dir: Path,
    batch_size: int,
) -> None:
    """Trains on each set in turn; killed and run again it goes on after the last whole epoch."""
    if not triplets.sets:
        raise BadInput("triplets.sets: expected at least one set with train and validation sources")
    vectors = Vectors(encoder, embedding_dim, seed, run_dir, trained=False)
    frozen = triplets.trainable == "head"
    trainer = Trainer(
        vectors.head if frozen else vectors.model, run_dir / STATE, vectors.identity + triplets.trainable,
        triplets.learning_rate,
        triplets.margin,
        triplets.mining,
    )  # fmt: skip
    at_set, done = trainer.restore()
    metrics_path = run_dir / "train_metrics.json"
    rows: list[dict] = (
        files.read_json(metrics_path)["sets"] if metrics_path.exists() and (at_set or done) else []
    )
    for place, each in enumerate(triplets.sets):
        first = 0 if place > at_set else done if place == at_set else each.epochs
        old = next((row for row in rows if row["set"] == each.name), None)
        if place < at_set or (first >= each.epochs and old and old["after"]):
            print(f"similar train: {each.name} is done", flush=True)
            continue
        images, _ = list_images(each.train, data_root)
        validation, _ = list_images(each.validation, data_root)
        rejects: list[tuple[str, str]] = []
        read = partial(_features, vectors, run_dir, batch_size) if frozen else _readable
        images, features = read(images, each.name, rejects)
        validation, validation_features = read(validation, f"{each.name}, validation", rejects)
        validate = partial(_validate, vectors, validation, validation_features, batch_size)
        row = {"set": each.name, "images": len(images), "before": (old or {}).get("before"), "after": None}
        rows = [other for other in rows if other is not old] + [row]
        if first == 0:
            row["before"] = validate()
        files.write_json(metrics_path, {"sets": rows})  # a resumed run reads `before` here
        _write_rejects(run_dir / REJECTS, each.name, rejects)
        labels = np.unique([image.class_name for image in images], return_inverse=True)[1].astype(np.int64)

        def take(rows: np.ndarray, images=images, features=features) -> np.ndarray:
            if features is not None:
                return features[rows]
            return prepare_all(
                [pixels.read(images[row].read()) for row in rows], vectors.encoder.preprocess
            ).numpy()

        loss = float("nan")
        for epoch in range(first, each.epochs):
            order = class_batches(
                labels, triplets.classes_a_batch, triplets.images_a_class, _epoch_seed(seed, place, epoch)
            )
            what = f"similar train: {each.name}, epoch {epoch + 1} of {each.epochs}"
            loss = trainer.epoch(take, labels, order, what)
            trainer.save(place, epoch + 1)
            print(f"{what}: loss {loss:.4f}", flush=True)
        row["after"] = validate()
        files.write_json(metrics_path, {"sets": rows})
    print(_table(rows))
    last = rows[-1]
    print(f"similar train: {last['set']} mAP@5 {last['after']['mAP@5']:.4f} → {run_dir / STATE}")


def restore(model: keras.Model, head: keras.Model, path: Path, identity: str) -> str:
    """Reads the trained weights and says what they are of: `head`, or `all` with the encoder too."""
    with np.load(path) as state:
        parts = {identity + "head": head, identity + "all": model}
        part = parts.get(str(state["identity"]))
        if part is None:
            raise BadInput(f"{path} is of another encoder or embedding: name the config it was trained with")
        for place, variable in enumerate(part.weights):
            variable.assign(state[f"model/{place}"])
    return "head" if part is head else "all"


def map_table(vectors: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """mAP@1, 3, 5 of unit vectors [N, D], every row against all others."""
    labels = np.unique(np.array(class_names), return_inverse=True)[1].astype(np.int64)
    ids, _ = nearest(vectors, vectors, 5, leave_one_out=True)
    hits, matches = neighbour_hits(ids, labels, labels, leave_one_out=True)
    return {f"mAP@{k}": map_at_k(hits, matches, k) for k in (1, 3, 5)}


def _readable(images: list[Item], name: str, rejects: list[tuple[str, str]]) -> tuple[list[Item], None]:
    """The images that can be decoded, without features; the others go to `rejects`, so that no epoch meets them."""
    kept = []
    progress = Progress(f"similar train: reading {name}", len(images), "images")
    for row, picture, reason in read_decoded(images):
        if picture is None:
            rejects.append((images[row].key, " ".join(reason.split())))
        else:
            kept.append(images[row])
        progress.add(1)
    if not kept:
        raise BadInput(f"none of the {len(images):,} images of {name} could be read, such as {rejects[-1]}")
    return kept, None


def _write_rejects(path: Path, name: str, rejects: Sequence[tuple[str, str]]) -> None:
    """Replaces the rows of the set `name`."""
    header, rows = ["set", "key", "reason"], []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in list(csv.reader(file))[1:] if row[0] != name]
    text = io.StringIO()
    mine = [[name, *reject] for reject in rejects]
    csv.writer(text, lineterminator="\n").writerows([header, *rows, *mine])
    files.write_text(path, text.getvalue())


def _features(
    vectors: Vectors,
    run_dir: Path,
    batch_size: int,
    images: list[Item],
    name: str,
    rejects: list[tuple[str, str]],
) -> tuple[list[Item], np.ndarray]:
    """(images that could be read, their features); the others go to `rejects`."""
    stored = embed_all(
        images, vectors.embed, vectors.made_by, run_dir / "embedded", None, batch_size, f"features of {name}"
    )
    if not stored.images:
        raise BadInput(
            f"none of the {len(images):,} images of {name} could be read, such as {stored.rejects[0]}"
        )
    rejects.extend(stored.rejects)
    return stored.images, stored.vectors


def _validate(
    vectors: Vectors,
    images: Sequence[Item],
    features: np.ndarray | None,
    batch_size: int,
) -> dict[str, float]:
    """mAP@k by the images' features, or by the whole model where there are none."""
    if features is not None:
        embedded = vectors.head(features, training=False).numpy()
    else:
        parts = []
        for start in range(0, len(images), batch_size):
            part = [pixels.read(image.read()) for image in images[start : start + batch_size]]
            parts.append(vectors.model(prepare_all(part, vectors.encoder.preprocess), training=False).numpy())
        embedded = np.concatenate(parts)
    return map_table(unit_length(embedded), [image.class_name for image in images])


def _table(rows: Sequence[dict]) -> str:
    names = [f"mAP@{k}" for k in (1, 3, 5)]
    lines = [f"{'set':<16}{'':<8}" + "".join(f"{name:>9}" for name in names)]
    for row in rows:
        for when in ("before", "after"):
            if row[when]:
                lines.append(
                    f"{row['set']:<16}{when:<8}" + "".join(f"{row[when][name]:>9.4f}" for name in names)
                )
    return "\n".join(lines)


def _epoch_seed(seed: int, place: int, epoch: int) -> int:
    return int(files.fingerprint([seed, place, epoch]), 16) % 2**32
