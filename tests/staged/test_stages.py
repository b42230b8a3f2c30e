"""The encoder's stages: layers at their depth, each computed from the one before, equal to the whole model's."""

from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.config import Encoder
from pipeline.errors import BadInput
from pipeline.models import encoders, intermediate_layers


def test_taps_equal_the_whole_model_and_each_goes_on_from_the_one_before(encoder_file: Path):
    model = keras.models.load_model(encoder_file)
    stepped = intermediate_layers.SteppedEncoder(
        model, {"second": "a", "third": "d", "origin": intermediate_layers.OUTPUT}
    )
    pixels = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    activations = {intermediate_layers.PIXELS: keras.ops.convert_to_tensor(pixels)}
    for stage, layer in (("second", "a"), ("third", "d"), ("origin", "pool")):
        whole = keras.Model(model.inputs, model.get_layer(layer).output)(pixels).numpy()
        expected = whole.mean(axis=(1, 2)) if whole.ndim == 4 else whole
        np.testing.assert_allclose(stepped.advance(activations, stage), expected, atol=1e-6)
        assert stepped.width(stage) == expected.shape[1]
    assert set(stepped.parts) == {(intermediate_layers.PIXELS, "second"), ("second", "third"), ("third", "origin")}


def test_a_tap_that_a_skip_connection_passes_starts_again_further_up(encoder_file: Path):
    model = keras.models.load_model(encoder_file)
    stepped = intermediate_layers.SteppedEncoder(
        model, {"second": "b", "third": "c", "origin": intermediate_layers.OUTPUT}
    )
    pixels = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    activations = {intermediate_layers.PIXELS: keras.ops.convert_to_tensor(pixels)}
    for stage in ("second", "third", "origin"):
        features = stepped.advance(activations, stage)
    np.testing.assert_allclose(features, model(pixels), atol=1e-6)
    assert stepped.parts["second", "third"] is None and stepped.parts[intermediate_layers.PIXELS, "third"] is not None


def test_taps_are_chosen_at_half_and_nearly_all_of_the_blocks():
    tiny = encoders.build(Encoder(name="clip_tiny"))
    names = list(tiny.taps.values())
    assert intermediate_layers.choose_layers(tiny, {}) == {"second": names[1], "third": names[3]}
    assert intermediate_layers.choose_layers(tiny, {"second": "block_1"})["second"] == names[0]
    for given in ({"second": "nowhere"}, {"fourth": "block_1"}):
        with pytest.raises(BadInput, match="taps"):
            intermediate_layers.choose_layers(tiny, given)


def test_features_average_tokens_and_space_as_numpy_does():
    rng = np.random.default_rng(0)
    space, tokens = rng.normal(size=(2, 3, 4, 5)).astype("f"), rng.normal(size=(2, 7, 5)).astype("f")
    np.testing.assert_allclose(intermediate_layers.pooled(space), space.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(intermediate_layers.pooled(tokens), tokens.mean(axis=1), atol=1e-6)
