"""The two halves of an embedder that guie exported: the host resizes an image, the model embeds a batch of them.

Images of any sizes then share a batch. The SavedModel carries both: the signature `embed_resized`, and a function
`resizing` that says in JSON what to hand to it. An embedder of somebody else has neither.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.data import host_resize, preprocessing
from pipeline.data.preprocessing import Preprocess

SIGNATURE = "embed_resized"
MOST, LARGEST_PX = 16, 4096  # sizes or crops of an embedder, a side: more is not guie's export
Pixels = dict[str, np.ndarray]


@dataclass(frozen=True)
class Halves:
    """What `embed` of a Submission does, in two steps."""

    # uint8 [H, W, 3] → input name → [V, S, S, 3], of `fit: aspect` [1, h, w, 3]; of any thread
    resize: Callable[[np.ndarray], Pixels]
    embed: Callable[[Pixels], np.ndarray]  # input name → [B, V, S, S, 3] → float32 [B, D]
    values: int  # of one resized image, all inputs together, of a square


def described(sizes: Sequence[Preprocess], crops: Sequence[tuple[float, float]], crop_share: float) -> str:
    """JSON for `of_saved_model`.

    Args:
        sizes: of each input of the signature, in its order.
        crops: (top, left) of each view after the whole image, as shares of the margin that it leaves.
        crop_share: side of these views as a share of the image's.
    """
    return json.dumps(
        {"sizes": [preprocessing.identity(each) for each in sizes], "crops": crops, "crop_share": crop_share}
    )


def of_saved_model(model: Any, output: str) -> Halves | None:
    """The halves of a loaded SavedModel; None where it has none, or none that this version understands."""
    signature = getattr(model, "signatures", {}).get(SIGNATURE)
    if signature is None or not hasattr(model, "resizing"):
        return None
    try:
        description = json.loads(model.resizing().numpy())
        sizes = [preprocessing.identified(each) for each in description["sizes"]]
        crops, crop_share = description["crops"], description["crop_share"]
        sound = _is_sound(sizes, crops, crop_share)
    except Exception:  # a model of somebody else may hold anything under this name
        return None
    if not sound:
        return None
    names = {f"pixels_{each.image_size_px}": each for each in sizes}

    def embed(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return signature(**{name: tf.constant(pixels) for name, pixels in batch.items()})[output].numpy()

    def resize(image: np.ndarray) -> Pixels:
        return {name: resized_views(image, each, crops, crop_share) for name, each in names.items()}

    embed.keeps = model  # type: ignore[attr-defined]  # the signature alone does not keep the variables alive
    return Halves(resize, embed, (1 + len(crops)) * sum(3 * each.image_size_px**2 for each in sizes))


def _is_sound(sizes: Sequence[Preprocess], crops: Sequence[tuple[float, float]], crop_share: float) -> bool:
    """Whether a description asks for no more than an export of guie does."""
    shares = [share for crop in crops for share in crop]
    return (
        1 <= len(sizes) <= MOST
        and len(crops) <= MOST
        and all(
            isinstance(px, int) and 1 <= px <= LARGEST_PX
            for each in sizes
            for px in (each.image_size_px, each.multiple_px)
        )
        and all(len(crop) == 2 for crop in crops)
        and all(0 <= share <= 1 for share in shares)
        and 0 < crop_share <= 1
    )


def resized_views(
    image: np.ndarray, preprocess: Preprocess, crops: Sequence[tuple[float, float]], crop_share: float
) -> np.ndarray:
    """uint8 [H, W, 3] → float32 [1 + crops, S, S, 3] in 0…255; of `fit: aspect` [1, h, w, 3]."""
    height, width = image.shape[:2]
    crop_height, crop_width = max(int(crop_share * height), 1), max(int(crop_share * width), 1)
    views = [image]
    for top_share, left_share in crops:
        top, left = int(top_share * (height - crop_height)), int(left_share * (width - crop_width))
        views.append(image[top : top + crop_height, left : left + crop_width])
    return np.stack([host_resize.resize(view, preprocess) for view in views])
