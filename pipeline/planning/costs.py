"""What a training step costs, by arithmetic: parameters, FLOPs, memory. No TensorFlow for transformers.

FLOPs are those of matrix products and convolutions, two a multiply-add; XLA's optimised graph of the built step has
exactly these (tests/planning/test_plan.py). What a block keeps for its backward pass was counted in XLA's buffers.
Other networks are built and counted from their graph, see `built`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import config
from pipeline.config.phase_keys import trained_blocks
from pipeline.models.catalogue import Entry
from pipeline.models.position_embeddings import grid_side

OPTIMIZER_BYTES = {"adam": 8, "adamw": 8, "sgd": 4, "adafactor": 4}  # a trained parameter; Keras' Adafactor keeps v


@dataclass(frozen=True)
class EncoderCosts:
    """One image through an encoder. A network whose blocks are unknown is all tail."""

    width: int
    image_size_px: int
    stem_parameters: int  # before the first block
    block_parameters: tuple[int, ...]  # of every block in order
    tail_parameters: int  # after the last block
    stem_flops: float  # of the forward pass, as the next two
    block_flops: float
    tail_flops: float
    recomputed_flops: float  # what a checkpointed block does again
    token_elements: float  # numbers that enter a block
    block_elements: float  # numbers that a block keeps for its backward pass
    end_elements: float  # numbers that live beside the blocks' at the peak, the gradient on its way among them
    forward_elements: float  # numbers alive at once when nothing is kept

    @property
    def blocks(self) -> int:
        return len(self.block_parameters)

    @property
    def parameters(self) -> int:
        return self.stem_parameters + sum(self.block_parameters) + self.tail_parameters

    @property
    def flops(self) -> float:
        """Of the forward pass."""
        return self.stem_flops + self.blocks * self.block_flops + self.tail_flops


@dataclass(frozen=True)
class Moment:
    """A point of the backward pass: what has come of the gradients, and what is still kept of the activations."""

    gradients: float  # parameters whose gradients are there
    elements: float  # an image, in the compute dtype


@dataclass(frozen=True)
class StepCosts:
    """One image of one phase's step, and what a replica holds whatever its batch."""

    parameters: int  # of encoder, head and class centres
    trained_parameters: int
    flops: float  # an image, forward and backward, with what checkpointing does again
    model_flops: float  # without that
    plain: tuple[Moment, ...]  # the most is held at one of these
    checkpointed: tuple[Moment, ...]
    float32_bytes: float  # an image, whatever the compute dtype: pixels and class logits


def transformer(entry: Entry, image_size_px: int, pooling: str, overlap_px: int = 0) -> EncoderCosts:
    """Costs of the network that `vit.transformer` wires, without building it."""
    a, family = entry.architecture, entry.facts
    patch, width, layers, heads, inner = (
        int(a[key]) for key in ("patch_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")
    )
    prefix, registers = family.prefix_tokens, int(a.get("num_register_tokens", 0))
    patches = grid_side(image_size_px, patch, overlap_px) ** 2
    tokens = prefix + registers + patches
    gated = bool(a.get("use_swiglu_ffn") or a.get("use_gated_mlp"))
    if a.get("use_swiglu_ffn"):
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
    inward = 2 * inner if gated else inner  # width of the first dense layer
    square, norm = width * width, 2 * width
    # DINOv3's keys have no bias, its largest encoder's queries and values none either.
    biases = 4 if family.position_table else 1 + a["use_query_bias"] + a["use_value_bias"]
    attention = 4 * square + biases * width
    mlp = width * inward + inward + inner * width + width
    scales = 2 * width if family.layer_scales else 0

    stem = 3 * patch * patch * width + (prefix + patches) * width * family.position_table + (prefix + registers) * width
    stem += norm if family.stem_norm else width  # width: the patch convolution's bias
    block_flops = 8.0 * tokens * square + 4.0 * tokens * tokens * width + 2.0 * tokens * width * (inward + inner)
    tail, tail_flops = norm, 0.0
    if pooling == "attention" or (pooling == "projection" and "attention" in family.poolings):
        pooled = int(a.get("pooling_dim", inner))
        tail += width + 4 * (square + width) + norm + 2 * width * pooled + pooled + width
        tail_flops = 4.0 * tokens * square + 4.0 * tokens * width + 4.0 * square + 4.0 * width * pooled
    if pooling == "projection":
        projected = int(a["projection_dim"])
        tail += width * projected + projected * ("attention" in family.poolings)  # with a bias after attention
        tail_flops += 2.0 * width * projected
    # The last product of a checkpointed block is not needed again, unless a learned scale follows it.
    spared = 0.0 if scales else 2.0 * tokens * inner * width
    kept_inner = 3.0 if a.get("activation") in ("quick_gelu", "gelu_approximate") else 4.0
    narrow, wide, scores = float(tokens * width), float(tokens * inner), float(heads * tokens * tokens)
    return EncoderCosts(
        width=int(a["projection_dim"]) if pooling == "projection" else width,
        image_size_px=image_size_px,
        stem_parameters=stem,
        block_parameters=(2 * norm + attention + mlp + scales,) * layers,
        tail_parameters=tail,
        stem_flops=2.0 * patches * 3 * patch * patch * width,
        block_flops=block_flops,
        tail_flops=tail_flops,
        recomputed_flops=block_flops - spared,
        token_elements=narrow,
        block_elements=8.0 * narrow + kept_inner * wide + scores,
        # In the last block's MLP; or in its attention, when what the MLP kept is gone.
        end_elements=max(3.0 * narrow + wide, 2.0 * narrow + 2.0 * scores - kept_inner * wide),
        forward_elements=max(narrow + 2.0 * wide, 3.0 * narrow + 2.0 * scores),
    )


