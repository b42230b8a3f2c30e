"""Losses that compare the images of a batch with each other, without class centres; float32 inside.

Each takes a part of the batch as anchors and compares them with the whole batch, which several replicas may have
gathered. It gives one number an anchor; the loss of the batch is their mean over ALL anchors, 0 included. An anchor
without a positive (another image of its class) gives 0.
"""

from collections.abc import Callable

import tensorflow as tf

from pipeline import config

# Multi-similarity's constants: the paper's, and 0.5 of the authors' code (`thresh`) for the base.
POSITIVE_SCALE, NEGATIVE_SCALE, BASE_COSINE, MINING_COSINE = 2.0, 50.0, 0.5, 0.1
FAR = tf.float32.max / 4  # a cosine that no mined pair has; finite, so that gradients are


def multi_similarity(
    anchors: tf.Tensor, anchor_labels: tf.Tensor, first, others: tf.Tensor, labels: tf.Tensor, options: config.Loss
) -> tf.Tensor:
    """Multi-similarity loss of each anchor, with the paper's mining.

        1/2·log(1 + Σ_p e^{−2·(cos θ_p − ½)}) + 1/50·log(1 + Σ_n e^{50·(cos θ_n − ½)})

    over the positives less alike than the most alike negative plus 0.1, and the negatives more alike than the least
    alike positive minus 0.1. An anchor without a negative gives 0, too.

    Args:
        anchors: [b, D], any float dtype and length. anchor_labels: int [b].
        first: the first anchor's row in `others`; the anchors stand there in one piece.
        others: [B, D], the whole batch. labels: int [B].
        options: none of its keys.

    Returns:
        float32 [b].

    Source: Wang et al., Multi-Similarity Loss, CVPR 2019.
    """
    cosines, positive, negative = _pairs(anchors, anchor_labels, first, others, labels)
    least_alike, most_alike = _hardest(cosines, positive, negative)  # [b] each
    hard_positive = positive & (cosines < most_alike[:, None] + MINING_COSINE)
    hard_negative = negative & (cosines > least_alike[:, None] - MINING_COSINE)
    shifted = cosines - BASE_COSINE
    pull = tf.nn.softplus(_log_sum_exp(-POSITIVE_SCALE * shifted, hard_positive)) / POSITIVE_SCALE
    push = tf.nn.softplus(_log_sum_exp(NEGATIVE_SCALE * shifted, hard_negative)) / NEGATIVE_SCALE
    return pull + push


def supcon(
    anchors: tf.Tensor, anchor_labels: tf.Tensor, first, others: tf.Tensor, labels: tf.Tensor, options: config.Loss
) -> tf.Tensor:
    """Supervised contrastive loss of each anchor (the paper's L_out), temperature 1 / `options.scale`.

        −mean_p log( e^{s·cos θ_p} / Σ_{j≠i} e^{s·cos θ_j} )

    over the anchor's positives p; j runs over the batch without the anchor. Arguments as `multi_similarity`'s.

    Source: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020.
    """
    cosines, positive, negative = _pairs(anchors, anchor_labels, first, others, labels)
    logits = options.scale * cosines
    falls = _log_sum_exp(logits, positive | negative)[:, None] - logits  # −log of each share [b, B]
    positives = tf.reduce_sum(tf.cast(positive, tf.float32), axis=1)
    return tf.reduce_sum(tf.where(positive, falls, 0.0), axis=1) / tf.maximum(positives, 1.0)


def triplet(
    anchors: tf.Tensor, anchor_labels: tf.Tensor, first, others: tf.Tensor, labels: tf.Tensor, options: config.Loss
) -> tf.Tensor:
    """Triplet loss of each anchor, batch-hard: its farthest positive against its nearest negative.

        max(0, (1 − cos θ_p) − (1 − cos θ_n) + `options.margin_cosine`)

    An anchor without a negative gives 0, too. Arguments as `multi_similarity`'s.

    Source: Hermans et al., In Defense of the Triplet Loss, 2017; here the distance is 1 − cosine.
    """
    least_alike, most_alike = _hardest(*_pairs(anchors, anchor_labels, first, others, labels))
    return tf.nn.relu(most_alike - least_alike + options.margin_cosine)


def _pairs(anchors, anchor_labels, first, others, labels) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """float32 [b, B] cosines; bool [b, B] positives, without the anchor itself; bool [b, B] negatives."""
    anchors = tf.math.l2_normalize(tf.cast(anchors, tf.float32), axis=-1)
    others = tf.math.l2_normalize(tf.cast(others, tf.float32), axis=-1)
    same = tf.cast(anchor_labels, tf.int32)[:, None] == tf.cast(labels, tf.int32)
    itself = (first + tf.range(tf.shape(anchors)[0]))[:, None] == tf.range(tf.shape(others)[0])
    return tf.matmul(anchors, others, transpose_b=True), same & ~itself, ~same


def _hardest(cosines, positive, negative) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 [b] the least cosine of a positive, the largest of a negative; FAR and −FAR where there is none."""
    least_alike = tf.reduce_min(tf.where(positive, cosines, FAR), axis=1)
    return least_alike, tf.reduce_max(tf.where(negative, cosines, -FAR), axis=1)


def _log_sum_exp(logits, chosen) -> tf.Tensor:
    """float32 [b], over the chosen; where none is, a number so low that its exponential is 0."""
    return tf.reduce_logsumexp(tf.where(chosen, logits, -FAR), axis=1)


PAIR_LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "multi_similarity": multi_similarity,
    "supcon": supcon,
    "triplet": triplet,
}
