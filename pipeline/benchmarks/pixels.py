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

ILIAS_PX = {"dinov2": 724, "dinov3": 768}  # whatever size the catalogue has them at


def said(way: str, preprocess: Preprocess) -> str:
    """The pixels in a few words, for tables and pages."""
    return SAID[way].format(px=preprocess.image_size_px, resize=preprocess.resize)


def ilias_px(family: str, native_px: int) -> int:
    """The longer side in ILIAS of an encoder by its own size, as the authors chose it for each of their models.

    Models of 224 and 256 px run at 384, those of 320 to 384 at 512, larger ones at 724; DINOv2 at 724 and DINOv3 at
    768, whose smaller sizes here are those of most of their training.

    >>> ilias_px("clip", 224), ilias_px("siglip2", 384), ilias_px("dinov2", 224), ilias_px("dinov3", 256)
    (384, 512, 724, 768)

    Source: ilias-vrg/ilias, `models.sh`.
    """
    if family in ILIAS_PX:
        return ILIAS_PX[family]
    return 384 if native_px <= 256 else 512 if native_px <= 384 else 724


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
