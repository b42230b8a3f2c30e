"""Position embeddings on another grid, against torch's interpolation and open_clip's own resizing."""

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


@pytest.mark.parametrize(("old_px", "new_px", "patch", "overlap"), SIZES)
def test_positions_are_resized_as_open_clip_resizes_them(old_px, new_px, patch, overlap):
    torch = pytest.importorskip("torch")
    files.import_open_clip()
    from open_clip.model import resize_pos_embed

    old, new = (
        position_embeddings.grid_side(old_px, patch),
        position_embeddings.grid_side(new_px, patch, overlap),
    )
    table = table_of(old)

    class Model:  # what open_clip's function looks at
        class visual:
            grid_size = (new, new)

    state = {"visual.positional_embedding": torch.from_numpy(table)}
    resize_pos_embed(state, Model)
    theirs = state["visual.positional_embedding"].numpy()
    np.testing.assert_allclose(position_embeddings.resize_table(table, new, 1), theirs, atol=1e-5)


def test_without_antialiasing_positions_are_what_kerashub_makes_of_them():
    import tensorflow as tf

    table = table_of(37, prefix=0)
    theirs = tf.image.resize(table.reshape(37, 37, -1), (16, 16), method="bicubic", antialias=False)
    ours = position_embeddings.resize_table(table, 16, 0, antialias=False)
    np.testing.assert_allclose(ours, np.reshape(theirs, (256, -1)), atol=2e-5)
    assert (
        np.abs(ours - position_embeddings.resize_table(table, 16, 0)).max() > 0.1
    )  # the two rules do differ


def test_class_tokens_position_is_kept_and_a_flat_table_stays_flat():
    table = np.ones((1 + 49, 4), np.float32)
    table[0] = 7
    resized = position_embeddings.resize_table(table, 20, 1)
    np.testing.assert_array_equal(resized[0], 7)
    np.testing.assert_allclose(resized[1:], 1, atol=1e-6)
    np.testing.assert_array_equal(position_embeddings.resize_table(table, 7, 1), table)


def test_a_table_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        position_embeddings.resize_table(np.zeros((1 + 48, 4), np.float32), 8, 1)


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [(224, 14, 0), (290, 14, 2), (284, 14, 4), (384, 14, 0), (33, 8, 3)]
)
def test_grid_counts_the_windows_that_fit(size, patch, overlap):
    fitting = [start for start in range(0, size, patch - overlap) if start + patch <= size]
    assert position_embeddings.grid_side(size, patch, overlap) == len(fitting)
