"""Image transformers: KerasHub's layers wired anew, with overlapping patches, stochastic depth, recomputed
activations and a choice of pooling.

Variables keep their names whatever is switched on, so weights move between all variants.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.data.stateless_rng import random_bits
from pipeline.models import backbones
from pipeline.models.backbones import ImageNetwork, Parts
from pipeline.models.catalogue import Entry
from pipeline.models.position_embeddings import PositionTable, grid_side, resize_grid

_randomness = threading.local()  # each replica is traced in its own thread


def transformer(
    entry: Entry,
    image_size_px: int,
    pooling: str,
    overlap_px: int = 0,
    stochastic_depth: float = 0.0,
    recompute: bool = False,
) -> ImageNetwork:
    """A transformer of random weights; `stochastic_depth` is the last block's rate, the first block's is 0."""
    patch = entry.architecture["patch_size"]
    grid = grid_side(image_size_px, patch, overlap_px)
    # KerasHub does not overlap patches: its backbone gets the size whose plain grid has as many.
    parts = backbones.transformer_parts(entry, grid * patch)
    images = keras.Input((image_size_px, image_size_px, 3), dtype="float32", name="images")
    stem = Stem(parts, patch - overlap_px, grid)
    turned = {"grid": (grid, grid)} if parts.rotary else {}
    x = stem(images)
    for layer in parts.before:
        x = layer(x)
    blocks: list[list[keras.layers.Layer]] = [[stem, *parts.before]]
    taps = {}
    for index, rate in enumerate(np.linspace(0.0, stochastic_depth, len(parts.blocks))):
        block = Residual(parts, index, float(rate), recompute)
        x = block(x, **turned)
        blocks.append([block])
        taps[f"block_{index + 1}"] = block.name
    x, last = _pooled(x, parts, pooling, entry)
    blocks[-1].extend(last)
    table = parts.position_table
    names = tuple(v.path for v in parts.embedding.variables if table is not None and v.shape == table.shape)
    return ImageNetwork(
        model=keras.Model(images, backbones.as_float32(x, "features"), name=entry.family),
        blocks=blocks,
        taps=taps,
        hub_names=[variable.path for variable in parts.variables],
        positions=PositionTable(names, parts.prefix_tokens, grid, parts.antialias),
    )


def _pooled(x: Any, parts: Parts, pooling: str, entry: Entry) -> tuple[Any, list[keras.layers.Layer]]:
    """Tokens [B, T, D] of the last block → features [B, width], and the layers on the way."""
    if pooling == "class_token":
        return parts.norm(x[:, 0]), [parts.norm]
    if pooling == "projection":
        width = entry.architecture["projection_dim"]
        projection = keras.layers.Dense(width, use_bias=parts.head is not None, name="projection")
        if parts.head is None:
            return projection(parts.norm(x[:, 0])), [parts.norm, projection]
        return projection(parts.head(parts.norm(x))), [parts.norm, parts.head, projection]
    if pooling == "attention" and parts.head is not None:
        return parts.head(parts.norm(x)), [parts.norm, parts.head]
    patches = parts.norm(x)[:, parts.prefix_tokens + parts.extra_tokens :]
    return keras.ops.mean(keras.ops.cast(patches, "float32"), axis=1), [parts.norm]


@contextmanager
def step_seed(seed: tf.Tensor, first_image: tf.Tensor | int = 0) -> Iterator[None]:
    """The randomness of one training step; stochastic depth needs it.

    Draws depend on the seed (int [2], such as run seed and step), the block and the image's index in the global batch
    alone: one replica and four drop the same blocks of the same images. `first_image` is this replica's first index.
    """
    before = getattr(_randomness, "current", None)
    _randomness.current = (seed, first_image)
    try:
        yield
    finally:
        _randomness.current = before


def recomputed(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """`function` (float [B, …] → float [B, …]), whose backward pass runs it again in place of keeping what it made.

    Of `tf.recompute_grad`, which does the same, a TPU's compiler finds out that both runs are one, and keeps all.
    """

    @tf.custom_gradient
    def run(x):
        def gradient(upstream, variables=None):
            watched = list(variables or ())
            with tf.GradientTape() as tape:
                again = x + _never_known_zero(upstream, x.dtype)
                tape.watch(again)
                result = function(again)
            found = tape.gradient(result, [again, *watched], upstream)
            return (found[0], found[1:]) if watched else found[0]

        return function(x), gradient

    return run


def _never_known_zero(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """0 in `dtype` that no compiler can tell before `x` is there: 1 for one NaN of 2³², which nothing makes."""
    first = tf.bitcast(tf.cast(tf.reshape(x, [-1])[0], tf.float32), tf.int32)
    return tf.cast(tf.equal(first, 0x7FD5A3C1), dtype)


class Residual(keras.layers.Layer):
    """A transformer block with stochastic depth and recomputed activations; both act in training only.

    Stochastic depth (Huang et al. 2016) drops the whole block's change, image by image, and scales what is kept.
    """

    def __init__(self, parts: Parts, index: int, drop_rate: float, recompute: bool) -> None:
        block = parts.blocks[index]
        super().__init__(name=f"{block.name}_residual", dtype=block.dtype_policy)
        self.block, self.index, self.drop_rate, self.recompute = block, index, drop_rate, recompute
        self.parts = _Untracked(parts)
        self.built = True

    @property
    def rotates(self) -> bool:
        """Whether `call` must know the grid."""
        return self.parts.value.rotary is not None

    def compute_output_shape(self, x_shape: tuple[int | None, ...], grid_shape: Any = None) -> tuple[int | None, ...]:
        return x_shape

    def call(self, x: tf.Tensor, grid: Any = None, training: bool | None = None) -> tf.Tensor:  # [B, T, D] → [B, T, D]
        """`grid`: rows and columns of patches, two numbers or an int32 tensor, where places rotate."""
        parts, more = self.parts.value, {}
        if parts.rotary is not None:
            more = parts.rotate(parts.rotary.angles(grid), parts.prefix_tokens + parts.extra_tokens)
        if not training:
            return self.block(x, **more)
        forward = partial(self.block, training=True, **more)
        y = recomputed(forward)(x) if self.recompute else forward(x)
        if not self.drop_rate:
            return y
        return x + (y - x) * tf.cast(self._kept(tf.shape(x)[0]), x.dtype) / (1.0 - self.drop_rate)

    def _kept(self, batch: tf.Tensor) -> tf.Tensor:
        """float32 [B, 1, 1], 1 where the block stays."""
        current = getattr(_randomness, "current", None)
        if current is None:
            raise ValueError("stochastic depth in training needs a seed: call the model inside `vit.step_seed`")
        seed, first = current
        images = first + tf.range(batch)
        bits = random_bits([tf.cast(seed, tf.int32)[0], tf.cast(seed, tf.int32)[1], self.index, images])
        bits = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
        uniform = tf.cast(bits, tf.float32) / 2.0**24  # 24 bits are exact in float32
        return tf.cast(uniform >= self.drop_rate, tf.float32)[:, None, None]


class Stem(keras.layers.Layer):
    """Images → tokens with KerasHub's variables: patches, class and register tokens, positions.

    KerasHub looks positions up by an id, which makes their gradient sparse, and cannot overlap patches. Here the
    whole table is added, and the window moves by `stride`.
    """

    def __init__(self, parts: Parts, stride: int, grid: int | None, resample: np.ndarray | None = None) -> None:
        """`resample` float32 [P + grid·grid, P + G·G] takes the positions of `parts` to this grid.

        `grid` None: of any size, positions are resized to each batch's; XLA cannot compile that.
        """
        super().__init__(name="stem", dtype=parts.embedding.dtype_policy)
        self.embedding = parts.embedding
        self.resample = None if resample is None else keras.Variable(resample, trainable=False, name="resample")
        self.parts, self.stride, self.grid = _Untracked(parts), stride, grid
        self.tokens = None if grid is None else parts.prefix_tokens + parts.extra_tokens + grid * grid
        self.built = True

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.tokens, self.parts.value.patch_convolution.filters)

    def call(self, images: tf.Tensor) -> tf.Tensor:  # [B, S, S, 3] → [B, T, D]
        parts = self.parts.value
        convolution = parts.patch_convolution
        x = keras.ops.conv(images, convolution.kernel, strides=self.stride, padding="valid")
        if convolution.bias is not None:
            x = x + convolution.bias
        batch, width = keras.ops.shape(x)[0], convolution.filters
        grid = tf.shape(x)[1:3]
        x = keras.ops.reshape(x, (batch, -1, width))
        before = []
        if parts.class_token is not None:
            before.append(keras.ops.reshape(parts.class_token, (1, 1, width)))
        if parts.position_table is not None:
            first, of_patches = self._positions(grid)
            before = [token + keras.ops.cast(first, token.dtype)[None] for token in before]
            x = x + keras.ops.cast(of_patches, x.dtype)[None]
        if parts.registers is not None:
            before.append(parts.registers)
        before = [keras.ops.cast(token, x.dtype) for token in before]
        before = [keras.ops.broadcast_to(token, (batch, token.shape[1], width)) for token in before]
        return keras.ops.concatenate([*before, x], axis=1) if before else x

    def _positions(self, grid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Positions of the tokens before the patches [P, D], and of the patches [T, D]."""
        parts = self.parts.value
        table = keras.ops.reshape(parts.position_table, (-1, parts.patch_convolution.filters))
        if self.resample is not None:
            table = keras.ops.matmul(self.resample.value, keras.ops.cast(table, "float32"))
        first, of_patches = table[: parts.prefix_tokens], table[parts.prefix_tokens :]
        if self.grid is None:
            of_patches = resize_grid(tf.cast(of_patches, tf.float32), grid, parts.antialias)
        return first, of_patches


