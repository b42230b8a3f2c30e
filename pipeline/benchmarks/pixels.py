"""How raw features see an image: UnED's own resize, and a sentence on each way.

An embedder that was exported resizes by itself, and so do features that are there already.
"""

import numpy as np
import tensorflow as tf

from pipeline.data.preprocessing import Preprocess

SAID = {
    "uned": "shorter side {px} px, bilinear without antialias, central square",
    "squash": "squashed to {px} px, {resize}",
    "crop": "shorter side {px} px, {resize}, central square",
    "pad": "longer side {px} px, {resize}, padded to a square",
    "aspect": "longer side {px} px, {resize}, aspect kept",
}


def said(way: str, preprocess: Preprocess) -> str:
    """The pixels in a few words, for tables and pages."""
    return SAID[way].format(px=preprocess.image_size_px, resize=preprocess.resize)


def uned(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] → float32 [S, S, 3] in 0…255, as UnED's code resizes for evaluation.

    The shorter side becomes S, the other H · S / W or W · S / H cut to whole pixels; bilinear, no antialias.

    Source: Universal-Image-Embeddings, `datasets.py`.
    """
    height, width = image.shape[:2]
    wide = height <= width
    size = (side, int(width / height * side)) if wide else (int(height / width * side), side)
    scaled = tf.image.resize(image, size, method="bilinear", antialias=False).numpy()
    top, left = ((each - side) // 2 for each in size)
    return scaled[top : top + side, left : left + side]
