"""Features of every record, in order; a frozen encoder's are computed once and kept on disk."""

from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Run
from pipeline.console import Progress
from pipeline.data.array_cache import ArrayCache
from pipeline.data.batches import Positions, RecordSet, eval_batches
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.files import file_sha256
from pipeline.models.embedder import Embedder
from pipeline.models.encoders import KERAS_FILE, ImageEncoder
from pipeline.models.weights.variables import weights_digest
from pipeline.training.devices import Found


def encode(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    preprocess: Preprocess,
    records: RecordSet,
    batch_size: int,
    compiled: bool,
    what: str,
) -> np.ndarray:
    """float32 [N, width]: `model` on every record's normalised pixels, in the records' order, over all replicas.

    `batch_size` is of all replicas together; it is made a multiple of their number.
    """
    replicas = len(strategy.extended.worker_devices)  # of this host; every host computes the whole
    each = -(-batch_size // replicas)
    batches = eval_batches(records, preprocess, each * replicas, pad_to_batch=True)

    @tf.function(jit_compile=compiled)
    def forward(images):
        return tf.cast(model(normalize(images, preprocess), training=False), tf.float32)

    @tf.function
    def forward_all(images):
        pieces = tf.split(images, replicas)

        def piece_of(context):
            return pieces[context.replica_id_in_sync_group % replicas]

        split = strategy.experimental_distribute_values_from_function(piece_of) if replicas > 1 else images
        return strategy.experimental_local_results(strategy.run(forward, args=(split,)))

    progress = Progress(what, len(records), "images")
    rows = []
    for batch in batches:
        output = np.concatenate([piece.numpy() for piece in forward_all(batch["images"])])
        rows.append(output[batch["valid"].numpy()])
        progress.add(len(rows[-1]))
    return np.concatenate(rows)


def open_cache(run: Run, encoder: ImageEncoder, precision: str, host_index: int = 0) -> ArrayCache:
    """The run's cache of an encoder's features; a row holds those of a whole set of records, [N, width].

    Reads all weights of the encoder: open it once.
    """
    # Pooling, heads and activation are in no weight: the config says them, or the file.
    made_by = [asdict(encoder.preprocess), precision, weights_digest(encoder.model.weights), asdict(run.encoder)]
    path = Path(run.encoder.name.removeprefix(KERAS_FILE))
    if path.is_file():
        made_by.append(file_sha256(path))
    folder = Path(run.run_dir) / "features"
    # Whether hosts share a disk is not known: each but the first has a folder.
    return ArrayCache(folder / f"host-{host_index}" if host_index else folder, made_by)


class FeatureCache:
    """A frozen encoder's features of records, computed once and kept in `<run_dir>/features/`."""

    def __init__(self, run: Run, found: Found, model: Embedder):
        self.run, self.found, self.encoder = run, found, model.encoder
        self.cache = open_cache(run, model.encoder, found.precision, found.host_index)

    def of(self, records: RecordSet, what: str) -> np.ndarray:
        """float32 [N, width], memory-mapped; `what` the records are, for the progress line."""
        if self.cache.missing([records.digest]):
            rows = encode(
                *(self.found.strategy, self.encoder.model, self.encoder.preprocess, records, 64),
                compiled=self.found.jit(self.run.train.compile),
                what=f"features of {what}",
            )
            self.cache.put([records.digest], features=rows[None])
        return self.cache.get([records.digest])["features"][0]


def feature_batches(
    features: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    start_step: int,
    host: tuple[int, int],
    sampling: np.ndarray | None,
) -> tf.data.Dataset:
    """The stream of `train_batches`: {"features": float32 [b, width], "labels": int32 [b]}, without end."""
    positions = Positions(len(features), seed, sampling)

    def take(number):
        rows = positions.batch(int(number), batch_size, host)
        return features[rows].astype(np.float32), labels[rows].astype(np.int32)

    each = batch_size // host[1]

    def fixed_shapes(number):
        rows, classes = tf.numpy_function(take, [number], [tf.float32, tf.int32])
        rows, classes = tf.ensure_shape(rows, [each, features.shape[1]]), tf.ensure_shape(classes, [each])
        return {"features": rows, "labels": classes}

    return tf.data.Dataset.counter(start_step).map(fixed_shapes)
