"""Tiny trainings by the real `guie train`, and what they must give, by slow and obvious means."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file

from pipeline import cli, config
from pipeline.data.batches import open_records
from pipeline.data.preprocessing import decode, prepare
from pipeline.data.records import RecordSet
from pipeline.models import embedder as embedders
from pipeline.models import encoders
from pipeline.models.embedder import Embedder
from pipeline.training import checkpoints, class_centers

CONFIG = """
records:
  sources:
    - {{layout: drawn, name: a, options: {{classes: 4, images_per_class: 4, image_size_px: 24}}}}
    - {{layout: drawn, name: b, options: {{classes: 4, images_per_class: 4, image_size_px: 24, seed: 1}}}}
encoder: {{name: "keras_file:{folder}/tiny.keras", image_size_px: 16, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}
embedder: {{embedding_dim: 8, dropout: 0.0}}
train:
  log_every_steps: 1
  checkpoint_every_steps: 1
  checkpoints_kept: 99
  records: ["{folder}/records/*.tfrec"]
  validation: []
  phases:
    - {{name: tune, trainable: all, epochs: 2, batch_size: 8, learning_rate: 3.0e-3, end_learning_rate: 3.0e-3}}
"""
EPOCH = 4  # steps: 32 images
TUNE = {"name": "tune", "trainable": "all", "epochs": 0.5, "batch_size": 8, "learning_rate": 3e-3}
VIT = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
HEAD = ("embedder/embedding/kernel", "embedder/embedding/bias")


@dataclass(frozen=True)
class TinyRuns:
    """A config, its records and its encoder's file, in a folder that all runs share."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "TinyRuns":
        """Drawn images of eight classes from two sources, and a network of four convolutions without batch norm."""
        (folder / "tiny.yaml").write_text(CONFIG.format(folder=folder))
        keras.utils.set_random_seed(1)
        inputs = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
        x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        x = keras.layers.Conv2D(12, 3, strides=2, activation="relu")(x)
        x = keras.layers.Conv2D(12, 1, activation="tanh")(x)
        keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(folder / "tiny.keras")
        assert cli.main(["tfrecords", str(folder / "tiny.yaml"), f"run_dir={folder}"]) == 0
        return cls(folder)

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    def refused(self, name: str, *overrides: str) -> bool:
        """Whether `guie train` ends as it does for bad input."""
        return cli.main(["train", str(self.config), f"run_dir={self.folder / name}", *overrides]) == 2

    def train(self, name: str, *overrides: str) -> "Trained":
        """`guie train` in the folder `name`; it goes on where there are checkpoints."""
        assert cli.main(["train", str(self.config), f"run_dir={self.folder / name}", *overrides]) == 0
        return self.trained(name, *overrides)

    def trained(self, name: str, *overrides: str) -> "Trained":
        """What stands in the folder `name`."""
        return Trained(config.load(config.Run, self.config, [f"run_dir={self.folder / name}", *overrides]))


@dataclass(frozen=True)
class Trained:
    run: config.Run

    @property
    def folder(self) -> Path:
        return Path(self.run.run_dir)

    def tensors(self, step: int) -> dict[str, np.ndarray]:
        """Of the checkpoint after `step` steps; of 0: what training starts from, made anew."""
        if step:
            return load_file(self.folder / f"checkpoints/step-{step:09d}.safetensors")
        started = {name: np.array(variable) for name, variable in embedders.build(self.run).variables.items()}
        classes, loss = len(np.unique(self.records().labels)), self.run.train.loss
        numbers = classes, loss.subcenters, self.run.embedder.embedding_dim, self.run.train.seed + 1
        centers = class_centers.build(*numbers, False, tf.distribute.get_strategy())
        return {**started, "centers/class_centers": np.array(centers.variable)}

    def rows(self) -> list[dict]:
        """Of metrics.jsonl, one a step."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows()]

    def records(self) -> RecordSet:
        return open_records(self.run.train.records)

    def embedder(self, step: int) -> Embedder:
        """With the weights of the checkpoint after `step` steps, or those that training starts from."""
        built = embedders.build(self.run)
        if step:
            checkpoints.restore(self.folder / f"checkpoints/step-{step:09d}.safetensors", built.variables)
        return built

    def features(self, step: int, images: list[np.ndarray], sizes: tuple[int, ...] = ()) -> np.ndarray:
        """float [B, W] of uint8 [H, W, 3] each: at one size as they are, of several the mean of unit vectors."""
        encoder = self.embedder(step).encoder
        found = []
        for size in sizes or (encoder.preprocess.image_size_px,):
            other = encoders.build(replace(self.run.encoder, image_size_px=size), fill=False)
            encoders.transfer(encoder, other)
            pixels = np.concatenate([prepare(image[None], other.preprocess) for image in images])
            found.append(np.asarray(other.model(pixels)))
        return found[0] if len(found) == 1 else np.mean([unit(rows) for rows in found], axis=0)


def pictures(records: RecordSet, rows: np.ndarray) -> list[np.ndarray]:
    """uint8 [H, W, 3] each."""
    return [decode(records.image(int(row))).numpy() for row in rows]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(tensors: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Features [B, W] through the head of a checkpoint → unit [B, D]."""
    kernel, bias = (tensors[name] for name in HEAD)
    return unit(unit(features) @ kernel + bias)


def of_encoder(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: v for name, v in tensors.items() if name.startswith("embedder/") and name not in HEAD}


def slow_arcface(embeddings: np.ndarray, labels: np.ndarray, centers: np.ndarray, scale=30.0, margin=0.3) -> float:
    """Mean over the batch, angle by angle; centers [C, 1, D]."""
    total = 0.0
    for embedding, label in zip(embeddings, labels, strict=True):
        angles = [np.arccos(embedding @ center / np.linalg.norm(center)) for center in centers[:, 0]]
        assert angles[label] + margin < np.pi
        powers = [np.exp(scale * np.cos(angle + margin * (c == label))) for c, angle in enumerate(angles)]
        total -= np.log(powers[label] / sum(powers))
    return total / len(labels)
