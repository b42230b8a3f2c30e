"""A head is trained on features of images that keep their aspect, and served so."""

import json

import numpy as np
import pytest
import tensorflow as tf

from export import contract_probe
from pipeline import cli
from pipeline.data.preprocessing import prepare
from pipeline.evaluation import embedders
from pipeline.models import any_size
from tests.training.tiny_runs import TUNE, VIT

ENCODER = {
    "name": "pe_core_t_16_384",
    "architecture": {**VIT, "pooling_heads": 2, "pooling_dim": 32},
    "image_size_px": 20,
    "pooling": "attention",
    "fit": "aspect",
}


class Called:
    """What `guie check` calls in its own process."""

    def __init__(self, folder):
        self.tf, self.loaded = tf, tf.saved_model.load(str(folder))

    def __call__(self, images):
        return self.loaded.signatures["serving_default"](images=tf.constant(images))["embedding_norm"].numpy()


@pytest.mark.slow
def test_a_head_on_images_that_keep_their_aspect_is_served_with_it(tiny):
    phase = {**TUNE, "trainable": "head", "epochs": 0.25}
    overrides = [f"encoder={json.dumps(ENCODER)}", f"train.phases={json.dumps([phase])}"]
    trained = tiny.train("aspect", *overrides)
    assert cli.main(["export", str(tiny.config), f"run_dir={trained.folder}", *overrides]) == 0
    loaded = embedders.load(str(trained.folder / "submission.zip"))
    built = trained.embedder(1)
    run = any_size.forward(built.encoder)
    for height, width in ((31, 45), (60, 20), (24, 24)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        pixels = prepare(images, built.preprocess)
        assert max(pixels.shape[1:3]) == 24 and not any(side % 8 for side in pixels.shape[1:3])
        np.testing.assert_allclose(loaded.embed(images), built.head(run(pixels)), atol=1e-5)
    ((_, same, said),) = contract_probe.resized_before(Called(trained.folder / "export" / "saved_model"))
    assert same, said
    assert tiny.refused("batches", *overrides, "train.phases.0.trainable=all")
