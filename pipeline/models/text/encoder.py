"""Text towers: KerasHub's CLIP and SigLIP text encoders, with their tokenizers, from texts to embeddings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from pipeline.errors import BadInput, nearest, reason
from pipeline.models import catalogue
from pipeline.models.backbones import as_float32, seeded
from pipeline.models.text import tokenizers
from pipeline.models.text.tokenizers import TOKENIZERS, Tokenizer
from pipeline.models.weights.load import load_text


@dataclass(frozen=True)
class TextEncoder:
    """A text tower with its tokenizer.

    Logits are `logit_scale · cosine (+ logit_bias)`. CLIP's go into a softmax over the texts, SigLIP's into a sigmoid.
    """

    name: str  # the catalogue's
    model: keras.Model  # int32 [B, L] token ids → float32 [B, D], not normalised
    tokenizer: Tokenizer
    width: int  # D, the image tower's too
    logit_scale: float
    logit_bias: float | None  # None for CLIP

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Texts → int32 [B, L]; what does not fit is cut, the end token stays."""
        return self.tokenizer(texts)


class EndTokenPooling(keras.layers.Layer):
    """(states [B, L, H], token ids [B, L]) → [B, H]: the state at the first `end`; None: at the largest id, CLIP's."""

    def __init__(self, end: int | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.end = end

    def call(self, states: Any, token_ids: Any) -> Any:
        ends = token_ids if self.end is None else ops.cast(ops.equal(token_ids, self.end), "int32")
        end = ops.argmax(ends, axis=-1)[:, None, None]
        return ops.squeeze(ops.take_along_axis(states, end, axis=1), axis=1)

    def compute_output_shape(self, states_shape: tuple, token_ids_shape: tuple) -> tuple:
        return states_shape[0], states_shape[2]


def build(
    name: str, weights: str = "none", vocabulary: str = "", seed: int = 0, architecture: dict[str, Any] | None = None
) -> TextEncoder:
    """The text tower of an encoder that has one, by its name in the catalogue or KerasHub's.

    Args:
        weights: preset | open_clip:<tag or file> | file:<path> | none (random, by `seed`).
        vocabulary: a file or a preset's folder; "": the preset's or, for CLIP, open_clip's.
        architecture: dimensions of the text tower that replace the catalogue's (catalogue.Entry.text).

    Raises:
        BadInput: an unknown name, an encoder without a text tower, no vocabulary or a too large one, unknown
            dimensions, weights that do not fit.
    """
    entry = _entry(name)
    for key in architecture or {}:
        if key not in entry.text:
            raise BadInput(f"text_architecture: no {key!r}; nearest: {nearest(key, entry.text)}")
    sizes = {**entry.text, **(architecture or {})}
    preset = entry.preset if weights == "preset" else ""
    make_tokenizer = TOKENIZERS[entry.facts.tokenizer]
    tokenizer = make_tokenizer(sizes["sequence_length"], vocabulary, preset, entry.facts.pad_with_end)
    if tokenizer.vocabulary_size > sizes["vocabulary_size"]:
        room = f"{name} has room for {sizes['vocabulary_size']:,}"
        raise BadInput(f"vocabulary: {tokenizer.vocabulary_size:,} pieces, {room}")
    model = build_tower(entry.family, sizes, seed)
    scale, bias = entry.facts.start_logits
    if weights != "none":
        scale, bias = load_text(model, replace(entry, text=sizes), weights)
    return TextEncoder(name, model, tokenizer, int(model.output_shape[-1]), scale, bias)


def expect_vocabulary(name: str, weights: str, vocabulary: str) -> None:
    """Raises BadInput: as `build`, of the name and of a vocabulary that is not there. Builds and reads nothing."""
    entry = _entry(name)
    tokenizers.expect_vocabulary(entry.facts.tokenizer, vocabulary, entry.preset if weights == "preset" else "")


def _entry(name: str) -> catalogue.Entry:
    entry = catalogue.find(name)
    if not entry.text:
        known = ", ".join(key for key, each in catalogue.CATALOGUE.items() if each.text)
        raise BadInput(f"{name} has no text tower, expected one of {known}")
    return entry


def build_tower(family: str, sizes: dict[str, Any], seed: int = 0) -> keras.Model:
    """A text tower with random weights, int32 [B, L] → float32 [B, D]; `sizes` as `catalogue.Entry.text`.

    L is fixed: SigLIP's rows must be whole, see `Tokenizer.pack`. KerasHub's encoder is the layer "text_encoder",
    CLIP's projection the layer "text_projection".
    """
    token_ids = keras.Input((sizes["sequence_length"],), dtype="int32", name="token_ids")
    arguments = {key: sizes[key] for key in ("hidden_dim", "num_layers", "num_heads", "intermediate_dim")}
    arguments |= {
        "vocabulary_size": sizes["vocabulary_size"],
        "embedding_dim": sizes["hidden_dim"],
        "intermediate_activation": sizes["activation"],
        "max_sequence_length": sizes["sequence_length"],
        "name": "text_encoder",
    }
    try:
        with seeded(seed):
            embedding = EMBEDDINGS[family](token_ids, arguments, sizes["projection_dim"])
    except ValueError as error:  # KerasHub: heads that do not divide the width, and the like
        raise BadInput(f"text_architecture: {reason(error)}") from None
    return keras.Model(token_ids, as_float32(embedding, "embedding"), name="text_tower")


def _clip(token_ids: Any, arguments: dict[str, Any], width: int, end: int | None = None) -> Any:
    encoder = keras_hub.models.CLIPTextEncoder(**arguments)
    encoder.layer_norm.epsilon = 1e-5  # KerasHub's 1e-6 is not what CLIP was trained with
    states = encoder({"token_ids": token_ids})  # [B, L, H]
    at_end = EndTokenPooling(end, name="end_token")(states, token_ids)
    return keras.layers.Dense(width, use_bias=False, name="text_projection")(at_end)


def _siglip(token_ids: Any, arguments: dict[str, Any], width: int) -> Any:
    return keras_hub.models.SigLIPTextEncoder(**arguments, projection_dim=width)({"token_ids": token_ids})


EMBEDDINGS: dict[str, Callable[..., Any]] = {  # token ids [B, L] → embedding [B, D]
    "clip": _clip,
    "metaclip2": partial(_clip, end=tokenizers.XLM_V_END),
    "pe_core": _clip,
    "siglip": _siglip,
    "siglip2": _siglip,
}
