"""Features of every record, in order; a frozen encoder's are computed once and kept on disk."""

from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Run
from pipeline.console import Progress
from pipeline.data.array_cache import ArrayCache
from pipeline.data.batches import RecordSet, eval_batches
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.data.sampler import ClassGroups, Positions
from pipeline.files import file_sha256
from pipeline.models.embedder import Embedder
from pipeline.models.encoders import KERAS_FILE, ImageEncoder
from pipeline.models.weights.variables import weights_digest
from pipeline.retrieval.vectors import unit_length
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
    folder = Path(run.in_run_dir([run.train.features_dir])[0])
    # Whether hosts share a disk is not known: each but the first has a folder.
    return ArrayCache(folder / f"host-{host_index}" if host_index else folder, made_by)


class FeatureCache:
    """A frozen encoder's features of records, computed once and kept in `train.features_dir`.

    They are those of the embedder's encoder as it is now, averaged over the embedder's sizes.
    """

    def __init__(self, run: Run, found: Found, embedder: Embedder):
        self.run, self.found, self.at_sizes = run, found, _at_sizes(found, embedder)
        self.caches = [open_cache(run, encoder, found.precision, found.host_index) for encoder in self.at_sizes]

    def of(self, records: RecordSet, what: str) -> np.ndarray:
        """float32 [N, width], memory-mapped where one size is asked for; `what` the records are, for the progress."""
        whole = records.whole or records
        each = [self._of_size(*pair, whole, what) for pair in zip(self.at_sizes, self.caches, strict=True)]
        found = average_features(each)
        return found if records.rows is None else found[records.rows]

    def _of_size(self, encoder: ImageEncoder, cache: ArrayCache, records: RecordSet, what: str) -> np.ndarray:
        if cache.missing([records.digest]):
            cache.put([records.digest], features=_encoded(self.run, self.found, encoder, records, what)[None])
        return cache.get([records.digest])["features"][0]


def encode_now(run: Run, found: Found, embedder: Embedder, records: RecordSet, what: str) -> np.ndarray:
    """As `FeatureCache.of`, of an encoder that is being trained: nothing is kept."""
    return average_features([_encoded(run, found, each, records, what) for each in _at_sizes(found, embedder)])


def _at_sizes(found: Found, embedder: Embedder) -> list[ImageEncoder]:
    with found.strategy.scope():  # the positions of another size are variables
        return embedder.at_sizes()


def _encoded(run: Run, found: Found, encoder: ImageEncoder, records: RecordSet, what: str) -> np.ndarray:
    """float32 [N, width]: the encoder's features as it is now, over all replicas."""
    side = encoder.preprocess.image_size_px
    compiled = found.jit(run.train.compile)
    titled = f"features of {what}, {side} px"
    return encode(found.strategy, encoder.model, encoder.preprocess, records, 64, compiled, titled)


def average_features(each: list[np.ndarray]) -> np.ndarray:
    """As `embedder.average_features`, of NumPy arrays [N, width]."""
    return each[0] if len(each) == 1 else np.asarray(sum(map(unit_length, each)) / np.float32(len(each)))


def feature_batches(
    features: np.ndarray,
    labels: np.ndarray,
    order: Positions | ClassGroups,
    batch_size: int,
    start_step: int,
    host: tuple[int, int],
) -> tf.data.Dataset:
    """The stream of `train_batches`: {"features": float32 [b, width], "labels": int32 [b]}, without end."""

    def take(number):
        rows = order.batch(int(number), batch_size, host)
        return features[rows].astype(np.float32), labels[rows].astype(np.int32)

    each = batch_size // host[1]

    def fixed_shapes(number):
        rows, classes = tf.numpy_function(take, [number], [tf.float32, tf.int32])
        rows, classes = tf.ensure_shape(rows, [each, features.shape[1]]), tf.ensure_shape(classes, [each])
        return {"features": rows, "labels": classes}

    return tf.data.Dataset.counter(start_step).map(fixed_shapes)
