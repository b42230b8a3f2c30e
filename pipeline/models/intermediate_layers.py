"""An encoder cut at intermediate layers: the shallow part runs first, a deeper part later from its activation.

Works with any flat Keras model. Where a skip connection passes a cut, the deeper part starts at the nearest earlier
cut, at worst at the pixels.
"""

import math
from collections.abc import Mapping

import keras
import tensorflow as tf

from pipeline.errors import BadInput, nearest
from pipeline.models.encoders import ImageEncoder

PIXELS = "pixels"  # the activation everything starts from
OUTPUT = ""  # in place of a layer's name: the encoder's output
HALF, NEARLY_ALL = 0.5, 0.9  # of the blocks (or layers), where the config names no taps


class SteppedEncoder:
    """An encoder (float32 [B, S, S, 3] → [B, width]) that stops at taps.

    `layers`: stage → layer of the model, from shallow to deep; OUTPUT is the model's output. Raises BadInput for a
    layer that the model lacks.
    """

    def __init__(self, model: keras.Model, layers: Mapping[str, str]):
        self.model, self.layers = model, dict(layers)
        self.tensors = {PIXELS: model.inputs[0]}
        for stage, layer in layers.items():
            self.tensors[stage] = model.outputs[0] if layer == OUTPUT else _layer(model, layer).output
        self.parts: dict[tuple[str, str], tf.types.experimental.Callable | None] = {}

    def advance(self, activations: dict[str, tf.Tensor], stage: str) -> tf.Tensor:
        """float32 [B, width of the stage], averaged over space or tokens; runs on from the deepest activation it can.

        `activations` is {PIXELS: float32 [B, S, S, 3]} to begin with; the stage's is added.
        """
        if stage not in activations:
            order = [PIXELS, *self.layers]
            for start in reversed(order[: order.index(stage)]):
                if start in activations and (part := self._part(start, stage)) is not None:
                    activations[stage] = part(activations[start])
                    break
        return pooled(activations[stage])

    def width(self, stage: str) -> int:
        return int(self.tensors[stage].shape[-1])

    def _part(self, start: str, stage: str):
        """The network from one activation to another; None where some path does not pass `start`."""
        if (start, stage) not in self.parts:
            try:
                piece = keras.Model(self.tensors[start], self.tensors[stage])
            except ValueError:  # Keras: not connected, some path comes from before `start`
                self.parts[start, stage] = None
            else:
                spec = tf.TensorSpec(self.tensors[start].shape, self.tensors[start].dtype)
                traced = tf.function(lambda inputs: piece(inputs, training=False))
                self.parts[start, stage] = traced.get_concrete_function(spec)
        return self.parts[start, stage]


def pooled(activation: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C], [B, T, C] or [B, C] → float32 [B, C], the mean over space or tokens."""
    return tf.reduce_mean(tf.cast(activation, tf.float32), axis=list(range(1, len(activation.shape) - 1)))


def choose_layers(encoder: ImageEncoder, given: Mapping[str, str]) -> dict[str, str]:
    """The layers of the stages `second` (half the encoder) and `third` (nearly all of it).

    `given`: stage → a tap's name or a layer's; a stage that is missing gets a layer by its share of the depth.
    Raises BadInput for an unknown stage or layer, and for an encoder without intermediate layers.
    """
    for stage in given:
        if stage not in ("second", "third"):
            raise BadInput(f"taps: expected the stages second and third, got {stage!r}")
    names = list(encoder.taps.values()) or [layer.name for layer in encoder.model.layers if _is_map(layer)]
    if not names:
        raise BadInput(f"taps: {encoder.name} has no layer between pixels and features: nothing to cut")
    chosen = {}
    for stage, share in (("second", HALF), ("third", NEARLY_ALL)):
        if stage in given:
            chosen[stage] = _layer(encoder.model, encoder.taps.get(given[stage], given[stage])).name
        else:
            chosen[stage] = _clean_cut(encoder.model, names, max(math.ceil(share * len(names)) - 1, 0))
    return chosen


def _clean_cut(model: keras.Model, names: list[str], first: int) -> str:
    """The first layer from number `first` on that alone decides the output; without one, number `first`."""
    for name in names[first:]:
        try:
            keras.Model(_layer(model, name).output, model.outputs[0])
        except ValueError:
            continue
        return name
    return names[first]


def _is_map(layer: keras.layers.Layer) -> bool:
    """Whether its output is one array with a last axis of features."""
    if isinstance(layer, keras.layers.InputLayer) or isinstance(layer.output, list | tuple | dict):
        return False
    return len(layer.output.shape) >= 2 and layer.output.shape[-1] is not None


def _layer(model: keras.Model, name: str) -> keras.layers.Layer:
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise BadInput(f"taps: the encoder has no layer {name!r}; nearest: {nearest(name, names)}")
    return model.get_layer(name)
