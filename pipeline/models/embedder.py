"""The embedder: encoder → Dense → unit length. Dropout belongs to the training step, not to the model."""

from dataclasses import dataclass, replace
from typing import Any

import keras

from pipeline.config import Run
from pipeline.data.preprocessing import Preprocess
from pipeline.models import encoders
from pipeline.models.encoders import ImageEncoder

LARGEST_DIM = 64  # the competition's limit


@dataclass(frozen=True)
class Embedder:
    """An encoder with its head."""

    encoder: ImageEncoder
    head: keras.Model  # float [B, width] → float32 [B, D], unit length
    model: keras.Model  # float32 [B, S, S, 3], normalised pixels → float32 [B, D], unit length

    @property
    def preprocess(self) -> Preprocess:
        return self.encoder.preprocess

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Name → variable, of encoder and head."""
        return named_variables("embedder", self.model.variables)


def build(
    config: Run, image_size_px: int | None = None, patch_overlap_px: int | None = None, fill: bool = True
) -> Embedder:
    """An embedder with the config's starting weights. Call it in the strategy's scope; `fill` as in `encoders.build`.

    `image_size_px` and `patch_overlap_px` replace the encoder's, for phases at another resolution.
    """
    given: dict[str, Any] = {"image_size_px": image_size_px, "patch_overlap_px": patch_overlap_px}
    options = replace(config.encoder, **{key: value for key, value in given.items() if value is not None})
    encoder = encoders.build(options, seed=config.train.seed, fill=fill)
    features = keras.Input([encoder.width], name="features")
    projected = keras.layers.Dense(
        config.embedder.embedding_dim,
        use_bias=False,  # a bias would shift all embeddings before they are scaled to unit length
        kernel_initializer=keras.initializers.GlorotUniform(seed=config.train.seed),
        dtype="float32",
        name="embedding",
    )(features)
    unit = keras.layers.UnitNormalization(dtype="float32", name="unit_length")(projected)
    head = keras.Model(features, unit, name="embedding_head")  # SigLIP has a layer called head
    model = keras.Model(encoder.model.inputs[0], head(encoder.model.outputs[0]), name="embedder")
    return Embedder(encoder, head, model)


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
