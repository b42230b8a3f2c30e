"""Position embeddings on another grid, against Keys' cubic written out, torch's interpolation and open_clip's."""

import numpy as np
import pytest

from pipeline.models import position_embeddings
from pipeline.models.weights import files

SIZES = [
    (224, 280, 14, 0),
    (224, 290, 14, 2),
    (224, 336, 14, 0),
    (224, 384, 14, 0),
    (384, 224, 14, 0),
    (224, 284, 14, 4),
]


def table_of(side: int, prefix: int = 1, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(prefix + side * side, width)).astype(np.float32)


def cubic(x: float) -> float:
    """Keys' cubic kernel with a = -0.5, support ±2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def slow_matrix(old: int, new: int, antialias: bool) -> np.ndarray:
    """float64 [new, old]: pixel centres at halves, weights outside the image dropped, the rest scaled to sum 1."""
    scale = old / new
    widen = max(scale, 1.0) if antialias else 1.0
    rows = [[cubic((j + 0.5 - (i + 0.5) * scale) / widen) for j in range(old)] for i in range(new)]
    return np.array(rows) / np.sum(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("old", "new"), [(16, 20), (16, 24), (16, 27), (27, 16), (16, 28), (37, 16), (37, 24), (7, 14), (5, 3), (1, 4)]
)
def test_positions_are_keys_cubic_written_out(old, new, antialias):
    """The largest difference is 1.7e-5 (37 → 24 without antialiasing), of numbers up to 4.6."""
    table = table_of(old, prefix=0)
    matrix = slow_matrix(old, new, antialias)
    slow = np.einsum("ai,bj,ijd->abd", matrix, matrix, table.reshape(old, old, -1).astype(np.float64))
    found = position_embeddings.resize_table(table, new, 0, antialias)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow.reshape(new * new, -1), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("old_px", "new_px", "patch", "overlap"), SIZES)
def test_positions_are_resized_as_open_clip_resizes_them(old_px, new_px, patch, overlap):
    torch = pytest.importorskip("torch")
    files.import_open_clip()
    from open_clip.model import resize_pos_embed

    old = position_embeddings.grid_side(old_px, patch)
    new = position_embeddings.grid_side(new_px, patch, overlap)
    table = table_of(old)

    class Model:  # what open_clip's function looks at
        class visual:
            grid_size = (new, new)

    state = {"visual.positional_embedding": torch.from_numpy(table)}
    resize_pos_embed(state, Model)
    theirs = state["visual.positional_embedding"].numpy()
    np.testing.assert_allclose(position_embeddings.resize_table(table, new, 1), theirs, atol=1e-5)


def test_without_antialiasing_positions_are_kerashubs():
    import tensorflow as tf

    table = table_of(37, prefix=0)
    theirs = tf.image.resize(table.reshape(37, 37, -1), (16, 16), method="bicubic", antialias=False)
    ours = position_embeddings.resize_table(table, 16, 0, antialias=False)
    np.testing.assert_allclose(ours, np.reshape(theirs, (256, -1)), atol=2e-5)
    smoothed = position_embeddings.resize_table(table, 16, 0)
    assert np.abs(ours - smoothed).max() > 0.1  # the two rules do differ


def test_class_tokens_position_is_kept_and_a_flat_table_stays_flat():
    table = np.ones((1 + 49, 4), np.float32)
    table[0] = 7
    resized = position_embeddings.resize_table(table, 20, 1)
    np.testing.assert_array_equal(resized[0], 7)
    np.testing.assert_allclose(resized[1:], 1, atol=1e-6)
    np.testing.assert_array_equal(position_embeddings.resize_table(table, 7, 1), table)


@pytest.mark.parametrize("patches", [48, 0])
def test_a_table_that_is_no_square_is_refused(patches):
    with pytest.raises(ValueError, match="square"):
        position_embeddings.resize_table(np.zeros((1 + patches, 4), np.float32), 8, 1)


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [(224, 14, 0), (290, 14, 2), (284, 14, 4), (384, 14, 0), (33, 8, 3)]
)
def test_grid_counts_the_windows_that_fit(size, patch, overlap):
    fitting = [start for start in range(0, size, patch - overlap) if start + patch <= size]
    assert position_embeddings.grid_side(size, patch, overlap) == len(fitting)
