"""Encoders from Keras model files: at any image size, batch norm folded, blocks by depth.

The loaded graph is wired anew on an input of the wanted size, with the file's own layers. Nested models are flattened:
their layers stand in the graph like the others.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.errors import BadInput, reason
from pipeline.models import catalogue
from pipeline.models.catalogue import KERAS_FILE
from pipeline.models.weights import files

FOLDABLE = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
Layers = list[keras.layers.Layer]


def read(encoder: config.Encoder, fold_batch_norm: bool = True) -> tuple[keras.Model, list[Layers]]:
    """(model, float32 [B, S, S, 3] → float32 [B, width]; its blocks, see `blocks_by_depth`) of the config's file.

    S is `image_size_px`, else the file's own size. Every weight can be trained, whatever the file froze: a phase says
    what is. Variables are numbered, so checkpoints do not depend on the names in the file.

    Args:
        fold_batch_norm: into the layer before it, where that is equal in inference, see `_folded`.

    Raises:
        BadInput: no usable file, or a graph that does not run at the size.
    """
    path = Path(encoder.name.removeprefix(KERAS_FILE))
    loaded = _load(path, encoder)
    given = tuple(loaded.inputs[0].shape)[1:3]
    size = encoder.image_size_px or (given[0] if given[0] == given[1] else None)
    if size is None:
        takes = "any size" if None in given else f"{given[0]} × {given[1]} px"
        raise BadInput(f"encoder.image_size_px: {path} takes {takes}; say the side of the square")
    loaded.trainable = True
    model = _wired(loaded, size) if given == (size, size) else _resized(loaded, size, path)
    if fold_batch_norm and (replaced := _folded(model)):
        model = _wired(model, size, replaced)
    for number, variable in enumerate(model.variables):
        variable._path = f"{number:03d}/{re.sub(r'_[0-9]+$', '', variable.name)}"
    return model, blocks_by_depth(model)


def blocks_by_depth(model: keras.Model) -> list[Layers]:
    """The layers with weights, in blocks from shallow to deep; the first is the stem.

    A layer's depth is that of the longest path from the images to it, counted in layers that have a kernel: a weight
    with more than one dimension above 1, as convolutions, dense layers and attention have. Kernels of one depth are a
    block; a layer without one (a norm, a scale) is in the block of the kernel before it. A shared layer is in the
    block where it is first used.
    """
    depths: dict[int, int] = {}  # of tensors, by id
    blocks: dict[int, Layers] = {}
    placed = set()
    for node in _nodes(model):
        layer = node.operation
        weights = layer.weights if isinstance(layer, keras.layers.Layer) else []
        has_kernel = any(sum(side > 1 for side in weight.shape) > 1 for weight in weights)
        depth = max((depths[id(tensor)] for tensor in node.input_tensors), default=0) + has_kernel
        depths |= {id(tensor): depth for tensor in node.outputs}
        if weights and id(layer) not in placed:
            placed.add(id(layer))
            blocks.setdefault(max(depth, 1), []).append(layer)
    return [blocks[depth] for depth in sorted(blocks)]


def _load(path: Path, encoder: config.Encoder) -> keras.Model:
    catalogue.expect(encoder)
    files.expect_keras(path, "encoder.name")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the broken part raises
        raise BadInput(f"encoder.name: {path} is not a Keras model that loads safely: {reason(error)}") from None
    if not _is_graph(model) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(
            f"encoder.name: expected a functional or sequential Keras model, one input, one output, in {path}"
        )
    images, features = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(images) != 4 or images[-1] != 3:
        raise BadInput(f"encoder.name: expected images [B, S, S, 3] as input of {path}, got {list(images)}")
    if len(features) != 2 or features[-1] is None:
        came = f"{list(features)}: end it with a pooling"
        raise BadInput(f"encoder.name: expected features [B, width] from {path}, got {came}")
    return model


def _resized(model: keras.Model, size: int, path: Path) -> keras.Model:
    """As `_wired`; BadInput where the graph does not run on images of that size, or has other features there."""
    expected = (1, model.outputs[0].shape[-1])
    given = " × ".join(str(side or "any") for side in model.inputs[0].shape[1:3])
    try:
        wired = _wired(model, size)
        # What reshapes to a fixed shape fails only where the batch is known.
        traced = tf.function(lambda images: wired(images, training=False))
        pixels = tf.TensorSpec([1, size, size, 3], wired.inputs[0].dtype)
        found = tuple(traced.get_concrete_function(pixels).structured_outputs.shape)
    except Exception as error:  # Keras raises whatever the layer raises
        why = reason(error)
    else:
        if found == expected:
            return wired
        why = f"it would give {found[-1]} numbers, not {expected[-1]}"
    raise BadInput(f"encoder.image_size_px: {path} takes {given} px, it does not run at {size}: {why}")


def _is_graph(layer: Any) -> bool:
    """Whether it is a model whose call runs its graph of layers, and nothing else."""
    functional = getattr(type(layer).call, "__module__", "") == "keras.src.models.functional"
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and functional)


def _wired(model: keras.Model, size: int, replaced: Mapping[int, Any] = MappingProxyType({})) -> keras.Model:
    """A flat model of the same layers on images of `size`; the old one is of no use any more.

    `replaced`: id of a layer → the layer in its place; None: none, its input goes on.
    """
    images = keras.Input((size, size, 3), dtype=model.inputs[0].dtype, name="images")
    met: set[int] = set()
    taken = Counter(["images"])

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_graph(layer):
            return run(layer, args[0])
        if (layer := replaced.get(id(layer), layer)) is None:
            return args[0]
        if id(layer) not in met:
            met.add(id(layer))
            layer._inbound_nodes.clear()  # `layer.output` is to be this graph's
            layer._outbound_nodes.clear()
            taken[layer.name] += 1
            if taken[layer.name] > 1:  # two nested models may each have a layer of that name
                layer.name = f"{layer.name}_of_{taken[layer.name]}"
        return layer(*args, **kwargs)

    def run(part: keras.Model, inputs: Any) -> Any:
        if not isinstance(part, keras.Sequential):
            return part._run_through_graph(inputs, call_fn=call)
        for layer in part.layers:
            inputs = call(layer, inputs)
        return inputs

    features = keras.tree.flatten(run(model, images))[0]
    if features.dtype != "float32":
        features = keras.layers.Activation("linear", dtype="float32", name="float32_features")(features)
    return keras.Model(images, features)


def _folded(model: keras.Model) -> dict[int, Any]:
    """Replacements for `_wired`: batch norms away, with the layers before them in whose kernel and bias they are.

    Equal in inference, to float rounding, where the norm alone follows a linear layer; any other norm is left alone.
    """
    nodes = _nodes(model)
    calls = Counter(id(node.operation) for node in nodes)
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in model.outputs)
    replaced: dict[int, Any] = {}
    for node in nodes:
        norm = node.operation
        if type(norm) is not keras.layers.BatchNormalization:
            continue
        entering = node.input_tensors[0]
        layer = entering._keras_history.operation
        if type(layer) not in FOLDABLE or layer.activation is not keras.activations.linear:
            continue
        last = norm.axis in (-1, len(entering.shape) - 1) and getattr(layer, "data_format", "") != "channels_first"
        plain = len(layer.weights) == 1 + layer.use_bias  # neither quantised nor with adapters
        if last and plain and uses[id(entering)] == calls[id(layer)] == calls[id(norm)] == 1:
            replaced |= {id(layer): _with_norm(layer, norm), id(norm): None}
    return replaced


def _with_norm(layer: Any, norm: keras.layers.BatchNormalization) -> keras.layers.Layer:
    """A layer like `layer` that gives what `norm` makes of its output in inference."""
    mean, variance = (np.asarray(value, np.float64) for value in (norm.moving_mean, norm.moving_variance))
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * np.asarray(norm.gamma, np.float64)
    kernel, bias = np.asarray(layer.kernel, np.float64), -mean * scale
    if layer.use_bias:
        bias = bias + np.asarray(layer.bias, np.float64) * scale
    if norm.beta is not None:
        bias = bias + np.asarray(norm.beta, np.float64)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)  # kernel [h, w, channels, multiplier]
    folded = type(layer).from_config({**layer.get_config(), "use_bias": True})
    folded.build(layer.input.shape)
    folded.kernel.assign(kernel * (scale.reshape(kernel.shape[-2:]) if depthwise else scale))
    folded.bias.assign(bias)
    return folded


def _nodes(model: keras.Model) -> list[Any]:
    """The graph's calls of layers, each after those that it takes its inputs from."""
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
