"""Images in class folders, a tiny encoder with a skip connection, a config, and its database."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline import cli

COLOURS = {"blue": (100, 110, 150), "green": (95, 150, 105), "red": (150, 100, 110)}


@pytest.fixture(scope="package")
def encoder_file(tmp_path_factory) -> Path:
    """Three convolutions, a skip connection around the second, random weights."""
    keras.utils.set_random_seed(5)
    images = keras.Input((16, 16, 3))
    a = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="a")(images)
    b = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="b")(a)
    c = keras.layers.Add(name="c")([a, b])
    d = keras.layers.Conv2D(10, 3, strides=2, activation="relu", name="d")(c)
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D(name="pool")(d))
    path = tmp_path_factory.mktemp("encoder") / "tiny.keras"
    model.save(path)
    return path


@pytest.fixture(scope="package")
def images(tmp_path_factory) -> Path:
    """Class folders of noisy colours: 8 images a class to index, 3 to test."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                light = np.array(colour) + rng.normal(0, 35, 3)
                pixels = np.clip(rng.normal(light, 60, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def config(tmp_path: Path, encoder_file: Path, images: Path) -> str:
    path = tmp_path / "staged_tiny.yaml"
    path.write_text(f"""
run_dir: {tmp_path / "run"}
data_root: {images}
encoder: {{name: "keras_file:{encoder_file}", mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}
taps: {{second: a, third: d}}
index: [{{layout: folder, name: tiny, root: train}}]
queries: [{{layout: folder, name: tiny-test, root: test}}]
pixels_px: 4
neighbours: 3
batch_size: 5
""")
    return str(path)


@pytest.fixture
def run(capsys) -> Callable[..., list[str]]:
    """Runs `guie staged …`; returns the lines of stdout, or of stderr where an exit code other than 0 is expected."""

    def run(*argv: str, code: int = 0) -> list[str]:
        came = cli.main(["staged", *argv])
        captured = capsys.readouterr()
        assert came == code, captured.err
        return (captured.out if code == 0 else captured.err).strip().splitlines()

    return run


@pytest.fixture
def built(config: str, run) -> str:
    """The config, its database built."""
    assert "24 images (24 new or changed, 0 rejected), 24 in 4 collections" in run("build", config)[-1]
    return config
