"""What a model says of every record, in order; for a frozen encoder computed once and kept on disk."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.console import Progress
from pipeline.data.batches import Positions, RecordSet, eval_batches
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.files import atomic_path, file_sha256, fingerprint
from pipeline.models.encoders import KERAS_FILE


def encode(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    preprocess: Preprocess,
    records: RecordSet,
    batch_size: int,
    compiled: bool,
    what: str,
) -> np.ndarray:
    """float32 [N, width]: `model` on every record, in the records' order, over all replicas.

    Args:
        model: float32 [B, S, S, 3], normalised pixels → [B, width].
        batch_size: of all replicas together; made a multiple of their number.
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


def made_by(run, model, precision: str) -> list:
    """What an encoder's features hang on. Reads all of its weights: ask once."""
    weights = [hashlib.sha256(np.asarray(v).tobytes()).hexdigest() for v in model.encoder.model.weights]
    # Pooling, heads and activation are in no weight: the config says them, or the file.
    found = [dataclasses.asdict(model.preprocess), precision, weights, dataclasses.asdict(run.encoder)]
    path = Path(run.encoder.name.removeprefix(KERAS_FILE))
    return [*found, file_sha256(path)] if path.is_file() else found


def kept_path(run, maker: list, records: RecordSet, name: str) -> Path:
    """Where `cache` keeps the features of some records; `maker` is from `made_by`."""
    return Path(run.run_dir) / "features" / f"{name}-{fingerprint([maker, _fingerprint(records)])}.npy"


def cache(setting, model) -> Callable[[RecordSet, str], np.ndarray]:
    """(records, name) → the frozen encoder's features float32 [N, width], memory-mapped.

    Computed on the first call and kept in `<run_dir>/features/`, whole or absent, under a name that changes with the
    encoder, its weights, its preprocessing or the records.
    """
    arrays: dict[str, np.ndarray] = {}
    maker = made_by(setting.run, model, setting.found.precision)

    def get(records: RecordSet, name: str) -> np.ndarray:
        if name not in arrays:
            path = kept_path(setting.run, maker, records, name)
            if not setting.found.is_chief:  # its own: whether hosts share a disk is not known
                path = path.parent / f"host-{setting.found.host_index}" / path.name
            if not path.exists():
                computed = encode(
                    setting.found.strategy, model.encoder.model, model.preprocess, records, 64,
                    compiled=setting.found.jit(setting.run.train.compile), what=f"features of {name}",
                )  # fmt: skip
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    np.save(file, computed)
            arrays[name] = np.load(path, mmap_mode="r")
        return arrays[name]

    return get


def batches(
    features: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    start_step: int,
    host: tuple[int, int],
    sampling: np.ndarray | None,
) -> tf.data.Dataset:
    """The stream of `train_batches`, on features: {"images": float32 [b, width], "labels": int32 [b]}, without end."""
    positions = Positions(len(features), seed, sampling)

    def take(number):
        rows = positions.batch(int(number), batch_size, host)
        return features[rows].astype(np.float32), labels[rows].astype(np.int32)

    each = batch_size // host[1]

    def fixed_shapes(number):
        images, classes = tf.numpy_function(take, [number], [tf.float32, tf.int32])
        return {
            "images": tf.ensure_shape(images, [each, features.shape[1]]),
            "labels": tf.ensure_shape(classes, [each]),
        }

    return tf.data.Dataset.counter(start_step).map(fixed_shapes)


def _fingerprint(records: RecordSet) -> str:
    names = [path.name for path in records.shards]
    return fingerprint(
        [names, *(hashlib.sha256(part.tobytes()).hexdigest() for part in (records.spans, records.labels))]
    )
