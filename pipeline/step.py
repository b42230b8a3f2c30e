"""The training step: a plain loop under `tf.distribute`, one function for CPU, GPU and TPU."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Forward = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def drop_features(features: tf.Tensor, rate: float, seed: int, step, replica, replicas: int) -> tf.Tensor:
    """Dropout whose mask depends on (seed, step, place in the global batch) alone, not on how many replicas share it.

    Args:
        features: float [b, width], this replica's rows. step, replica: int scalars.
        replicas: how many share the batch; they hold its rows in order.
    """
    if not rate:
        return features
    rows, width = features.shape
    first = tf.cast(replica, tf.uint32) * (rows * width)
    noise = _hash(tf.cast(tf.range(rows * width), tf.uint32) + first, _hash(tf.cast(step, tf.uint32), seed))
    threshold = min(int(rate * 2**32), 2**32 - 1)
    kept = tf.reshape(noise >= tf.constant(threshold, tf.uint32), [rows, width])
    return features * tf.cast(kept, features.dtype) / (1.0 - rate)


def _hash(value: tf.Tensor, key) -> tf.Tensor:
    """uint32 → well-mixed uint32 (the multiply–xorshift mixer found by C. Wellons' search, "lowbias32").

    TensorFlow's stateless random numbers differ between XLA and the plain step; integer arithmetic does not.
    """
    value += tf.cast(key, tf.uint32) * tf.constant(0x9E3779B9, tf.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(shift, tf.uint32)))
        value *= tf.constant(factor, tf.uint32)
    return value


def make_run_steps(
    strategy: tf.distribute.Strategy,
    losses_of: Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor],
    variables: list,
    optimizer,
    batch_size: int,
    compiled: bool,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
) -> Callable:
    """Builds `run_steps(iterator, first_step, count) -> float32 [count]`, the mean loss of each step.

    Args:
        losses_of: (batch, step, replica) → float32 [b], one loss an example.
        variables: trained Keras variables; the optimizer holds state for exactly these.
        batch_size: of all replicas together.
        compiled: by XLA.
        clip_norm: largest norm of the summed gradient.
        accumulate_steps: pieces that a replica's batch is taken in, to save activations' memory.
    """
    replicas = strategy.num_replicas_in_sync
    share = batch_size // replicas
    values = [variable.value for variable in variables]

    def piece_gradients(batch, step, replica):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = tf.reduce_sum(losses_of(batch, step, replica)) / batch_size
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def gradients_of(batch, step, replica):
        if accumulate_steps == 1:
            return piece_gradients(batch, step, replica)
        pieces = tf.nest.map_structure(
            lambda rows: tf.reshape(
                rows, [accumulate_steps, rows.shape[0] // accumulate_steps, *rows.shape[1:]]
            ),
            batch,
        )
        total = [tf.zeros([], tf.float32), [tf.zeros(value.shape, value.dtype) for value in values]]
        for piece in tf.range(accumulate_steps):
            # Dropout's mask differs between pieces: each counts as a replica of its own.
            rows = {name: pieces[name][piece] for name in pieces}
            added = piece_gradients(rows, step, replica * accumulate_steps + piece)
            total = tf.nest.map_structure(tf.add, total, list(added))
        return total[0], total[1]

    compute = tf.function(gradients_of, jit_compile=True) if compiled else gradients_of

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
        # Several hosts' datasets come without their batch size; XLA and the masks want it.
        batch = {name: tf.ensure_shape(rows, [share, *rows.shape[1:]]) for name, rows in batch.items()}
        loss, gradients = compute(batch, step, replica)
        if clip_norm:
            # Keras sums over replicas when it applies, and clips before: too early. Sum here, and hand on the share.
            if replicas > 1:
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
            gradients = [gradient / replicas for gradient in gradients]
        optimizer.apply(gradients, variables)
        return loss

    @tf.function
    def run_steps(iterator, first_step, count):
        losses = tf.TensorArray(tf.float32, size=count)
        for number in tf.range(count):
            each = strategy.run(replica_step, args=(next(iterator), first_step + number))
            losses = losses.write(number, strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None))
        return losses.stack()

    return run_steps
