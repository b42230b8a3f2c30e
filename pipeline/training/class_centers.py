"""The class centres [C, K, D]: whole on every replica, or a shard of the classes on each.

In both forms a checkpoint holds them whole, optimizer state included, so a run may change form or replicas.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.training import losses

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

    def losses(self, embeddings, labels, loss: config.Loss, margin_radians, compiled: bool) -> tf.Tensor:
        """The loss of each of this replica's examples, float32 [b]; call it in a replica's context."""
        centers = self.variable.value
        if not self.sharded:
            return losses.LOSSES[loss.name](embeddings, labels, centers, loss.scale, margin_radians)
        return _sharded_arcface(embeddings, labels, centers, self.classes, loss.scale, margin_radians, compiled)


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
    [B, D], one log-sum and one cosine an example. TensorFlow's collectives carry the gradient back.

    Source: An et al., Partial FC, ICCV Workshops 2021 (all classes, none sampled).
    """
    context = tf.distribute.get_replica_context()
    replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
    replicas, rows = context.num_replicas_in_sync, embeddings.shape[0]
    gathered = context.all_gather(tf.cast(embeddings, tf.float32), axis=0)
    gathered = tf.ensure_shape(gathered, [rows * replicas, embeddings.shape[1]])
    all_labels = tf.ensure_shape(context.all_gather(tf.cast(labels, tf.int32), axis=0), [rows * replicas])

    def compare(every, wanted, centers):
        first = replica * centers.shape[0]
        return losses.split_cosines(every, wanted - first, centers, classes - first, scale)

    compare = tf.function(compare, jit_compile=True) if compiled else compare
    target, others = compare(gathered, all_labels, tf.convert_to_tensor(shard))  # both [B]
    target = context.all_reduce(tf.distribute.ReduceOp.SUM, target)  # 0 where the class is another replica's
    others = tf.reduce_logsumexp(context.all_gather(others[None], axis=0), axis=0)
    mine = slice(replica * rows, (replica + 1) * rows)  # this replica's examples
    return losses.margin_loss(target[mine], others[mine], labels, scale, margin_radians)


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
                self.variable.value.assign(whole[first : first + rows])

            self.strategy.run(assign_shard, args=(whole,))

        scatter(tf.constant(np.pad(np.asarray(values, self.dtype), padding)))
