"""Triplet loss, the batches it needs, and the training step with its state file."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline import files
from pipeline.errors import BadInput
from pipeline.similar.config import Triplets
from pipeline.similar.embedder import assign


def triplet_loss(embeddings: tf.Tensor, labels: tf.Tensor, margin: float, mining: str = "semihard") -> tf.Tensor:
    """Triplet loss of a batch, on Euclidean distances.

        max(0, d(a, p) − d(a, n) + margin)

    hard: for every anchor a the farthest positive p and the nearest negative n (Hermans et al. 2017, batch hard).
    semihard: for every pair (a, p) the nearest negative that is farther than p; where there is none, the farthest
    negative (Schroff et al., FaceNet, CVPR 2015).

    `embeddings` are [B, D] of unit length, `labels` int [B], `margin` a distance, 0 … 2. Returns float32, the mean over
    anchors (hard) or pairs (semihard) that have a positive and a negative; 0 where none has.
    """
    distances = pairwise_distances(embeddings)  # [B, B]
    same = labels[:, None] == labels[None, :]
    positive = tf.logical_and(same, tf.logical_not(tf.eye(tf.shape(labels)[0], dtype=tf.bool)))
    negative = tf.logical_not(same)
    if mining == "hard":
        farthest = tf.reduce_max(tf.where(positive, distances, -1.0), axis=1)  # [B]
        nearest = tf.reduce_min(tf.where(negative, distances, np.inf), axis=1)
        losses = tf.nn.relu(farthest - nearest + margin)
        counted = tf.logical_and(tf.reduce_any(positive, axis=1), tf.reduce_any(negative, axis=1))
    else:
        # [B, B, B]: anchor, positive, negative
        farther = tf.logical_and(negative[:, None, :], distances[:, None, :] > distances[:, :, None])
        nearest_farther = tf.reduce_min(tf.where(farther, distances[:, None, :], np.inf), axis=2)  # [B, B]
        farthest_negative = tf.reduce_max(tf.where(negative, distances, -1.0), axis=1)[:, None]
        chosen = tf.where(tf.reduce_any(farther, axis=2), nearest_farther, farthest_negative)
        losses = tf.nn.relu(distances - chosen + margin)
        counted = tf.logical_and(positive, tf.reduce_any(negative, axis=1)[:, None])
    # `where` on both sides: a loss that is not counted may be infinite, and 0 · inf is NaN.
    total = tf.reduce_sum(tf.where(counted, losses, 0.0))
    return total / tf.maximum(tf.reduce_sum(tf.cast(counted, tf.float32)), 1.0)


def pairwise_distances(embeddings: tf.Tensor) -> tf.Tensor:
    """[B, D] → float32 [B, B], Euclidean; its gradient stays finite where two rows are the same."""
    rows = tf.cast(embeddings, tf.float32)
    squares = tf.reduce_sum(tf.square(rows), axis=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * tf.matmul(rows, rows, transpose_b=True)
    return tf.sqrt(tf.maximum(squared, 1e-12))


def class_batches(labels: np.ndarray, classes: int, images: int, seed: int) -> list[np.ndarray]:
    """One epoch of batches with several images of each class.

    `labels` is int [N], `classes` P a batch, `images` K of each. Returns int64 [P · K] rows of `labels` each, as many
    batches as give N images. Classes take turns, and within a class its images do, so that none is left out while
    another is drawn twice. A class with one image is left out: it has no positive. Raises BadInput: fewer than two
    classes have two images.
    """
    rng = np.random.default_rng(seed)
    rows_of = {  # class → its rows, shuffled
        int(label): rng.permutation(rows)
        for label in np.unique(labels)
        if len(rows := np.flatnonzero(labels == label)) > 1
    }
    if len(rows_of) < 2:
        raise BadInput("triplets need two classes with at least two images each")
    classes = min(classes, len(rows_of))
    drawn = dict.fromkeys(rows_of, 0)  # class → images drawn so far; after the last comes the first again
    queue: list[int] = []
    batches = []
    for _ in range(-(-len(labels) // (classes * images))):
        chosen: list[int] = []
        while len(chosen) < classes:
            if not queue:
                queue = [int(label) for label in rng.permutation(list(rows_of))]
            label = next((each for each in queue if each not in chosen), None)
            if label is None:
                queue = []
                continue
            queue.remove(label)
            chosen.append(label)
        batch: list[int] = []
        for label in chosen:
            rows, start = rows_of[label], drawn[label]
            count = min(images, len(rows))
            batch.extend(int(rows[(start + i) % len(rows)]) for i in range(count))
            drawn[label] += count
        batches.append(np.array(batch, np.int64))
    return batches


class Trainer:
    """A model under triplet loss, and the state file from which training goes on.

    Args:
        model: [B, …] → float32 [B, D], unit length; what is trainable in it is trained.
        path: the state file.
        identity: must be the same when the state is read again.
    """

    def __init__(self, model: keras.Model, path: Path, identity: str, options: Triplets):
        self.model, self.path, self.identity = model, path, identity
        self.optimizer = keras.optimizers.Adam(options.learning_rate)
        self.optimizer.build(model.trainable_variables)
        shape = [None, *model.inputs[0].shape[1:]]

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32), tf.TensorSpec([None], tf.int64)])
        def step(inputs, labels):
            with tf.GradientTape() as tape:
                loss = triplet_loss(model(inputs, training=True), labels, options.margin, options.mining)
            variables = model.trainable_variables
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        self.step = step  # (inputs [B, …], labels int64 [B]) → the batch's loss

    def restore(self) -> tuple[int, int]:
        """(index of the set, epochs of it done) by the state file, else (0, 0). Raises BadInput: of another model."""
        if not self.path.exists():
            return 0, 0
        with np.load(self.path) as state:
            if str(state["identity"]) != self.identity:
                raise BadInput(f"{self.path} is of another encoder or embedding: name another run_dir, or remove it")
            assign(self.model.weights, state, "model")
            assign(self.optimizer.variables, state, "optimizer")
            return int(state["set"]), int(state["epochs"])

    def save(self, set_index: int, epochs: int) -> None:
        arrays = {f"model/{i}": v.numpy() for i, v in enumerate(self.model.weights)}
        arrays |= {f"optimizer/{i}": v.numpy() for i, v in enumerate(self.optimizer.variables)}
        files.write_arrays(self.path, {"identity": self.identity, "set": set_index, "epochs": epochs, **arrays})
