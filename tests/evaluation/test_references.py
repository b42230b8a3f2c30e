"""References of a run's score."""

import numpy as np

from pipeline.config import Embedder, Encoder, Run, Score
from pipeline.evaluation import references


def test_queries_are_projected_on_the_indexs_principal_components(tmp_path):
    tiny = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    run = Run(
        run_dir=str(tmp_path),
        encoder=Encoder(name="clip_vit_b_32", image_size_px=16, pooling="class_token", architecture=tiny),
        embedder=Embedder(embedding_dim=4),
        score=Score(references=["pca"]),
    )
    rng = np.random.default_rng(0)
    index, queries, other = (rng.normal(size=(count, 16)) * rng.random(16) for count in (40, 9, 50))
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "train-ffff.npy", other)  # of an encoder that a later phase trained
    rows = references.References(run)
    found = [rows.finish({"features": each})["pca4"] for each in (index, queries)]

    index, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (index, queries))
    axes = np.linalg.svd(index - index.mean(axis=0))[2][:4].T
    expected = [(each - index.mean(axis=0)) @ axes for each in (index, queries)]
    expected = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in expected]
    # Products, because an axis may point either way.
    np.testing.assert_allclose(found[1] @ found[0].T, expected[1] @ expected[0].T, atol=1e-5)