def built(model, image_size_px: int, blocks: Sequence[Sequence[Any]]) -> EncoderCosts:
    """Costs of any other Keras model (images [B, S, S, 3] → features [B, width]), from its graph.

    Parameters are exact for each block (`encoders.ImageEncoder.blocks`). FLOPs and activations, counted generously as
    every map that it makes, are exact for the whole network alone: each block is given an even share, though the first
    ones have the larger maps, and the stem is counted among them.
    """
    import tensorflow as tf  # a second to import; transformers need none of it

    traced = tf.function(lambda images: model(images, training=False))
    graph = traced.get_concrete_function(tf.TensorSpec([1, image_size_px, image_size_px, 3], tf.float32)).graph
    flops, elements, largest = 0.0, 0.0, 0.0
    for operation in graph.get_operations():
        if not operation.outputs or not operation.outputs[0].shape.is_fully_defined():
            continue
        output = operation.outputs[0]
        count = float(output.shape.num_elements())
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            kernel = operation.inputs[1].shape
            inward = kernel[0] if len(kernel) == 2 else kernel[0] * kernel[1]
            flops += 2.0 * count * inward * (kernel[2] if operation.type == "Conv2D" else 1)
        if len(output.shape) == 4 and output.dtype.is_floating and output.shape[0] == 1:
            elements, largest = elements + count, max(largest, count)
    block_of = {id(v): number for number, layers in enumerate(blocks) for layer in layers for v in layer.variables}
    parameters = [0] * (len(blocks) + 1)  # the last: of no block, which is trained whenever a block is
    for variable in model.trainable_variables:
        parameters[block_of.get(id(variable), -1)] += math.prod(variable.shape)
    share = 1.0 / (len(blocks) - 1) if len(blocks) > 1 else 0.0  # of FLOPs and activations, each block's
    rest = 0.0 if share else 1.0
    return EncoderCosts(
        width=int(model.output_shape[-1]), image_size_px=image_size_px,
        stem_parameters=parameters[0] if blocks else 0, block_parameters=tuple(parameters[1:-1]),
        tail_parameters=parameters[-1],
        stem_flops=0.0, block_flops=share * flops, tail_flops=rest * flops, recomputed_flops=share * flops,
        token_elements=share * elements, block_elements=share * elements,
        end_elements=rest * elements + 2 * largest, forward_elements=3 * largest,
    )  # fmt: skip


