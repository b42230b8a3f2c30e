"""Random bits that follow from numbers alone: the same on every device, compiled or not."""

from typing import Any

import tensorflow as tf


def mixed(numbers: list[Any]) -> tf.Tensor:
    """uint32 that looks random, the same on every device: TensorFlow's own Philox differs between XLA
    and plain graphs.

    The finaliser of MurmurHash3 after each number.
    """
    bits = tf.constant(0x9E3779B9, tf.uint32)
    for number in numbers:
        bits = tf.bitwise.bitwise_xor(bits, tf.cast(number, tf.uint32))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 0x9E3779B1)):
            shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32))
            bits = tf.bitwise.bitwise_xor(bits, shifted) * tf.constant(factor, tf.uint32)
    return bits
