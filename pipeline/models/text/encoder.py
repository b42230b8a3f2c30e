"""Text towers: KerasHub's CLIP and SigLIP text encoders, with their tokenizers, from texts to embeddings."""

import random
from dataclasses import dataclass, replace
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from pipeline.errors import BadInput
from pipeline.models import catalogue, tokenizers
from pipeline.models.tokenizers import Tokenizer
from pipeline.models.weights import load as converted

UNTRAINED_LOGITS = {"clip": (1 / 0.07, None), "siglip": (10.0, -10.0)}  # (scale, bias) before training


@dataclass(frozen=True)
class TextEncoder:
    """
    Attributes:
        name: the catalogue's.
        family: clip | siglip.
        model: int32 [B, L] token ids → float32 [B, D], not normalised.
        tokenizer: texts → int32 [B, L].
        width: D, the image tower's too.
        logit_scale: logits are `logit_scale · cosine (+ logit_bias)`. CLIP's go into a softmax over the
            texts, SigLIP's into a sigmoid each.
        logit_bias: None for CLIP.
    """

    name: str
    family: str
    model: keras.Model
    tokenizer: Tokenizer
    width: int
    logit_scale: float
    logit_bias: float | None

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Texts → int32 [B, L]; what does not fit is cut, the end token stays."""
        return self.tokenizer(texts)


class EndTokenPooling(keras.layers.Layer):
    """(states [B, L, H], token ids [B, L]) → [B, H]: the state at the end token, CLIP's largest id."""

    def call(self, states: Any, token_ids: Any) -> Any:
        place = ops.argmax(token_ids, axis=-1)[:, None, None]
        return ops.squeeze(ops.take_along_axis(states, place, axis=1), axis=1)

    def compute_output_shape(self, states_shape: tuple, token_ids_shape: tuple) -> tuple:
        return states_shape[0], states_shape[2]


def build(
    name: str,
    weights: str = "none",
    vocabulary: str = "",
    seed: int = 0,
    architecture: dict[str, Any] | None = None,
) -> TextEncoder:
    """The text tower that belongs to an image encoder of the catalogue.

    Args:
        name: a CLIP or SigLIP of the catalogue, or KerasHub's name for it.
        weights: preset | open_clip:<tag or file> | file:<path> | none (random).
        vocabulary: a file or a preset's folder; "": the preset's or, for CLIP, open_clip's.
        seed: of random weights.
        architecture: dimensions of the text tower that replace the catalogue's (catalogue.Entry.text).

    Raises:
        BadInput: an unknown name, an encoder without a text tower, no vocabulary, one that is too large,
            dimensions that the family does not have, weights that do not fit.
    """
    entry = catalogue.find(name)
    if not entry.text:
        known = ", ".join(key for key, each in catalogue.CATALOGUE.items() if each.text)
        raise BadInput(f"{name} has no text tower, expected a CLIP or a SigLIP: {known}")
    for key in architecture or {}:
        if key not in entry.text:
            raise BadInput(f"text_architecture: no {key!r}; the text tower has {', '.join(entry.text)}")
    sizes = {**entry.text, **(architecture or {})}
    preset = entry.preset if weights == "preset" else ""
    if entry.family == "clip":
        tokenizer = tokenizers.clip(sizes["sequence_length"], vocabulary, preset)
    else:
        pads_with_end = not entry.preset.startswith("siglip2")
        tokenizer = tokenizers.siglip(sizes["sequence_length"], vocabulary, preset, pads_with_end)
    if tokenizer.vocabulary_size > sizes["vocabulary_size"]:
        raise BadInput(
            f"vocabulary: {tokenizer.vocabulary_size:,} pieces, {name} has room for "
            f"{sizes['vocabulary_size']:,}"
        )
    model = build_tower(entry.family, sizes, seed)
    scale, bias = UNTRAINED_LOGITS[entry.family]
    if weights != "none":
        scale, bias = converted.load_text(model, replace(entry, text=sizes), weights)
    return TextEncoder(name, entry.family, model, tokenizer, int(model.output_shape[-1]), scale, bias)


def build_tower(family: str, sizes: dict[str, Any], seed: int = 0) -> keras.Model:
    """A text tower with random weights.

    Args:
        family: clip | siglip.
        sizes: as `catalogue.Entry.text`.

    Returns:
        int32 [B, L] → float32 [B, D]. L is fixed: SigLIP's rows must be whole, see `Tokenizer.pack`.
        KerasHub's encoder is the layer "text_encoder", CLIP's projection the layer "text_projection".
    """
    dimensions = {key: sizes[key] for key in ("hidden_dim", "num_layers", "num_heads", "intermediate_dim")}
    common = {
        "vocabulary_size": sizes["vocabulary_size"],
        "embedding_dim": sizes["hidden_dim"],
        "intermediate_activation": sizes["activation"],
        "max_sequence_length": sizes["sequence_length"],
        "name": "text_encoder",
    }
    state = random.getstate()
    random.seed(seed)  # Keras draws its initialisers' seeds from it
    try:
        token_ids = keras.Input((sizes["sequence_length"],), dtype="int32", name="token_ids")
        if family == "clip":
            encoder = keras_hub.models.CLIPTextEncoder(**common, **dimensions)
            encoder.layer_norm.epsilon = 1e-5  # KerasHub's 1e-6 is not what CLIP was trained with
            states = encoder({"token_ids": token_ids})  # [B, L, H]
            pooled = EndTokenPooling(name="end_token")(states, token_ids)
            projection = keras.layers.Dense(sizes["projection_dim"], use_bias=False, name="text_projection")
            embedding = projection(pooled)
        else:
            encoder = keras_hub.models.SigLIPTextEncoder(
                **common, **dimensions, projection_dim=sizes["projection_dim"]
            )
            embedding = encoder({"token_ids": token_ids})
    except ValueError as error:  # KerasHub: heads that do not divide the width, and the like
        raise BadInput(f"text_architecture: {error}") from None
    finally:
        random.setstate(state)
    as_float32 = keras.layers.Activation("linear", dtype="float32", name="embedding")
    return keras.Model(token_ids, as_float32(embedding), name="text_tower")