def step(encoder: EncoderCosts, run: config.Run, phase: config.Phase, classes: int, on_features: bool) -> StepCosts:
    """One phase's step; `on_features`: the encoder's features were computed once, its forward pass is no part of it."""
    dim, centres = (run.embedder.loss_dim, classes * run.train.loss.subcenters * run.embedder.loss_dim)
    projection = encoder.width * dim + dim  # with its bias
    served = run.embedder.embedding_dim
    fixed = (dim + 1) * served * (dim > served) + 2 * encoder.width * run.embedder.batch_norm  # PCA, statistics
    taught = teacher_parameters(encoder, run, classes)
    top = 2.0 * (encoder.width * dim + centres + taught)  # FLOPs of heads and cosines, forward
    trained_of_all = trained_blocks(phase, encoder.blocks)
    whole, blocks = trained_of_all > encoder.blocks, min(trained_of_all, encoder.blocks)
    head_trained, encoder_trained = phase.trainable != "encoder", phase.trainable != "head"
    trained = (projection + centres + taught) * head_trained
    flops = top * (1 + head_trained) + (top if encoder_trained else 2.0 * centres)  # + to the inputs
    plain: tuple[Moment, ...] = (Moment(trained, 0.0),)
    checkpointed = plain
    again = 0.0
    if not on_features:
        flops += encoder.flops
        plain = checkpointed = (Moment(0.0, encoder.forward_elements), Moment(trained, 0.0))
    if encoder_trained:
        top_gradients = trained + encoder.tail_parameters
        of_blocks = sum(encoder.block_parameters[encoder.blocks - blocks :])
        trained = top_gradients + of_blocks + encoder.stem_parameters * whole
        again = encoder.recomputed_flops * blocks * run.encoder.checkpointing
        flops += 2 * (blocks * encoder.block_flops + encoder.tail_flops) + encoder.stem_flops * whole + again
        plain, checkpointed = (
            _backward(encoder, blocks, kept, working, top_gradients, of_blocks, trained)
            for kept, working in ((encoder.block_elements, 0.0), (encoder.token_elements, encoder.block_elements))
        )
    pixels = 2.0 * 3 * encoder.image_size_px**2 * whole  # the stem's gradient needs them
    return StepCosts(
        parameters=encoder.parameters + projection + fixed + centres + taught,
        trained_parameters=trained,
        flops=flops,
        model_flops=flops - again,
        plain=plain,
        checkpointed=checkpointed,
        float32_bytes=4.0 * (pixels + 3.0 * classes * (run.train.loss.subcenters + (taught > 0))),
    )


def teacher_parameters(encoder: EncoderCosts, run: config.Run, classes: int) -> int:
    """Of the online teachers, 0 without them: a head with its bias for each source that is trained on, all centres."""
    if not (dim := run.train.teachers.dim):
        return 0
    sources = max(len(run.records.trained_sources), 1)
    return sources * (encoder.width + 1) * dim + classes * dim


def _backward(
    encoder: EncoderCosts, blocks: int, kept: float, working: float, top: float, of_blocks: float, trained: float
) -> tuple[Moment, ...]:
    """Where the last block begins, where the first trained one does, and the end.

    Activations go and gradients come, each block as many, so that the most is at one end.

    Args:
        kept: numbers that a block keeps, an image.
        working: numbers that a block makes again.
        top: parameters of head, centres and tail; `of_blocks`: of the trained blocks; `trained`: of all.
    """
    working += encoder.end_elements
    return (
        Moment(top, blocks * kept + working),
        Moment(top + of_blocks * (1 - 1 / max(blocks, 1)), kept + working),
        Moment(trained, 3 * encoder.token_elements),
    )


def memory_bytes(
    costs: StepCosts,
    optimizer: config.Optimizer,
    images: float,
    checkpointing: bool,
    compute_bytes: int,
    averaged: bool = False,
    in_one: bool = True,
) -> dict[str, float]:
    """Bytes that one replica holds at the peak of a step, for its share `images` of the batch, by what they are of.

    Args:
        compute_bytes: of a number in the compute dtype: 2 bfloat16, 4 float32. Weights are float32, and the copy in a
            smaller compute dtype.
        averaged: the phase averages its weights.
        in_one: XLA compiles the step with its update, as for a TPU, and gradients take the place of activations that
            are done with. Otherwise they are what the compiled part gives: their place is theirs from its start.
    """
    pieces = optimizer.accumulate_steps
    share, every = images / pieces, 4.0 * costs.trained_parameters
    gradients, activations = max(
        (
            (
                4.0 * moment.gradients if in_one else every,
                share * (moment.elements * compute_bytes + costs.float32_bytes),
            )
            for moment in (costs.checkpointed if checkpointing else costs.plain)
        ),
        key=sum,
    )
    state = optimizer_bytes(optimizer) + (4 if optimizer.ema or averaged else 0)
    return {
        "weights": costs.parameters * (4.0 if compute_bytes == 4 else 4.0 + compute_bytes),
        "gradients": gradients + every * (pieces > 1),
        "optimizer": float(state * costs.trained_parameters),
        "activations": activations,
    }


def optimizer_bytes(optimizer: config.Optimizer) -> int:
    """Of a trained parameter, without averages."""
    return OPTIMIZER_BYTES[optimizer.name] - (2 if optimizer.moments == "bfloat16" else 0)


def host_bytes(images: int, width: int, starts: bool) -> float:
    """Bytes of the machine's own memory that features of all images take, and with them the start of the head.

    The start (`starts.axes`) holds them three times in float32, and in float64 for their covariance.
    """
    return float(images) * width * (20.0 if starts else 4.0)
