"""Starts of the head from features: principal components, half whitened, or linear discriminants; and of the centres.

Each start is a centre [W] and axes [W, D] for features at unit length; `head_weights` turns them into the head's.
"""

import numpy as np

from pipeline.config import Embedder, Lda
from pipeline.errors import BadInput
from pipeline.retrieval.vectors import class_means, unit_length

WHITENING = 0.25  # of the eigenvalues' power that is divided out: 0 is PCA, 0.5 whitens


def axes(features: np.ndarray, components: int, whitening: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features float [N, W] → (mean float32 [W], axes float32 [W, D]) of them at unit length, widest first.

    Axis d is divided by its eigenvalue to the power `whitening`.
    """
    unit = unit_length(features)
    mean = unit.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((unit - mean).T))  # [W], [W, W], ascending
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    return mean.astype(np.float32), (vectors / np.maximum(values, 1e-12) ** whitening).astype(np.float32)


def principal(name: str, features: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """`axes` by a name: `pca`, or `half_whitened`."""
    return axes(features, components, WHITENING if name == "half_whitened" else 0.0)


def lda_axes(
    features: np.ndarray, labels: np.ndarray, domains: np.ndarray, components: int, options: Lda
) -> tuple[np.ndarray, np.ndarray]:
    """Features float [N, W], classes int [N], their sources int [C] → (mean [W], axes [W, D]), float32, widest first.

    Discriminants that shall hold for classes that were not seen: after PCA, the within-class scatter is shrunk towards
    its mean variance, and what is spread over it is a mixture of the scatter between the classes of a source and the
    total scatter, both of trace 1.

    Source: Fisher 1936; shrinkage after Friedman, Regularized Discriminant Analysis, 1989. The mixture is ours.
    """
    mean, principal = axes(features, min(options.components, *features.shape))
    rows = (unit_length(features) - mean) @ principal  # [N, P]
    means = class_means(rows, labels)  # [C, P]
    inner = rows - means[labels]
    within = inner.T @ inner / len(rows)
    variance = np.trace(within) / len(within)
    within = (1 - options.shrinkage) * within + options.shrinkage * variance * np.eye(len(within))
    apart = means - class_means(means, domains)[domains]
    between, total = apart.T @ apart, rows.T @ rows
    spread = options.between * between / max(np.trace(between), 1e-12)
    spread += (1 - options.between) * total / np.trace(total)
    scale = np.linalg.inv(np.linalg.cholesky(within))  # to where the within-class scatter is the unit matrix
    _, vectors = np.linalg.eigh(scale @ spread @ scale.T)
    found = principal @ scale.T @ vectors[:, ::-1][:, :components]
    return mean, found.astype(np.float32)


def head_weights(mean: np.ndarray, found: np.ndarray) -> list[np.ndarray]:
    """[kernel float32 [W, D], bias float32 [D]] of the projection `(x − mean) @ axes`.

    The scale is that of a random kernel, so learning rates mean what they mean there.
    """
    kernel = found * (np.sqrt(2.0 / sum(found.shape)) / found.std())
    return [kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)]


def start(
    options: Embedder, name: str, features: np.ndarray, labels: np.ndarray, domains: np.ndarray
) -> list[np.ndarray]:
    """The head's weights by a name of `config.training.STARTS`; `domains` int [C] are the classes' sources.

    Raises BadInput: the features have fewer axes than the head has numbers.
    """
    wanted = options.loss_dim
    if name == "lda":
        mean, found = lda_axes(features, labels, domains, wanted, options.lda)
    else:
        mean, found = principal(name, features, wanted)
    if found.shape[1] < wanted:
        why = f"{found.shape[1]} axes are all that {name} finds in features of {features.shape[1]} numbers"
        raise BadInput(f"embedder: expected a head of at most so many numbers, got {wanted}: {why}; or init=random")
    return head_weights(mean, found)


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance, float32 [W], of features float [N, W] at unit length."""
    unit = unit_length(features)
    return unit.mean(axis=0), unit.var(axis=0)


def class_centers(embeddings: np.ndarray, labels: np.ndarray, subcenters: int, seed: int) -> np.ndarray:
    """float32 [C, K, D]: each class's mean direction, K times with a little noise that tells the sub-centres apart."""
    means = unit_length(class_means(embeddings, labels))
    noise = np.random.default_rng(seed).normal(0.0, 0.02, (len(means), subcenters, means.shape[1]))
    return (means[:, None] + (noise if subcenters > 1 else 0.0)).astype(np.float32)
