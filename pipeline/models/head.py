"""The head: features → unit length (→ batch norm) → Dense → unit length (→ PCA → unit length).

What losses see is the embedding of `trained_dim` numbers; what is served has `embedding_dim`, by a PCA that is fitted
when a phase ends (`training.phases.fit_pca`). Until then its axes are the first `embedding_dim` of those numbers.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from pipeline import config

MOMENTUM = 0.9  # of the statistics that are served
EPSILON = 1e-6  # beside variances of features whose mean square is 1


@dataclass(frozen=True)
class Head:
    """The parts of one head, which share their layers."""

    served: keras.Model  # float [B, width] → float32 [B, embedding_dim], unit length
    trained: keras.Model  # float [B, width] → float32 [B, trained_dim], unit length; without PCA it is `served`
    norm: keras.Model | None  # float [B, width] → float32 [B, width]: unit length and batch norm; None: no batch norm
    projection: keras.Model | None  # float32 [B, width] → float32 [B, trained_dim]: what comes after `norm`
    pca: keras.layers.Dense | None  # float32 [B, trained_dim] → float32 [B, embedding_dim]


class BatchNorm(keras.layers.Layer):
    """(x − mean) / √(variance + ε) by the batch's statistics in training, by moving ones elsewhere: [B, W] → [B, W].

    A batch is that of all replicas: their sums cross between them, and so do gradients. There is no scale and no shift,
    since a Dense with a bias comes after it. Features of unit length have the mean square 1 / W; ε is in that scale.

    Source: Ioffe and Szegedy, ICML 2015; without scale and shift before a linear probe: He et al., MAE, CVPR 2022.
    """

    def build(self, shape: tuple) -> None:
        # Every replica moves them by the same numbers.
        same = {"shape": (shape[-1],), "trainable": False, "aggregation": "only_first_replica"}
        self.mean = self.add_weight(name="mean", initializer="zeros", **same)
        self.variance = self.add_weight(
            name="variance", initializer=keras.initializers.Constant(1.0 / shape[-1]), **same
        )

    def call(self, x, training: bool = False):
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = batch_statistics(x)
            self.mean.assign(MOMENTUM * self.mean + (1.0 - MOMENTUM) * mean)
            self.variance.assign(MOMENTUM * self.variance + (1.0 - MOMENTUM) * variance)
        return (x - mean) / keras.ops.sqrt(variance + EPSILON / x.shape[-1])


def batch_statistics(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 [b, W] of this replica → mean and variance float32 [W] over the rows of all replicas."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context else 1
    count = float(x.shape[0] * replicas) if x.shape[0] else tf.cast(tf.shape(x)[0] * replicas, tf.float32)

    def over_replicas(sums):
        return context.all_reduce(tf.distribute.ReduceOp.SUM, sums) if replicas > 1 else sums

    mean = over_replicas(tf.reduce_sum(x, axis=0)) / count
    # In two passes: E x² − (E x)² loses its digits where a feature's mean is large.
    return mean, over_replicas(tf.reduce_sum(tf.square(x - mean), axis=0)) / count


def build(options: config.Embedder, width: int, seed: int) -> Head:
    """A head with random weights that follow from the seed."""
    features = keras.Input([width], name="features")
    # Unit length first: an encoder's features differ in length, and the centre that the bias takes away would not fit.
    units = keras.layers.UnitNormalization(dtype="float32", name="unit_features")(features)
    embedding = keras.layers.Dense(
        options.loss_dim,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        dtype="float32",
        name="embedding",
    )
    unit_length = keras.layers.UnitNormalization(dtype="float32", name="unit_length")
    norm = projection = pca = None
    if options.batch_norm:
        norm = keras.Model(features, BatchNorm(dtype="float32", name="batch_norm")(units), name="norm")
        normed = keras.Input([width], name="normed", dtype="float32")
        projection = keras.Model(normed, unit_length(embedding(normed)), name="projection")
        embedded = projection(norm(features))
    else:
        embedded = unit_length(embedding(units))
    name = "embedding_head"  # SigLIP has a layer called head
    if options.trained_dim is None:
        whole = keras.Model(features, embedded, name=name)
        return Head(whole, whole, norm, projection, pca)
    trained = keras.Model(features, embedded, name="trained_head")
    pca = keras.layers.Dense(
        options.embedding_dim, kernel_initializer="identity", dtype="float32", name="pca", trainable=False
    )
    reduced = keras.layers.UnitNormalization(dtype="float32", name="unit_pca")(pca(trained(features)))
    return Head(keras.Model(features, reduced, name=name), trained, norm, projection, pca)
