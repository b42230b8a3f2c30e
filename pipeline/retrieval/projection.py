"""Vectors → points of a plane, for the map of pages: UMAP where umap-learn is installed, else PCA."""

import sys
import warnings
from importlib.util import find_spec

import numpy as np

FEWEST, MOST = 16, 20_000  # vectors of a UMAP: below it has no neighbourhoods, above it takes minutes


def method_of(count: int) -> str:
    """By which method `plane` lays out `count` vectors: "UMAP" or "PCA". Imports neither."""
    return "UMAP" if FEWEST <= count <= MOST and find_spec("umap") else "PCA"


def plane(vectors: np.ndarray, method: str = "") -> np.ndarray:
    """float [N, D], finite → float32 [N, 2] in 0 … 1, the same at every call; both axes have one scale.

    `method`: "PCA" or "UMAP"; "" is that of `method_of`.

    >>> plane(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])).tolist()
    [[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]]
    """
    rows = np.asarray(vectors, np.float32)
    points = _umap(rows) if (method or method_of(len(rows))) == "UMAP" else _pca(rows)
    if not len(points):
        return np.zeros((0, 2), np.float32)
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5
    return np.clip(scaled, 0, 1).astype(np.float32)


def _pca(rows: np.ndarray) -> np.ndarray:
    """float [N, D] → float [N, 2], the two directions of the largest variance, each with its sign settled."""
    centred = rows - rows.mean(axis=0, keepdims=True) if len(rows) else rows
    _, directions = np.linalg.eigh(centred.T @ centred)  # in order of rising variance
    first = directions[:, ::-1][:, :2]  # [D, ≤2]
    largest = np.abs(first).argmax(axis=0)
    found = centred @ (first * np.sign(first[largest, np.arange(first.shape[1])]))
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def _umap(rows: np.ndarray) -> np.ndarray:
    # Of it alone: its neural kind would import TensorFlow, torch and torchvision, and needs all three to fit.
    sys.modules.setdefault("umap.parametric_umap", None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that this kind is absent, and that a seed takes one thread
        import umap  # slow to import

        neighbours = min(15, len(rows) - 1)
        return umap.UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=0, n_jobs=1).fit_transform(rows)
