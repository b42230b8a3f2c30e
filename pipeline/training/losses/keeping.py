"""Terms that keep what the encoder knew where the run started (`phases.keep`); float32 inside.

The teacher is that encoder: its features are constants.
"""

from collections.abc import Sequence

import tensorflow as tf


def feature_distance(features: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """float32 [b] in [0, 2]: 1 − cosine between each feature and the teacher's; both [b, W] of any float dtype."""
    return 1.0 - tf.reduce_sum(_unit(features) * _unit(teacher), axis=-1)


def similarity_divergence(embeddings: tf.Tensor, teacher: tf.Tensor, temperature: float) -> tf.Tensor:
    """How far the images' likeness to each other has left the teacher's.

        Σ_{j≠i} q_ij · log(q_ij / p_ij),   p_i = softmax_{j≠i}(cos(e_i, e_j) / T),   q_i the same of the teacher's

    Args:
        embeddings: [b, D]; teacher: [b, W]; any float dtypes and lengths. The images are compared within these b.
        temperature: T, above 0.

    Returns:
        float32 [b], 0 or more; 0 for one or two images, which leave nothing to tell apart.

    Source: Passalis and Tefas, Probabilistic Knowledge Transfer, ECCV 2018, with a softmax at a temperature in place
    of its kernel, as in Fang et al., SEED, ICLR 2021.
    """
    student, taught = (_log_shares(rows, temperature) for rows in (embeddings, teacher))  # [b, b]
    return tf.reduce_sum(tf.exp(taught) * (taught - student), axis=1)


def weight_distance(values: Sequence[tf.Tensor], starts: Sequence[tf.Tensor]) -> tf.Tensor:
    """float32 scalar: half the sum of (value − start)² over all weights, pair by pair of equal shape.

    Source: Li et al., L2-SP, ICML 2018.
    """
    moved = (
        tf.cast(value, tf.float32) - tf.cast(start, tf.float32) for value, start in zip(values, starts, strict=True)
    )
    return sum((tf.nn.l2_loss(each) for each in moved), tf.zeros([]))


def _unit(rows: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(rows, tf.float32), axis=-1)


def _log_shares(rows: tf.Tensor, temperature: float) -> tf.Tensor:
    """float32 [b, b]: log softmax of cosine / temperature over the other rows; very low on the diagonal."""
    unit = _unit(rows)
    logits = tf.matmul(unit, unit, transpose_b=True) / temperature
    itself = tf.eye(tf.shape(unit)[0], dtype=tf.bool)
    return tf.nn.log_softmax(tf.where(itself, tf.float32.min / 4, logits), axis=1)
