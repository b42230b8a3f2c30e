"""The resize on the host gives the pixels of `preprocessing.resize`, whatever the image and the fit."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import host_resize, preprocessing
from pipeline.data.preprocessing import Preprocess

SIZES = ((1, 1), (1, 300), (300, 1), (5, 7), (24, 24), (24, 90), (33, 24), (97, 241), (900, 31), (640, 480))


@pytest.mark.parametrize("fit", ["squash", "crop", "pad", "aspect"])
@pytest.mark.parametrize("method", ["bicubic", "bilinear", "area"])
def test_the_pixels_are_those_of_the_served_graph(fit, method):
    preprocess = Preprocess(24, (0.48, 0.45, 0.40), (0.26, 0.26, 0.27), resize=method, fit=fit, multiple_px=7)
    random = np.random.default_rng(0)
    for height, width in SIZES:
        image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        expected = preprocessing.resize(tf.constant(image), preprocess).numpy()
        found = host_resize.resize(image, preprocess)
        assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 255
        if fit == "aspect":  # by Pillow, which adds in integers: a sum between two levels may fall to either
            assert found.shape == expected.shape and np.abs(found - expected).max() <= 1.0001
            assert (np.abs(found - expected) > 1e-4).mean() < 1e-2
        else:
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_without_antialias_the_pixels_are_the_served_graphs_too():
    preprocess = Preprocess(24, (0.5,) * 3, (0.5,) * 3, antialias=False)
    image = np.random.default_rng(0).integers(0, 256, (90, 31, 3)).astype(np.uint8)
    expected = preprocessing.resize(tf.constant(image), preprocess).numpy()
    np.testing.assert_array_equal(host_resize.resize(image, preprocess), expected)


def test_strips_change_no_pixel(monkeypatch):
    preprocess = Preprocess(24, (0.5,) * 3, (0.5,) * 3)
    image = np.random.default_rng(0).integers(0, 256, (60, 131, 3)).astype(np.uint8)
    whole = host_resize.resize(image, preprocess)
    monkeypatch.setattr(host_resize, "MAX_FLOATS", 60 * 3 * 7)
    np.testing.assert_array_equal(host_resize.resize(image, preprocess), whole)
    monkeypatch.setattr(host_resize, "MAX_FLOATS", 1)
    np.testing.assert_array_equal(host_resize.resize(image, preprocess), whole)
