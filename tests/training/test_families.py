"""Encoders whose attention rotates train as the others do: XLA, layer decay, dropped and recomputed blocks, overlap.

A head is trained on features of images that keep their aspect, and served so.
"""

import json
import re

import numpy as np
import pytest

from pipeline import cli
from pipeline.data.preprocessing import prepare
from pipeline.evaluation import embedders
from pipeline.models import any_size
from tests.training.tiny_runs import TUNE, VIT

SIZES = {**VIT, "num_layers": 3}
OPTIONS = {"image_size_px": 20, "patch_overlap_px": 2, "stochastic_depth": 0.3, "checkpointing": True}
PHASES = [
    {**TUNE, "trainable": "last 1 blocks", "epochs": 0.25},
    {**TUNE, "name": "all", "epochs": 0.5, "layer_decay": 0.5, "image_size_px": 26},
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), [
    ("dinov3_small_plus", SIZES), ("pe_core_t_16_384", {**SIZES, "pooling_heads": 2, "pooling_dim": 32}),
])  # fmt: skip
def test_it_is_trained_by_xla_and_served_by_the_contract(tiny, name, architecture):
    encoder = {"name": name, "architecture": architecture, **OPTIONS}
    overrides = [f"encoder={json.dumps(encoder)}", f"train.phases={json.dumps(PHASES)}", "train.compile=true"]
    trained = tiny.train(name, *overrides)
    first, tuned, last = (trained.tensors(step) for step in (0, 1, 3))
    assert np.isfinite(trained.losses()).all()

    def moved(before: dict, after: dict) -> set[str]:
        """Numbers of the blocks in which a weight differs."""
        found = ((re.search(r"(?:block|layers)_(\d+)/", key), key) for key in before)
        return {block[1] for block, key in found if block and np.abs(before[key] - after[key]).max() > 0}

    assert moved(first, tuned) == {"2"} and moved(tuned, last) == {"0", "1", "2"}
    assert cli.main(["export", str(tiny.config), f"run_dir={trained.folder}", *overrides]) == 0
    loaded = embedders.load(str(trained.folder / "submission.zip"))
    images = np.random.default_rng(0).integers(0, 256, (2, 31, 45, 3)).astype(np.uint8)
    assert loaded.halves and loaded.embed(images).shape == (2, 8)


@pytest.mark.slow
def test_a_head_on_images_that_keep_their_aspect_is_served_with_it(tiny, tmp_path):
    encoder = {"name": "clip_tiny", "architecture": VIT, "image_size_px": 24, "pooling": "class_token", "fit": "aspect"}
    overrides = [f"encoder={json.dumps(encoder)}", f"train.phases={json.dumps([{**TUNE, 'trainable': 'head'}])}"]
    trained = tiny.train("aspect", *overrides)
    assert cli.main(["export", str(tiny.config), f"run_dir={trained.folder}", *overrides]) == 0
    loaded = embedders.load(str(trained.folder / "submission.zip"))
    built = trained.embedder(2)
    run = any_size.forward(built.encoder)
    for height, width in ((31, 45), (60, 20), (24, 24)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        pixels = prepare(images, built.preprocess)
        assert max(pixels.shape[1:3]) == 24
        np.testing.assert_allclose(loaded.embed(images), built.head(run(pixels)), atol=1e-5)
