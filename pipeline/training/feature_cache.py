"""Features of every record, in order; a frozen encoder's are computed once and kept on disk."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Run
from pipeline.console import Progress
from pipeline.data import preprocessing
from pipeline.data.array_cache import ArrayCache
from pipeline.data.batches import RecordSet, eval_batches, eval_groups
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.data.sampler import Order
from pipeline.files import file_sha256
from pipeline.models.embedder import Embedder
from pipeline.models.encoders import KERAS_FILE, ImageEncoder
from pipeline.models.weights.variables import weights_digest
from pipeline.retrieval.vectors import unit_length
from pipeline.training import inputs
from pipeline.training.devices import Found


class Encoding:
    """A model's features of records over all replicas; traced once, however often it is asked.

    `batch_size` is of all replicas together; it is made a multiple of their number. Weights are those of the call.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        preprocess: Preprocess,
        compiled: bool,
        batch_size: int = 64,
    ):
        replicas = len(strategy.extended.worker_devices)  # of this host; every host computes the whole
        self.preprocess, self.batch_size = preprocess, -(-batch_size // replicas) * replicas

        @tf.function(jit_compile=compiled)
        def forward(images):
            return tf.cast(model(normalize(images, preprocess), training=False), tf.float32)

        @tf.function
        def forward_all(images):
            pieces = tf.split(images, replicas)

            def piece_of(context):
                return pieces[context.replica_id_in_sync_group % replicas]

            split = strategy.experimental_distribute_values_from_function(piece_of) if replicas > 1 else images
            # Given `forward` itself, the strategy would let XLA compile all replicas as one, on one device.
            return strategy.experimental_local_results(strategy.run(lambda piece: forward(piece), args=(split,)))

        self._forward = forward_all
        self._one = tf.function(
            lambda images: tf.cast(model(normalize(images, preprocess), training=False), tf.float32),
            input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
        )

    def of(self, records: RecordSet, what: str) -> np.ndarray:
        """float32 [N, width], in the records' order; `what` is for the progress."""
        progress = Progress(f"features of {what}, {self.preprocess.image_size_px} px", len(records), "images")
        if self.preprocess.fit == "aspect":
            return self._of_shapes(records, progress)
        rows = []
        for batch in eval_batches(records, self.preprocess, self.batch_size, pad_to_batch=True):
            output = np.concatenate([piece.numpy() for piece in self._forward(batch["images"])])
            rows.append(output[batch["valid"].numpy()])
            progress.add(len(rows[-1]), timed=len(rows) > 1)  # the first batch compiles
        return np.concatenate(rows)

    def _of_shapes(self, records: RecordSet, progress: Progress) -> np.ndarray:
        """As `of`, images of one shape together, on the first replica: neither splits nor compiles many shapes."""
        found: np.ndarray | None = None
        for positions, images in eval_groups(records, self.preprocess, self.batch_size):
            features = self._one(tf.constant(images)).numpy()
            if found is None:
                found = np.zeros((len(records), features.shape[1]), np.float32)
            found[positions] = features
            progress.add(len(positions))
        return np.zeros((0, 0), np.float32) if found is None else found


class Encodings:
    """An embedder's encoder on records, averaged over the embedder's sizes, with the weights of the call."""

    def __init__(self, run: Run, found: Found, embedder: Embedder):
        with found.strategy.scope():  # the positions of another size are variables
            self.encoders = embedder.at_sizes()
        compiled = found.jit(run.train.compile)
        self.each = [Encoding(found.strategy, one.model, one.preprocess, compiled) for one in self.encoders]

    def of(self, records: RecordSet, what: str) -> np.ndarray:
        """float32 [N, width]."""
        return average_features([encoding.of(records, what) for encoding in self.each])


def open_cache(run: Run, encoder: ImageEncoder, precision: str, host_index: int = 0) -> ArrayCache:
    """The run's cache of an encoder's features; a row holds those of a whole set of records, [N, width].

    Reads all weights of the encoder: open it once.
    """
    # Pooling, heads and activation are in no weight: the config says them, or the file.
    keys = inputs.without_paths(run.encoder)  # the weights' digest says which file, wherever it lies
    made_by = [preprocessing.identity(encoder.preprocess), precision, weights_digest(encoder.model.weights), keys]
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
        encodings = Encodings(run, found, embedder)
        self.each = encodings.each
        self.caches = [open_cache(run, each, found.precision, found.host_index) for each in encodings.encoders]

    def of(self, records: RecordSet, what: str) -> np.ndarray:
        """float32 [N, width], memory-mapped where one size is asked for; `what` the records are, for the progress."""
        whole = records.whole or records
        pairs = zip(self.each, self.caches, strict=True)
        found = average_features([_kept(encoding, cache, whole, what) for encoding, cache in pairs])
        return found if records.rows is None else found[records.rows]


def _kept(encoding: Encoding, cache: ArrayCache, records: RecordSet, what: str) -> np.ndarray:
    if cache.missing([records.digest]):
        cache.put([records.digest], features=encoding.of(records, what)[None])
    return cache.get([records.digest])["features"][0]


def average_features(each: list[np.ndarray]) -> np.ndarray:
    """As `embedder.average_features`, of NumPy arrays [N, width]."""
    return each[0] if len(each) == 1 else np.asarray(sum(map(unit_length, each)) / np.float32(len(each)))


def feature_batches(
    features: np.ndarray, labels: np.ndarray, order: Order, batch_size: int, start_step: int, host: tuple[int, int]
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
