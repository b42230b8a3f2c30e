"""UDON's terms and shares against slow, obvious NumPy; what stands still, and what the encoder is kept from."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config
from pipeline.config import Sampling
from pipeline.data import sampler
from pipeline.training.distillation import source_shares, teachers
from pipeline.training.losses import LOSSES, distillation

B, W, D, T, C = 9, 7, 5, 3, 8
RNG = np.random.default_rng(4)
FEATURES = RNG.normal(size=(B, W)).astype(np.float32)
CLASS_DOMAINS = np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int32)
LABELS = np.array([0, 2, 1, 3, 4, 6, 7, 5, 1], np.int32)
OWN = CLASS_DOMAINS[LABELS]
STUDENT = RNG.normal(size=(B, 4)).astype(np.float32)
STUDENT /= np.linalg.norm(STUDENT, axis=1, keepdims=True)
CENTERS = RNG.normal(size=(C, 1, 4)).astype(np.float32)
LOSS = config.Loss(name="normface", scale=16.0, own_domain=True)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def built(**options):
    found = teachers.build(config.Teachers(dim=D, **options), T, C, W, seed=1)
    found.bias.assign(RNG.normal(size=(T, D)))
    return found


def slow_teacher(found, image):
    kernel, bias = np.array(found.kernel), np.array(found.bias)
    return unit(unit(FEATURES[image]) @ kernel[OWN[image]] + bias[OWN[image]])


def slow_losses(found, options):
    """¼ (CE + CE + KL + difference) of each image, one at a time; the teachers' cross-entropies."""
    embedded = [slow_teacher(found, image) for image in range(B)]
    centers = unit(np.array(found.centers)[:, 0]), unit(CENTERS[:, 0])
    totals, taught = [], []
    for image in range(B):
        classes = [each for each in range(C) if CLASS_DOMAINS[each] == OWN[image]]
        place = classes.index(LABELS[image])
        of_teacher = np.array([embedded[image] @ centers[0][each] for each in classes])
        of_student = np.array([STUDENT[image] @ centers[1][each] for each in classes])
        entropies = [-np.log(softmax(16.0 * cosines)[place]) for cosines in (of_student, of_teacher)]
        q, p = (softmax(cosines / options.temperature) for cosines in (of_teacher, of_student))
        divergence = sum(q * (np.log(q) - np.log(p)))
        difference = sum(
            (STUDENT[image] @ STUDENT[other] - embedded[image] @ embedded[other]) ** 2
            for other in range(B)
            if OWN[other] == OWN[image]
        )
        total = sum(entropies) + options.logits * divergence + options.similarities * difference / 4
        totals.append(total / 4)
        taught.append(entropies[1])
    return np.array(totals), np.array(taught)


def found_losses(found, student=None, features=None):
    student = tf.constant(STUDENT) if student is None else student
    alone = student_loss(student)
    features = tf.constant(FEATURES) if features is None else features
    given = tf.constant(LABELS), tf.constant(CENTERS), LOSS, 0.0, CLASS_DOMAINS, False
    return found.losses(features, student, alone, *given)


def student_loss(student):
    return LOSSES["normface"](student, tf.constant(LABELS), tf.constant(CENTERS), LOSS, 0.0, CLASS_DOMAINS)


@pytest.mark.parametrize(
    "options", [{}, {"logits": 0.5, "similarities": 2.0, "temperature": 0.3}, {"similarities": 0.0}]
)
def test_losses_are_those_of_the_formula_image_by_image(options):
    found = built(**options)
    each, measured = found_losses(found)
    expected, taught = slow_losses(found, found.options)
    np.testing.assert_allclose(each, expected, rtol=2e-5, atol=2e-6)
    sums = [[taught[domain == OWN].sum() for domain in range(T)], np.bincount(OWN, minlength=T)]
    np.testing.assert_allclose(measured, sums, rtol=1e-5)


