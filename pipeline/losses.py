"""Losses as pure functions, float32 inside whatever the compute dtype.

Cosines are kept apart from margins, so that the classes may stand whole on one replica or split over several.
"""

import math

import tensorflow as tf

SMALLEST_SQUARED_SINE = 1e-12  # under the root: its gradient stays finite where |cos| = 1


def class_cosines(embeddings: tf.Tensor, centers: tf.Tensor) -> tf.Tensor:
    """Cosine to each class, the nearest of its K sub-centres.

    Args:
        embeddings: [B, D], any length, any float dtype.
        centers: [C, K, D] float32, any length; K = 1 is plain ArcFace.

    Returns:
        float32 [B, C], within [-1, 1].

    Source of sub-centres: Deng et al., Sub-center ArcFace, ECCV 2020.
    """
    classes, subcenters, width = centers.shape
    unit = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=-1)  # [B, D]
    units = tf.math.l2_normalize(tf.cast(centers, tf.float32), axis=-1)  # [C, K, D]
    cosines = tf.matmul(unit, tf.reshape(units, [-1, width]), transpose_b=True)  # [B, C·K]
    if subcenters > 1:
        cosines = tf.reduce_max(tf.reshape(cosines, [-1, classes, subcenters]), axis=-1)
    return tf.clip_by_value(cosines, -1.0, 1.0)


def add_angle(cosine: tf.Tensor, margin_radians: tf.Tensor) -> tf.Tensor:
    """cos(θ + m) from cos θ, without arccos and without NaN at |cos| = 1.

    Beyond θ + m = π the cosine would rise again; there the line cos θ − m·sin m goes on falling, as in the authors'
    code.

    Args:
        cosine: float32, any shape. margin_radians: float32, broadcastable.
    """
    sine = tf.sqrt(tf.maximum(1.0 - tf.square(cosine), SMALLEST_SQUARED_SINE))
    shifted = cosine * tf.cos(margin_radians) - sine * tf.sin(margin_radians)
    return tf.where(
        cosine > tf.cos(math.pi - margin_radians), shifted, cosine - margin_radians * tf.sin(margin_radians)
    )


def arcface(
    embeddings: tf.Tensor, labels: tf.Tensor, centers: tf.Tensor, scale: float, margin_radians: tf.Tensor
) -> tf.Tensor:
    """Additive angular margin softmax loss of each example.

        −log( e^{s·cos(θ_y + m)} / (e^{s·cos(θ_y + m)} + Σ_{j≠y} e^{s·cos θ_j}) )

    Args:
        embeddings: [B, D]. labels: int [B] in 0 … C−1. centers: [C, K, D] float32.
        scale: s, inverse temperature.
        margin_radians: m, a scalar or one a class [C].

    Returns:
        float32 [B].

    Source: Deng et al., ArcFace, CVPR 2019.
    """
    cosines = class_cosines(embeddings, centers)  # [B, C]
    labels = tf.cast(labels, tf.int32)
    margin = tf.cast(margin_radians, tf.float32)
    if margin.shape.rank:
        margin = tf.gather(margin, labels)  # [B]
    own = tf.gather(cosines, labels, axis=1, batch_dims=1)  # [B]
    shifted = add_angle(own, margin)
    # One pass over [B, C]: the plain softmax, then the label's term exchanged for the shifted one.
    others = tf.reduce_logsumexp(_without_own(scale * cosines, labels), axis=1)  # [B]
    return tf.nn.softplus(others - scale * shifted)


def _without_own(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    own = tf.one_hot(labels, logits.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.where(own, logits.dtype.min / 2, logits)


def class_margins(counts, smallest_radians: float, largest_radians: float, power: float = 0.25):
    """Margins that grow as classes shrink, between the two given: a · n^−power + b.

    Args:
        counts: int NumPy array [C], training images a class.

    Returns:
        float32 NumPy array [C].

    Source: Ha et al., Google Landmark Recognition 2020 Competition Third Place Solution, 2020.
    """
    weights = counts.clip(min=1).astype("float64") ** -power
    spread = weights.max() - weights.min()
    share = (weights - weights.min()) / spread if spread else weights * 0.0
    return (smallest_radians + share * (largest_radians - smallest_radians)).astype("float32")
