"""Losses between images and class centres: softmax with margins, and proxies.

Cosines are kept apart from margins, so that the classes may stand whole on one replica or split over several.
"""

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline import config

SMALLEST_SQUARED_SINE = 1e-12  # under the root: its gradient stays finite where |cos| = 1


def class_cosines(embeddings: tf.Tensor, centers: tf.Tensor) -> tf.Tensor:
    """float32 [B, C] in [-1, 1]: cosine to each class, the nearest of its K sub-centres; K = 1 is plain ArcFace.

    Embeddings [B, D], of any float dtype, and centres float32 [C, K, D] may have any length.

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

    Both are float32 of any shapes that broadcast. Beyond θ + m = π the cosine would rise again; there the line
    cos θ − m·sin m goes on falling, as in the authors' code.
    """
    sine = tf.sqrt(tf.maximum(1.0 - tf.square(cosine), SMALLEST_SQUARED_SINE))
    shifted = cosine * tf.cos(margin_radians) - sine * tf.sin(margin_radians)
    return tf.where(
        cosine > tf.cos(math.pi - margin_radians), shifted, cosine - margin_radians * tf.sin(margin_radians)
    )


def arcface(
    embeddings: tf.Tensor,
    labels: tf.Tensor,
    centers: tf.Tensor,
    options: config.Loss,
    margin_radians: tf.Tensor | float,
    domains: np.ndarray | None = None,
) -> tf.Tensor:
    """Additive angular margin softmax loss of each example.

        −log( e^{s·cos(θ_y + m)} / (e^{s·cos(θ_y + m)} + Σ_{j≠y} e^{s·cos θ_j}) )

    Args:
        embeddings: [B, D]. labels: int [B] in 0 … C−1. centers: [C, K, D] float32.
        options: its `scale` is s, inverse temperature.
        margin_radians: m, a scalar or one a class [C].
        domains: int32 [C], the domain of each class: j runs over the classes of y's own. None: over all.

    Returns:
        float32 [B].

    Source: Deng et al., ArcFace, CVPR 2019.
    """
    own, others = _own_and_others(embeddings, labels, centers, options.scale, domains)
    return margin_loss(own, others, labels, options.scale, margin_radians)


def cosface(embeddings, labels, centers, options: config.Loss, margin_radians=0.0, domains=None) -> tf.Tensor:
    """Additive cosine margin softmax loss: ArcFace's with cos θ_y − `options.margin_cosine` for cos(θ_y + m).

    Arguments and result as `arcface`'s; margin_radians is not used.

    Source: Wang et al., CosFace, CVPR 2018.
    """
    own, others = _own_and_others(embeddings, labels, centers, options.scale, domains)
    return _cross_entropy(own - options.margin_cosine, others, options.scale)


def normface(embeddings, labels, centers, options: config.Loss, margin_radians=0.0, domains=None) -> tf.Tensor:
    """Softmax loss over s·cosines: ArcFace's without margin. Arguments and result as `arcface`'s.

    Source: Wang et al., NormFace, ACM Multimedia 2017.
    """
    own, others = _own_and_others(embeddings, labels, centers, options.scale, domains)
    return _cross_entropy(own, others, options.scale)


def proxy_nca(embeddings, labels, centers, options: config.Loss, margin_radians=0.0, domains=None) -> tf.Tensor:
    """Softmax loss over −s·d², d the distance of unit vectors; the centres are the proxies.

    As in Proxy-NCA++ and pytorch-metric-learning, the own proxy stands in the sum below, too. Since d² = 2 − 2 cos θ,
    it is NormFace at scale 2s. Arguments and result as `arcface`'s.

    Source: Teh et al., ProxyNCA++, ECCV 2020; without the own proxy in the sum: Movshovitz-Attias et al., ICCV 2017.
    """
    own, others = _own_and_others(embeddings, labels, centers, 2.0 * options.scale, domains)
    return _cross_entropy(own, others, 2.0 * options.scale)


