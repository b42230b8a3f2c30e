"""Pictures that even a random encoder tells apart better than chance, and such an encoder."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

RECIPE = """
encoder:
  name: clip_vit_b_32
  image_size_px: 32
  pooling: mean
  architecture: {patch_size: 8, hidden_dim: 16, num_layers: 1, num_heads: 2, intermediate_dim: 32}
embedder: {embedding_dim: 8, dropout: 0.0, init: pca}
train:
  phases: [{name: head, trainable: head, epochs: 1, batch_size: 8, learning_rate: 1.0e-2}]
"""


def draw(classes: Iterable[Path]) -> None:
    """6 images in each folder: a colour of the class and noise."""
    noise = np.random.default_rng(5)
    for folder in classes:
        folder.mkdir(parents=True)
        colour = noise.uniform(60, 196, 3)
        for index in range(6):
            pixels = colour + noise.normal(0, 20, 3) + noise.normal(0, 10, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