def test_distillation_moves_the_student_alone():
    """Teachers, and the features by their way, have the gradient of the teachers' cross-entropy and nothing else."""
    found = built(logits=3.0, similarities=3.0)
    plain = built(logits=0.0, similarities=0.0)
    plain.assign(*(np.array(variable) for variable in found.trained))

    def gradients(of):
        features, student = tf.constant(FEATURES), tf.constant(STUDENT)
        watched = [features, student, *(variable.value for variable in of.trained)]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            total = tf.reduce_sum(found_losses(of, student, features)[0])
        return tape.gradient(total, watched)

    with_terms, without = gradients(found), gradients(plain)
    for one, other in zip(with_terms[:1] + with_terms[2:], without[:1] + without[2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert np.abs(with_terms[1] - without[1]).max() > 0.01


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it():
    cosines = tf.constant(RNG.uniform(-1, 1, (B, C)).astype(np.float32))
    among = tf.constant(OWN[:, None] == CLASS_DOMAINS)
    np.testing.assert_allclose(distillation.logit_divergence(cosines, cosines, among, 0.1), 0.0, atol=1e-6)
    rows = tf.constant(STUDENT)
    none = distillation.similarity_difference(rows, rows, OWN, rows, rows, OWN)
    np.testing.assert_array_equal(none, np.zeros(B))


def test_the_similarities_factor_of_four_by_the_batch_is_a_mean_over_pairs():
    """And 1 is what the released code has on its four devices of a batch: the quarter of a sum."""
    one_domain = np.zeros(B, np.int32)
    teacher = tf.constant(unit(RNG.normal(size=(B, 6))).astype(np.float32))
    rows = tf.constant(STUDENT)
    each = distillation.similarity_difference(rows, teacher, one_domain, rows, teacher, one_domain)
    squares = (STUDENT @ STUDENT.T - teacher.numpy() @ teacher.numpy().T) ** 2
    np.testing.assert_allclose(np.mean(each) * 4 / B, squares.mean(), rtol=1e-5)


def test_teachers_start_as_components_of_the_features_and_class_means():
    features = RNG.normal(size=(60, W)).astype(np.float32) * np.linspace(3, 1, W)
    labels = np.arange(60) % C
    found = built()
    found.start(features, labels)
    kernel, bias, centers = map(np.array, found.trained)
    assert (kernel == kernel[0]).all() and (bias == bias[0]).all()
    rows = unit(features)
    projected = rows @ kernel[0] + bias[0]
    np.testing.assert_allclose(projected.mean(axis=0), 0.0, atol=1e-5)
    covariance = np.cov(projected.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-5)
    means = unit(np.stack([unit(projected[labels == each]).mean(axis=0) for each in range(C)]))
    np.testing.assert_allclose(centers[:, 0], means, atol=1e-5)


def slow_shares(losses, before):
    """As the released code: shares of those that were seen, then all scaled to 1."""
    found = dict(enumerate(before))
    total = sum(np.mean(each) for each in losses.values())
    found |= {domain: np.mean(each) / total for domain, each in losses.items()}
    return [found[domain] / sum(found.values()) for domain in sorted(found)]


@pytest.mark.parametrize("seen", [(0, 1, 2), (0, 2), (1,)])
def test_shares_are_the_mean_losses_over_their_sum(seen):
    losses = {domain: RNG.uniform(0.1, 5.0, 4 + domain) for domain in seen}
    before = np.array([0.5, 0.3, 0.2])
    summed, images = np.zeros(T), np.zeros(T)
    for domain, each in losses.items():
        summed[domain], images[domain] = each.sum(), len(each)
    np.testing.assert_allclose(source_shares.shares_of(summed, images, before), slow_shares(losses, before))


def test_shares_are_set_from_what_was_measured_and_counts_go_on():
    domains = np.repeat(["a", "b", "c"], 10)
    sampling = Sampling(one_domain=True, domains="losses", losses_every_steps=7)
    order = sampler.order(np.arange(30), domains, 0, sampling)
    found = built()
    source_shares.begin(found)
    early = source_shares.order_from(order, found, sampling, 3)
    assert [early.domain(step) for step in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    found.measured.assign([[6.0, 1.0, 1.0], [2.0, 1.0, 1.0]])
    shares = source_shares.renew(order, found, sampling, 7)
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], rtol=1e-6)
    assert np.array(found.batches).tolist() == [3, 2, 2] and not np.array(found.measured).any()
    later = source_shares.order_from(order, found, sampling, 12)
    assert later.shares.step == 7 and later.batches_before(7).tolist() == [3, 2, 2]
    found.measured.assign([[0.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    source_shares.renew(order, found, sampling, 14)
    np.testing.assert_allclose(np.array(found.shares), np.array([0.6, 1.0, 0.2]) / 1.8, rtol=1e-6)
    source_shares.begin(found)  # the next phase counts anew, and goes on by these shares
    assert not np.array(found.batches).any() and np.array(found.shares).any()