def split_cosines(
    embeddings: tf.Tensor, labels: tf.Tensor, centers: tf.Tensor, scale: float, among: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """What a class loss takes from a set of classes, which may be a part of them all.

    Args:
        embeddings: [B, D]. centers: [C, K, D] float32.
        labels: int32 [B], counted from the set's first class; outside 0 … C−1 the example is of another set.
        among: bool [C] or [B, C], the classes j that are summed over; None: all.

    Returns:
        float32 [B] cos θ_y, 0 for an example of another set; float32 [B] log Σ_{j≠y} e^{s·cos θ_j}, very low where
        there is no j.
    """
    cosines = class_cosines(embeddings, centers)  # [B, C]
    own = tf.equal(tf.range(centers.shape[0]), labels[:, None])  # [B, C]
    summed = ~own if among is None else ~own & among
    logits = tf.where(summed, scale * cosines, tf.float32.min / 2)
    return tf.reduce_sum(tf.where(own, cosines, 0.0), axis=1), tf.reduce_logsumexp(logits, axis=1)


def _own_and_others(embeddings, labels, centers, scale: float, domains) -> tuple[tf.Tensor, tf.Tensor]:
    """`split_cosines` of all classes, or for each example of its own domain's."""
    labels, among = tf.cast(labels, tf.int32), None
    if domains is not None:
        among = tf.equal(tf.gather(domains, labels)[:, None], domains)  # [B, C]
    return split_cosines(embeddings, labels, centers, scale, among)


def _cross_entropy(own: tf.Tensor, others: tf.Tensor, scale: float) -> tf.Tensor:
    """−log( e^{s·own} / (e^{s·own} + e^{others}) ), float32 [B]."""
    return tf.nn.softplus(others - scale * own)


def margin_loss(
    own: tf.Tensor, others: tf.Tensor, labels: tf.Tensor, scale: float, margin_radians: tf.Tensor | float
) -> tf.Tensor:
    """ArcFace's loss from `split_cosines` over all classes; float32 [B]."""
    margin = tf.cast(margin_radians, tf.float32)
    if margin.shape.rank:
        margin = tf.gather(margin, tf.cast(labels, tf.int32))  # [B]
    return _cross_entropy(add_angle(own, margin), others, scale)


def class_margins(counts, smallest_radians: float, largest_radians: float, power: float = 0.25):
    """float32 [C]: margins that grow as classes shrink (int [C] images), between the two given: a · n^−power + b.

    Source: Ha et al., Google Landmark Recognition 2020 Competition Third Place Solution, 2020.
    """
    weights = counts.clip(min=1).astype("float64") ** -power
    spread = weights.max() - weights.min()
    share = (weights - weights.min()) / spread if spread else weights * 0.0
    return (smallest_radians + share * (largest_radians - smallest_radians)).astype("float32")


@dataclass(frozen=True)
class Margin:
    """The margin over a phase's steps: linear from `start` to `end`, plus what each class has more; radians."""

    start: float
    end: float
    steps: int
    extra: np.ndarray | np.float32  # float32 scalar or [C]

    @classmethod
    def of(cls, loss: config.Loss, phase: config.Phase, counts: np.ndarray, steps: int) -> "Margin":
        """As the config asks; `counts` int [C], training images a class."""
        start = loss.margin_radians if phase.margin_radians is None else phase.margin_radians
        end = start if phase.end_margin_radians is None else phase.end_margin_radians
        extra: np.ndarray | np.float32 = np.float32(0.0)
        if loss.largest_margin_radians is not None:
            extra = class_margins(counts, 0.0, loss.largest_margin_radians - loss.margin_radians)
        return cls(start, end, steps, extra)

    def at(self, step: tf.Tensor) -> tf.Tensor:
        """float32 scalar or [C], radians, at an int scalar step."""
        share = tf.minimum(tf.cast(step, tf.float32) / max(self.steps, 1), 1.0)
        return self.start + (self.end - self.start) * share + self.extra
