"""PE-Core's image tower (Bolya et al. 2025, arXiv 2504.13181), which KerasHub does not have.

A ViT as CLIP's, with learned positions and, in every attention, rotations by place besides; its features are pooled by
attention, then projected.
"""

from typing import Any

import keras
from keras import ops
from keras_hub.src.models.siglip.siglip_layers import SigLIPMultiHeadAttentionPooling

EPSILON = 1e-5  # of every layer norm


class Embedding(keras.layers.Layer):
    """The variables of patches, class token and positions; `vit.Stem` computes with them."""

    def __init__(self, hidden_dim: int, patch_size: int, grid: int, class_token: bool) -> None:
        super().__init__(name="embedding")
        self.hidden_dim, self.positions, self.has_class_token = hidden_dim, class_token + grid * grid, class_token
        self.patch_embedding = keras.layers.Conv2D(
            hidden_dim, patch_size, strides=patch_size, use_bias=False, name="patch_embedding"
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.patch_embedding.build(input_shape)
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        self.position_embedding = self.add_weight(
            shape=(self.positions, self.hidden_dim), initializer=normal, name="position_embedding"
        )
        self.class_embedding = None
        if self.has_class_token:
            self.class_embedding = self.add_weight(shape=(self.hidden_dim,), initializer=normal, name="class_embedding")


class RotaryAttention(keras.layers.Layer):
    """Self-attention whose queries and keys are rotated, two neighbouring numbers of a head at a time."""

    def __init__(self, hidden_dim: int, num_heads: int, **more: Any) -> None:
        super().__init__(autocast=False, **more)  # angles stay float32
        head_dim = hidden_dim // num_heads
        self.scale = head_dim**-0.5

        def dense(equation: str, shape: tuple, bias: str, name: str) -> keras.layers.EinsumDense:
            return keras.layers.EinsumDense(equation, shape, bias_axes=bias, dtype=self.dtype_policy, name=name)

        of_heads = (None, num_heads, head_dim)
        self.query, self.key, self.value = (
            dense("btd,dhe->bthe", of_heads, "he", name) for name in ("query", "key", "value")
        )
        self.output_dense = dense("bthe,hed->btd", (None, hidden_dim), "d", "attention_output")
        self.of_heads = of_heads

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for layer in (self.query, self.key, self.value):
            layer.build(input_shape)
        self.output_dense.build((*input_shape[:2], *self.of_heads[1:]))

    def call(self, x: Any, angles: Any, prefix_tokens: int) -> Any:  # [B, T, D], [T - P, D / H / 2] → [B, T, D]
        query, key = (rotated(layer(x), angles, prefix_tokens) for layer in (self.query, self.key))
        return self.output_dense(ops.dot_product_attention(query, key, self.value(x), scale=self.scale))

    def compute_output_shape(self, x_shape: tuple, angles_shape: tuple | None = None) -> tuple:
        return x_shape


def rotated(x: Any, angles: Any, prefix_tokens: int) -> Any:
    """[B, T, H, E], float32 [T - P, E / 2] → [B, T, H, E]: pair k of each patch turned by angle k; P tokens stay."""
    prefix, patches = x[:, :prefix_tokens], x[:, prefix_tokens:]
    cos, sin = (ops.cast(each(angles), x.dtype)[None, :, None] for each in (ops.cos, ops.sin))
    even, odd = patches[..., ::2], patches[..., 1::2]
    pairs = ops.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return ops.concatenate([prefix, ops.reshape(pairs, ops.shape(patches))], axis=1)


class Block(keras.layers.Layer):
    """A pre-norm transformer block."""

    def __init__(self, hidden_dim: int, num_heads: int, intermediate_dim: int, activation: str, name: str) -> None:
        super().__init__(name=name, autocast=False)
        policy = self.dtype_policy
        self.layer_norm_1 = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="layer_norm_1")
        self.attention = RotaryAttention(hidden_dim, num_heads, dtype=policy, name="attention")
        self.layer_norm_2 = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="layer_norm_2")
        self.dense_1 = keras.layers.Dense(intermediate_dim, activation, dtype=policy, name="dense_1")
        self.dense_2 = keras.layers.Dense(hidden_dim, dtype=policy, name="dense_2")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for layer in (self.layer_norm_1, self.attention, self.layer_norm_2, self.dense_1):
            layer.build(input_shape)
        self.dense_2.build((*input_shape[:-1], self.dense_1.units))

    def call(self, x: Any, angles: Any, prefix_tokens: int, training: bool | None = None) -> Any:
        x = x + self.attention(self.layer_norm_1(x), angles=angles, prefix_tokens=prefix_tokens)
        return x + self.dense_2(self.dense_1(self.layer_norm_2(x)))

    def compute_output_shape(self, x_shape: tuple, angles_shape: tuple | None = None) -> tuple:
        return x_shape


class ImageTower:
    """The layers of the tower, built with random weights; `vit.transformer` wires them.

    `architecture`: as in `catalogue`; `side`: of the square that its grid of positions covers, in px.
    """

    def __init__(self, architecture: dict[str, Any], side: int) -> None:
        self.architecture = a = architecture
        width, patch = a["hidden_dim"], a["patch_size"]
        tokens = (None, None, width)
        self.embedding = Embedding(width, patch, side // patch, a["use_class_token"])
        self.embedding.build((None, side, side, 3))
        self.pre_layer_norm = keras.layers.LayerNormalization(epsilon=EPSILON, name="pre_layer_norm")
        self.blocks = [
            Block(width, a["num_heads"], a["intermediate_dim"], a["activation"], name=f"encoder_block_{i}")
            for i in range(a["num_layers"])
        ]
        self.layer_norm = keras.layers.LayerNormalization(epsilon=EPSILON, name="layer_norm")
        self.head = SigLIPMultiHeadAttentionPooling(
            width, a["pooling_dim"], a["pooling_heads"], a["activation"], layer_norm_epsilon=EPSILON, name="head"
        )
        for layer in (self.pre_layer_norm, *self.blocks, self.layer_norm, self.head):
            layer.build(tokens)
