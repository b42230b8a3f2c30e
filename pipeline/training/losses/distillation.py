"""UDON's terms between a student and the online teachers of its images' domains; float32 inside.

The teacher's side is given as constants. Each term compares within a domain alone, so a batch may hold several.

Source: Ypsilantis et al., UDON, NeurIPS 2024 (arXiv 2406.08332), and its released code.
"""

import tensorflow as tf

# The released code sums squared differences over a device's share of the batch and was tuned on four devices: a quarter
# of the sum over the whole batch, on any number of them. A factor of 4 / B makes it the mean over the pairs.
SIMILARITY_SHARE = 0.25


def own_embeddings(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
    """float32 [b, D], unit length: each image by its own domain's linear head.

    Args:
        features: [b, W], any float dtype and length. domains: int32 [b] in 0 … T−1.
        kernel: float32 [T, W, D]. bias: float32 [T, D].
    """
    unit = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
    every = tf.einsum("bw,twd->btd", unit, kernel) + bias  # [b, T, D]
    own = tf.one_hot(domains, kernel.shape[0])  # [b, T]
    return tf.math.l2_normalize(tf.einsum("btd,bt->bd", every, own), axis=-1)


def logit_divergence(student: tf.Tensor, teacher: tf.Tensor, among: tf.Tensor, temperature: float) -> tf.Tensor:
    """Σ_j q_j · log(q_j / p_j), p = softmax_j(student / T), q = softmax_j(teacher / T): float32 [b], 0 or more.

    Args:
        student, teacher: [b, C], cosines to the class centres of each.
        among: bool [b, C], the classes j of the image's own domain.
        temperature: T, above 0.
    """
    log_p, log_q = (
        tf.nn.log_softmax(tf.where(among, cosines / temperature, tf.float32.min / 4), axis=1)
        for cosines in (student, teacher)
    )
    return tf.reduce_sum(tf.where(among, tf.exp(log_q) * (log_q - log_p), 0.0), axis=1)


def similarity_difference(
    student: tf.Tensor,
    teacher: tf.Tensor,
    domains: tf.Tensor,
    students: tf.Tensor,
    teachers: tf.Tensor,
    every: tf.Tensor,
) -> tf.Tensor:
    """¼ Σ_j (cos(s_i, s_j) − cos(t_i, t_j))², j over the batch's images of i's domain: float32 [b].

    Args:
        student [b, D], teacher [b, W], of unit length; domains: int [b]: of these images i.
        students [B, D], teachers [B, W], every: int [B]: the same of the whole batch.
    """
    of_student = tf.matmul(student, students, transpose_b=True)  # [b, B]
    of_teacher = tf.matmul(teacher, teachers, transpose_b=True)
    same = domains[:, None] == every
    return SIMILARITY_SHARE * tf.reduce_sum(tf.where(same, tf.square(of_student - of_teacher), 0.0), axis=1)
