"""One encoder at several image sizes, on one set of weights."""

from dataclasses import replace

import numpy as np

from pipeline.errors import BadInput, reason
from pipeline.models.encoders import ImageEncoder
from pipeline.models.position_embeddings import grid_side, resize_table
from pipeline.models.vit import Stem, rewired


def at_size(encoder: ImageEncoder, image_size_px: int) -> ImageEncoder:
    """The encoder for images of `image_size_px`: the same layers, so the same weights, on another input.

    A transformer's positions are resampled in its graph, so they follow what is trained afterwards. Raises BadInput for
    a graph that takes one size alone.
    """
    if image_size_px == encoder.preprocess.image_size_px:
        return encoder
    preprocess = replace(encoder.preprocess, image_size_px=image_size_px)
    if encoder.preprocess.fit == "aspect":  # its graph takes any size
        return replace(encoder, preprocess=preprocess)
    try:
        model = rewired(encoder.model, (image_size_px,) * 2, lambda stem: _stem_at(stem, encoder, image_size_px))
    except (ValueError, TypeError) as error:
        fixed = encoder.preprocess.image_size_px
        raise BadInput(f"{encoder.name} takes {fixed} px alone, not {image_size_px} px: {reason(error)}") from None
    return replace(encoder, model=model, preprocess=preprocess)


def _stem_at(stem: Stem, encoder: ImageEncoder, image_size_px: int) -> Stem:
    """The stem of a grid of another size, on the same patch convolution and tokens."""
    parts, known = stem.parts.value, encoder.positions
    assert known is not None
    patch = int(parts.patch_convolution.kernel.shape[0])
    grid = grid_side(image_size_px, patch, patch - stem.stride)
    if parts.position_table is None:
        return Stem(parts, stem.stride, grid)
    positions = int(np.prod(parts.position_table.shape[:-1]))
    # Resampling is linear in the table: what it makes of the unit vectors is its matrix.
    resample = resize_table(np.eye(positions, dtype=np.float32), grid, known.prefix_tokens, known.antialias)
    return Stem(parts, stem.stride, grid, resample)
