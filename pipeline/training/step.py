"""The training step: a plain loop under `tf.distribute`, one function for CPU, GPU and TPU."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.data.stateless_rng import mixed
from pipeline.training.class_centers import is_own


def drop_features(features: tf.Tensor, rate: float, seed: int, step, replica) -> tf.Tensor:
    """Dropout whose mask depends on (seed, step, place in the global batch) alone, not on how many replicas share it.

    Args:
        features: float [b, width], this replica's rows; replicas hold the batch's rows in order.
        step, replica: int scalars.
    """
    if not rate:
        return features
    rows, width = features.shape
    places = tf.range(rows * width) + replica * (rows * width)
    threshold = min(int(rate * 2**32), 2**32 - 1)
    kept = mixed([seed, step, places]) >= tf.constant(threshold, tf.uint32)
    return features * tf.cast(tf.reshape(kept, [rows, width]), features.dtype) / (1.0 - rate)


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
        compiled: by XLA; what crosses between replicas inside `losses_of` cannot be.
        clip_norm: largest norm of the summed gradient.
        accumulate_steps: pieces that a replica's batch is taken in, to save activations' memory.
    """
    replicas = strategy.num_replicas_in_sync
    share = batch_size // replicas
    values = [variable.value for variable in variables]
    own = [is_own(variable) for variable in variables]

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
        # Collectives cannot stand in a graph's loop: a plain one where replicas hold variables of their own.
        for piece in range(accumulate_steps) if any(own) else tf.range(accumulate_steps):
            # Dropout's mask differs between pieces: each counts as a replica of its own.
            rows = {name: pieces[name][piece] for name in pieces}
            added = piece_gradients(rows, step, replica * accumulate_steps + piece)
            total = tf.nest.map_structure(tf.add, total, list(added))
        return total[0], total[1]

    def summed(context, gradients):
        """Over replicas, but for the variables that each has for itself."""
        if replicas == 1:
            return gradients
        shared = [gradient for gradient, alone in zip(gradients, own, strict=True) if not alone]
        totals = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, shared))
        return [gradient if alone else next(totals) for gradient, alone in zip(gradients, own, strict=True)]

    def clipped(context, gradients):
        """By the norm over all replicas' gradients: after the sum, where Keras would clip before it."""
        squares = [tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
        total = tf.add_n([square for square, alone in zip(squares, own, strict=True) if not alone] or [0.0])
        if any(own):
            of_own = tf.add_n([square for square, alone in zip(squares, own, strict=True) if alone])
            total += context.all_reduce(tf.distribute.ReduceOp.SUM, of_own)
        factor = clip_norm / tf.maximum(tf.sqrt(total), clip_norm)
        return [gradient * factor for gradient in gradients]

    compute = tf.function(gradients_of, jit_compile=True) if compiled else gradients_of

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
        # Several hosts' datasets come without their batch size; XLA and the masks want it.
        batch = {name: tf.ensure_shape(rows, [share, *rows.shape[1:]]) for name, rows in batch.items()}
        loss, gradients = compute(batch, step, replica)
        gradients = summed(context, gradients)
        if clip_norm:
            gradients = clipped(context, gradients)
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
