"""Random bits that follow from numbers alone: the same on every device, compiled or not."""

from typing import Any

import tensorflow as tf


def random_bits(numbers: list[Any]) -> tf.Tensor:
    """uint32 bits that follow from the numbers (which are broadcast), the same compiled or not.

    TensorFlow's Philox differs between XLA and plain graphs. The finaliser of MurmurHash3 after each number.
    """
    bits = tf.constant(0x9E3779B9, tf.uint32)
    for number in numbers:
        bits = tf.bitwise.bitwise_xor(bits, tf.cast(number, tf.uint32))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 0x9E3779B1)):
            shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32))
            bits = tf.bitwise.bitwise_xor(bits, shifted) * tf.constant(factor, tf.uint32)
    return bits


def dropout(features: tf.Tensor, rate: float, seed: int, step: Any, replica: Any) -> tf.Tensor:
    """Dropout whose mask follows from (seed, step, row of the global batch), however many replicas share the batch.

    Args:
        features: float [b, width], this replica's rows; replicas hold the batch's rows in order.
        step, replica: int scalars.
    """
    if not rate:
        return features
    rows, width = features.shape
    cells = tf.range(rows * width) + replica * (rows * width)
    threshold = min(int(rate * 2**32), 2**32 - 1)
    kept = random_bits([seed, step, cells]) >= tf.constant(threshold, tf.uint32)
    return features * tf.cast(tf.reshape(kept, [rows, width]), features.dtype) / (1.0 - rate)