class Grid(keras.layers.Layer):
    """Images [B, H, W, 3] → int32 [2]: rows and columns of their patches."""

    def __init__(self, patch: int, stride: int) -> None:
        super().__init__(name="grid", autocast=False)
        self.patch, self.stride = patch, stride

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return (tf.shape(images)[1:3] - self.patch) // self.stride + 1

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        return keras.KerasTensor((2,), "int32")


def rewired(model: keras.Model, size: tuple[int | None, ...], stem_of: Callable[[Stem], Stem]) -> keras.Model:
    """The same layers, so the same weights, on images of `size` (height, width), or of any size: (None, None).

    `stem_of`: a transformer's stem → the one for that size. Raises what Keras does for a graph of one size alone.
    """
    images = keras.Input((*size, 3), dtype="float32", name="images")
    stems = [layer for layer in model.layers if isinstance(layer, Stem)]
    grid: Any = None
    if stems and any(isinstance(layer, Residual) and layer.rotates for layer in model.layers):
        patch, stride = int(stems[0].parts.value.patch_convolution.kernel.shape[0]), stems[0].stride
        known = [grid_side(side, patch, patch - stride) for side in size if side is not None]
        grid = tuple(known) if len(known) == 2 else Grid(patch, stride)(images)

    def called(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, Residual) and layer.rotates:
            kwargs["grid"] = grid
        return layer(*args, **kwargs)

    def shared(layer: keras.layers.Layer) -> keras.layers.Layer:
        return stem_of(layer) if isinstance(layer, Stem) else layer

    return keras.models.clone_model(model, input_tensors=images, clone_function=shared, call_function=called)


def of_any_size(model: keras.Model) -> keras.Model:
    """The same layers on images [B, H, W, 3] of any H and W, positions resized to each batch's grid of patches.

    Raises ValueError or TypeError for a graph that takes one size alone.
    """

    def any_grid(stem: Stem) -> Stem:
        return Stem(stem.parts.value, stem.stride, None)

    side = model.input_shape[1]
    rewired(model, (side, 2 * side), any_grid)  # a layer that takes one size alone shows in known shapes only
    return rewired(model, (None, None), any_grid)


@dataclass(frozen=True)
class _Untracked:
    """Hides layers from Keras' tracking: they are tracked already, through `embedding`."""

    value: Any
