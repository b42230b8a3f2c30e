"""Principal components of features: a reference row, and a start for the head that beats a random one."""

import numpy as np

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


def head_kernel(features: np.ndarray, components: int) -> np.ndarray:
    """float32 [W, D]: a projection without bias that starts as (partly whitened) PCA.

    The mean's direction is taken out of the axes, which centres the features without a bias; the scale is that of a
    random kernel, so learning rates mean what they mean there.
    """
    mean, found = axes(features, components, WHITENING)
    along = mean / max(float(np.linalg.norm(mean)), 1e-12)
    kernel = found - np.outer(along, along @ found)
    return (kernel * (np.sqrt(2.0 / sum(kernel.shape)) / kernel.std())).astype(np.float32)


def class_centers(embeddings: np.ndarray, labels: np.ndarray, subcenters: int, seed: int) -> np.ndarray:
    """float32 [C, K, D]: each class's mean direction, K times with a little noise that tells the sub-centres apart."""
    means = unit_length(class_means(embeddings, labels))
    noise = np.random.default_rng(seed).normal(0.0, 0.02, (len(means), subcenters, means.shape[1]))
    return (means[:, None] + (noise if subcenters > 1 else 0.0)).astype(np.float32)
