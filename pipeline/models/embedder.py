"""The embedder: encoder → head, see `head`. Dropout belongs to the training step, not to the model."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from pipeline.config import Run
from pipeline.data.preprocessing import Preprocess
from pipeline.models import encoders, sizes
from pipeline.models import head as heads
from pipeline.models.encoders import ImageEncoder


@dataclass(frozen=True)
class Embedder:
    """An encoder with its head."""

    encoder: ImageEncoder
    parts: heads.Head
    model: keras.Model  # float32 [B, S, S, 3], normalised pixels → float32 [B, D], unit length
    sizes_px: tuple[int, ...] = ()  # features are averaged over these; empty: the encoder's own size alone

    @property
    def head(self) -> keras.Model:
        """float [B, width] → float32 [B, D], unit length: what is served."""
        return self.parts.served

    @property
    def preprocess(self) -> Preprocess:
        return self.encoder.preprocess

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Name → variable, of encoder and head."""
        return named_variables("embedder", self.model.variables)

    def at_sizes(self) -> list[ImageEncoder]:
        """The encoder at each size that is averaged, with the weights that it has now; see `sizes.at_size`."""
        return [sizes.at_size(self.encoder, size) for size in self.sizes_px or (self.preprocess.image_size_px,)]


def build(
    config: Run, image_size_px: int | None = None, patch_overlap_px: int | None = None, fill: bool = True
) -> Embedder:
    """An embedder with the config's starting weights. Call it in the strategy's scope; `fill` as in `encoders.build`.

    `image_size_px` and `patch_overlap_px` replace the encoder's, for phases at another resolution.
    """
    given: dict[str, Any] = {"image_size_px": image_size_px, "patch_overlap_px": patch_overlap_px}
    options = replace(config.encoder, **{key: value for key, value in given.items() if value is not None})
    encoder = encoders.build(options, seed=config.train.seed, fill=fill)
    parts = heads.build(config.embedder, encoder.width, config.train.seed)
    model = keras.Model(encoder.model.inputs[0], parts.served(encoder.model.outputs[0]), name="embedder")
    return Embedder(encoder, parts, model, tuple(config.embedder.sizes_px))


def average_features(features: list[Any]) -> Any:
    """float [B, width] of each size → float32 [B, width]: the mean of their directions; of one size as it is."""
    if len(features) == 1:
        return tf.cast(features[0], tf.float32)
    units = [tf.math.l2_normalize(tf.cast(each, tf.float32), axis=-1, epsilon=1e-12) for each in features]
    return tf.add_n(units) / float(len(units))


def named_variables(prefix: str, variables: list) -> dict[str, keras.Variable]:
    """`prefix/path` → variable, numbered where two paths are the same."""
    named: dict[str, keras.Variable] = {}
    for variable in variables:
        name, again = f"{prefix}/{variable.path}", 1
        while name in named:
            again += 1
            name = f"{prefix}/{variable.path}#{again}"
        named[name] = variable
    return named
