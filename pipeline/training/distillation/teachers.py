"""The online teachers: their heads and classifiers as variables, and their part of the loss on a replica.

Source: Ypsilantis et al., UDON, NeurIPS 2024 (arXiv 2406.08332), and its released code.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.errors import BadInput
from pipeline.retrieval.vectors import class_means, unit_length
from pipeline.training import starts
from pipeline.training.class_centers import gathered
from pipeline.training.losses import LOSSES, distillation
from pipeline.training.losses.class_losses import class_cosines

TERMS = 4.0  # the loss is the mean of two cross-entropies and two distillation terms, whatever their factors


@dataclass(frozen=True)
class Teachers:
    """T teachers of D numbers on features of W, over C classes; and what sampling by their losses goes on with."""

    options: config.Teachers
    kernel: keras.Variable  # float32 [T, W, D]
    bias: keras.Variable  # float32 [T, D]
    centers: keras.Variable  # float32 [C, 1, D]
    measured: keras.Variable  # float32 [2, T]: summed cross-entropy and images of each source, both over the batch size
    shares: keras.Variable  # float32 [T], each source's share by its loss; 0: none set yet
    batches: keras.Variable  # int64 [T], of each source in this phase, before the shares were set

    @property
    def sources(self) -> int:
        """T, how many they are."""
        return self.bias.shape[0]

    @property
    def trained(self) -> list[keras.Variable]:
        """Heads, then classifiers."""
        return [self.kernel, self.bias, self.centers]

    @property
    def variables(self) -> list[keras.Variable]:
        """All that a checkpoint holds."""
        return [*self.trained, self.measured, self.shares, self.batches]

    def assign(self, kernel: np.ndarray, bias: np.ndarray, centers: np.ndarray) -> None:
        """Puts heads and classifiers in place, in the shapes of `trained`."""
        for variable, values in zip(self.trained, (kernel, bias, centers), strict=True):
            variable.assign(values)

    def start(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Every head as the principal components of all features float [N, W], classes as the means of their images.

        BadInput where features have fewer axes than the teachers have numbers.
        """
        mean, axes = starts.principal("pca", features, dim := self.bias.shape[1])
        if axes.shape[1] < dim:
            came = f"{dim}: {axes.shape[1]} axes are all that features of {features.shape[1]} numbers have"
            raise BadInput(f"train.teachers.dim: expected at most as many, got {came}; or init=random")
        kernel, bias = starts.head_weights(mean, axes)
        pieces = np.array_split(np.asarray(features), -(-len(features) // 4096))
        embedded = np.concatenate([unit_length(unit_length(piece) @ kernel + bias) for piece in pieces])
        centers = unit_length(class_means(embedded, labels))[:, None]
        self.assign(np.stack([kernel] * self.sources), np.stack([bias] * self.sources), centers)

    def crosses_replicas(self, replicas: int) -> bool:
        """Whether `losses` calls collectives, see `ClassCenters.crosses_replicas`."""
        return replicas > 1 and self.options.similarities > 0

    def losses(
        self,
        features: tf.Tensor,
        student: tf.Tensor,
        student_losses: tf.Tensor,
        labels: tf.Tensor,
        student_centers: tf.Tensor,
        loss: config.Loss,
        margin_radians: tf.Tensor | float,
        domains: np.ndarray,
        compiled: bool,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of each of this replica's examples, of student and teachers; call it in a replica's context.

            ¼ · (CE of the student + CE of the teacher + `logits` · divergence + `similarities` · difference)

        Args:
            features: float32 [b, W], the encoder's. labels: int32 [b].
            student: float32 [b, D'], embeddings for distillation, unit length. student_losses: float32 [b].
            student_centers: float32 [C, K, D'].
            loss, margin_radians: the classifiers', of both sides.
            domains: int32 [C], the domain of each class.
            compiled: XLA compiles what is between collectives, where this `crosses_replicas`.

        Returns:
            float32 [b]; float32 [2, T], the teachers' summed cross-entropy and the images of each domain.
        """
        context = tf.distribute.get_replica_context()
        crosses = self.crosses_replicas(context.num_replicas_in_sync)
        options = self.options

        def alone(features, student, labels, student_centers, margin):
            """What an example needs no other for: teacher [b, D], its loss [b], the divergence [b], its domain [b]."""
            own = tf.gather(domains, labels)
            teacher = distillation.own_embeddings(features, self.kernel.value, self.bias.value, own)
            centers = self.centers.value
            losses = LOSSES[loss.name](teacher, labels, centers, loss, margin, domains)
            teacher = tf.stop_gradient(teacher)
            divergence = tf.zeros_like(losses)
            if options.logits:
                cosines = class_cosines(student, student_centers), class_cosines(teacher, tf.stop_gradient(centers))
                divergence = distillation.logit_divergence(*cosines, own[:, None] == domains, options.temperature)
            return teacher, losses, divergence, own

        def by_xla(function):
            return tf.function(function, jit_compile=True) if compiled and crosses else function

        given = features, student, labels, tf.convert_to_tensor(student_centers), margin_radians
        teacher, losses, divergence, own = by_xla(alone)(*given)
        total = student_losses + losses + options.logits * divergence
        if options.similarities:
            students, teachers, every = student, teacher, own
            if crosses:
                width = student.shape[1]
                _, both, every = gathered(context, tf.concat([student, teacher], axis=1), own)
                students, teachers = both[:, :width], both[:, width:]
            compare = by_xla(distillation.similarity_difference)
            total += options.similarities * compare(student, teacher, own, students, teachers, every)
        of_domain = tf.one_hot(own, self.sources)  # [b, T]
        images = tf.reduce_sum(of_domain, axis=0)
        summed = tf.linalg.matvec(of_domain, tf.stop_gradient(losses), transpose_a=True)
        return total / TERMS, tf.stack([summed, images])


def build(options: config.Teachers, domains: int, classes: int, width: int, seed: int) -> Teachers:
    """Teachers with random weights that follow from the seed. Call it in the strategy's scope.

    The scale of the classifiers is that of class means, unit length, so that learning rates mean the same.
    """
    assert options.dim
    shapes = {"kernel": (domains, width, options.dim), "bias": (domains, options.dim)}
    shapes["centers"] = (classes, 1, options.dim)
    trained = {
        name: keras.Variable("zeros", shape=shape, dtype="float32", name=f"teacher_{name}")
        for name, shape in shapes.items()
    }
    # Every replica moves them by the same numbers.
    same: dict[str, Any] = {"initializer": "zeros", "trainable": False, "aggregation": "only_first_replica"}
    kept = {
        "measured": keras.Variable(shape=(2, domains), dtype="float32", name="teacher_measured", **same),
        "shares": keras.Variable(shape=(domains,), dtype="float32", name="source_shares", **same),
        "batches": keras.Variable(shape=(domains,), dtype="int64", name="source_batches", **same),
    }
    built = Teachers(options, **trained, **kept)
    built.assign(*random_values(built, seed))
    return built


def random_values(teachers: Teachers, seed: int) -> list[np.ndarray]:
    """Heads as Keras starts a Dense, classes of about unit length: the values of `Teachers.assign`, float32."""
    rng = np.random.default_rng(seed)
    domains, width, dim = teachers.kernel.shape
    most = np.sqrt(6.0 / (width + dim))
    kernel = rng.uniform(-most, most, (domains, width, dim))
    centers = rng.normal(0.0, dim**-0.5, teachers.centers.shape)
    return [kernel.astype(np.float32), np.zeros((domains, dim), np.float32), centers.astype(np.float32)]
