"""Images, a network and a config of which `guie run` makes a whole run folder in seconds."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import yaml
from PIL import Image

from pipeline import cli

CONFIG = {
    "data_root": "{world}",
    "run_dir": "{world}/run",
    "records": {
        "sources": [{"layout": "folder", "name": "own", "root": "images"}],
        "split": {"by": "class", "train": 0.5, "validation": 0.25, "test": 0.25},
        "images_per_shard": 8,
        "image_size_px": 24,
        "workers": 1,
    },
    "encoder": {"name": "keras_file:{world}/tiny.keras", "image_size_px": 16, "mean": [0.5] * 3, "std": [0.25] * 3},
    "embedder": {"embedding_dim": 8},
    "train": {
        "checkpoint_every_steps": 2,
        "phases": [{"name": "head", "trainable": "head", "epochs": 1, "batch_size": 8}],
    },
    "score": {"references": ["raw_pixels"]},
}


@dataclass(frozen=True)
class World:
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    def guie(self, command: str, *more: str) -> int:
        keras.config.set_dtype_policy("float32")  # as a new process
        return cli.main([command, str(self.config), *more])

    def copied(self, folder: Path) -> "World":
        """Another world of the same images and run, with new times of changes."""
        shutil.copytree(self.folder, folder)
        copied = World(folder)
        copied.write_config()
        return copied

    def write_config(self) -> None:
        self.config.write_text(yaml.safe_dump(CONFIG).replace("{world}", str(self.folder)))

    def hashes(self, pattern: str) -> dict[str, str]:
        files = [path for path in self.run.glob(pattern) if path.is_file() and ".build" not in path.parts]
        return {str(path.relative_to(self.run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made(folder: Path) -> World:
    world, rng = World(folder), np.random.default_rng(0)
    for name in range(8):
        colour = rng.integers(100, 150, 3)
        for number in range(5):
            draw(folder / f"images/c{name}/{number}.jpg", rng, colour)
    save_network(folder / "tiny.keras", 1)
    world.write_config()
    return world


def draw(path: Path, rng: np.random.Generator, colour=128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(rng.normal(colour, 50, (32, 32, 3)), 0, 255).astype(np.uint8)).save(path, quality=90)


def save_network(path: Path, seed: int) -> None:
    inputs = keras.Input((None, None, 3))
    start = keras.initializers.GlorotUniform(seed)
    x = keras.layers.Conv2D(8, 4, strides=4, activation="relu", kernel_initializer=start)(inputs)
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(path)
