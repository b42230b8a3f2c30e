"""The class centres [C, K, D]: whole on every replica, or a shard of the classes on each.

In both forms a checkpoint holds them whole, optimizer state included, so a run may change form or replicas.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.training.losses import LOSSES, PAIR_LOSSES, class_losses

# A per-replica variable: neither its value nor its gradient is summed over the replicas.
PER_REPLICA = {"synchronization": "on_read", "aggregation": "sum"}


def is_per_replica(variable: keras.Variable) -> bool:
    return variable.synchronization == "on_read"


@dataclass(frozen=True)
class ClassCenters:
    # float32 [C, K, D], or [ceil(C / replicas), K, D] on each replica, whose last rows may be no class.
    variable: keras.Variable
    classes: int  # C
    strategy: tf.distribute.Strategy

    @property
    def sharded(self) -> bool:
        return is_per_replica(self.variable)

    def assign(self, values: np.ndarray) -> None:
        """Puts float32 [C, K, D] in place."""
        self.whole(self.variable).assign(values)

    def whole(self, variable: keras.Variable) -> Any:
        """The variable as a checkpoint holds it: the shards of all replicas as one array."""
        return _Shards(variable, self.classes, self.strategy) if is_per_replica(variable) else variable

    def crosses_replicas(self, loss: config.Loss) -> bool:
        """Whether `losses` calls collectives, which cannot stand in what XLA compiles nor in a graph's loop."""
        return self.sharded or (loss.name in PAIR_LOSSES and self.strategy.num_replicas_in_sync > 1)

    def losses(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor,
        loss: config.Loss,
        margin_radians: tf.Tensor | float,
        compiled: bool,
        domains: np.ndarray | None = None,
    ) -> tf.Tensor:
        """The loss of each of this replica's examples; call it in a replica's context.

        Args:
            embeddings: [b, D]. labels: int [b]. margin_radians: scalar or [C].
            compiled: XLA compiles what is between collectives; for a loss that `crosses_replicas`.
            domains: int32 [C], the domain of each class, for a softmax over the own domain; None: over all classes.

        Returns:
            float32 [b]. A pair loss compares the examples of all replicas, and gives those of this one as anchors.
        """
        centers = self.variable.value
        if self.sharded:
            return _sharded_arcface(embeddings, labels, centers, self.classes, loss.scale, margin_radians, compiled)
        if self.crosses_replicas(loss):
            return _gathered_pairs(embeddings, labels, loss, compiled)
        return LOSSES[loss.name](embeddings, labels, centers, loss, margin_radians, domains)


def build(
    classes: int, subcenters: int, embedding_dim: int, seed: int, sharded: bool, strategy: tf.distribute.Strategy
) -> ClassCenters:
    """Random centres, the same in both forms. Call it in the strategy's scope."""
    shape, named = (classes, subcenters, embedding_dim), {"dtype": "float32", "name": "class_centers"}
    start = keras.initializers.RandomNormal(stddev=0.01, seed=seed)
    if not sharded:
        return ClassCenters(keras.Variable(start, shape=shape, **named), classes, strategy)
    rows = -(-classes // strategy.num_replicas_in_sync)
    variable = keras.Variable("zeros", shape=(rows, *shape[1:]), **named, **PER_REPLICA)
    built = ClassCenters(variable, classes, strategy)
    built.assign(np.asarray(start(shape, dtype="float32")))
    return built


def _sharded_arcface(embeddings, labels, shard, classes: int, scale: float, margin_radians, compiled: bool):
    """`losses.arcface` with the classes split over the replicas.

    Each replica compares all replicas' embeddings with its own classes; what crosses between them is the embeddings
    [B, D], one log-sum and one cosine an example.

    Source: An et al., Partial FC, ICCV Workshops 2021 (all classes, none sampled).
    """
    context = tf.distribute.get_replica_context()
    first_example, every, all_labels = gathered(context, embeddings, labels)

    def compare(every, wanted, centers, first):
        return class_losses.split_cosines(
            every, wanted - first, centers, scale, tf.range(centers.shape[0]) < classes - first
        )

    compare = tf.function(compare, jit_compile=True) if compiled else compare
    first = tf.convert_to_tensor(context.replica_id_in_sync_group) * shard.shape[0]
    target, others = compare(every, all_labels, tf.convert_to_tensor(shard), first)  # both [B]
    target = context.all_reduce(tf.distribute.ReduceOp.SUM, target)  # 0 where the class is another replica's
    others = tf.reduce_logsumexp(context.all_gather(others[None], axis=0), axis=0)
    mine, others = (rows_from(each, first_example, embeddings.shape[0]) for each in (target, others))
    return class_losses.margin_loss(mine, others, labels, scale, margin_radians)


def rows_from(values: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
    """[count, …]: the rows of `values` from `first` on, in a shape that XLA knows.

    On a TPU all replicas run one program, and their number is not known as it is compiled: XLA refuses the slice
    `values[first : first + count]` there, whose length it would have to infer.
    """
    return tf.slice(values, [first, *[0] * (values.shape.rank - 1)], [count, *values.shape[1:]])


def _gathered_pairs(embeddings, labels, loss: config.Loss, compiled: bool):
    """A pair loss of this replica's examples as anchors, compared with all replicas'."""
    first, every, all_labels = gathered(tf.distribute.get_replica_context(), embeddings, labels)

    def compare(anchors, anchor_labels, first, others, other_labels):
        return PAIR_LOSSES[loss.name](anchors, anchor_labels, first, others, other_labels, loss)

    compare = tf.function(compare, jit_compile=True) if compiled else compare
    return compare(embeddings, labels, first, every, all_labels)


def gathered(context: tf.distribute.ReplicaContext, embeddings, labels) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """This replica's first row in the global batch; all replicas' embeddings, float32 [B, D]; labels int32 [B].

    TensorFlow's collectives carry the gradient back: each replica's embeddings get it from all replicas' losses.
    """
    rows, replicas = embeddings.shape[0], context.num_replicas_in_sync
    every = context.all_gather(tf.cast(embeddings, tf.float32), axis=0)
    every = tf.ensure_shape(every, [rows * replicas, embeddings.shape[1]])
    all_labels = tf.ensure_shape(context.all_gather(tf.cast(labels, tf.int32), axis=0), [rows * replicas])
    return tf.convert_to_tensor(context.replica_id_in_sync_group) * rows, every, all_labels


class _Shards:
    """A per-replica variable as one array: what `checkpoints` reads and assigns."""

    def __init__(self, variable: keras.Variable, classes: int, strategy: tf.distribute.Strategy):
        self.variable, self.strategy = variable, strategy
        self.shape, self.dtype = (classes, *variable.shape[1:]), variable.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        @tf.function
        def gathered():
            return self.strategy.gather(self.strategy.run(lambda: tf.identity(self.variable.value)), axis=0)

        return np.asarray(gathered(), dtype)[: self.shape[0]]

    def assign(self, values: np.ndarray) -> None:
        rows, replicas = self.variable.shape[0], self.strategy.num_replicas_in_sync
        padding = [(0, rows * replicas - self.shape[0])] + [(0, 0)] * (len(self.shape) - 1)

        @tf.function
        def scatter(whole):
            def assign_shard(whole):
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                first = tf.convert_to_tensor(replica) * rows
                self.variable.value.assign(rows_from(whole, first, rows))

            self.strategy.run(assign_shard, args=(whole,))

        scatter(tf.constant(np.pad(np.asarray(values, self.dtype), padding)))
