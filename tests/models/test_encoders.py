"""Encoders: KerasHub's forward pass as reference, seeds, blocks, recomputed activations, stochastic depth, overlap."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Encoder
from pipeline.errors import BadInput
from pipeline.models import backbones, catalogue, encoders
from pipeline.models.weights.variables import float_variables

SMALL = {"hidden_dim": 32, "num_layers": 3, "num_heads": 2, "intermediate_dim": 64}
FAMILIES = [
    "clip_tiny",
    "siglip_so400m_patch14_384",
    "dinov2_small",
    "dinov2_with_registers_small",
    "dinov3_small_plus",
    "pe_core_b_16_224",
    "vit_base_patch16_224_imagenet",
]
OF_KERASHUB = [name for name in FAMILIES if not name.startswith("pe_core")]  # KerasHub has no PE-Core: test_parity


def build(name="clip_tiny", seed=0, **options) -> encoders.ImageEncoder:
    small = SMALL if catalogue.find(name).facts.transformer else {}
    return encoders.build(Encoder(name=name, architecture=options.pop("architecture", small), **options), seed)


def images(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, side, side, 3)).astype(np.float32)


def disturb(model: keras.Model) -> None:
    """Makes every weight random: fresh biases and scales are 0 and 1, which would hide a swap."""
    noise = np.random.default_rng(5)
    for name, variable in float_variables(model).items():
        moved = variable.numpy() + noise.normal(scale=0.1, size=variable.shape)
        variable.assign(np.abs(moved) + 0.1 if name.endswith("variance") else moved)


@pytest.mark.parametrize("name", [*OF_KERASHUB, "mobilenet_v3_small"])
def test_encoder_gives_what_kerashubs_own_model_gives(name, tmp_path):
    entry = catalogue.find(name, SMALL if catalogue.find(name).facts.transformer else {})
    side = 5 * entry.architecture.get("patch_size", 16)
    backbone = backbones.make(entry, side)
    backbones.hub_variables(entry, backbone)  # sets CLIP's ids of positions
    disturb(backbone)
    if entry.family == "dinov2":  # its file keeps the positions before interpolation
        backbone.embeddings.position_embeddings.assign(backbone.embeddings.interpolated_position_embeddings)
    backbone.save(tmp_path / "hub.keras")
    pooling = {"clip": "class_token"}.get(entry.family)  # KerasHub's vision encoder has no projection
    encoder = build(name, image_size_px=side, weights=f"file:{tmp_path / 'hub.keras'}", pooling=pooling)
    x = images(side)
    theirs = np.asarray(backbone(dict.fromkeys(backbone.input, x) if isinstance(backbone.input, dict) else x))
    if theirs.ndim == 4:
        theirs = theirs.mean((1, 2))
    elif theirs.ndim == 3:
        theirs = theirs[:, 0]
    ours = encoder.model(x).numpy()
    assert ours.shape == (2, encoder.width)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_mean_pooling_leaves_out_class_and_register_tokens():
    encoder = build("dinov2_with_registers_small", image_size_px=70, pooling="mean")
    disturb(encoder.model)
    tokens = keras.Model(encoder.model.inputs[0], encoder.model.get_layer(encoder.taps["block_3"]).output)(images(70))
    normed = encoder.blocks[-1][1](tokens).numpy()
    assert tokens.shape == (2, 1 + 4 + 25, 32)
    np.testing.assert_allclose(encoder.model(images(70)), normed[:, 5:].mean(1), rtol=1e-5, atol=1e-5)


def test_random_weights_depend_on_the_seed_alone():
    random.seed(11)
    expected_next = random.Random(11).random()
    first = build(seed=4)
    assert random.random() == expected_next  # Python's random numbers are undisturbed
    keras.layers.Dense(3).build((None, 2))
    again, other = build(seed=4), build(seed=5)
    pairs = list(zip(first.model.get_weights(), again.model.get_weights(), strict=True))
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert not np.allclose(first.model(images(64)), other.model(images(64)))
    assert [v.path for v in first.model.variables] == [v.path for v in again.model.variables]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_patch_has_its_position(name):
    """KerasHub's CLIP starts with all ids of positions at 0: swapping patches would change nothing."""
    patch = catalogue.find(name).architecture["patch_size"]
    encoder = build(name, image_size_px=3 * patch)
    x = images(3 * patch, 1)
    swapped = x.copy()
    swapped[:, :patch, :patch], swapped[:, -patch:, -patch:] = x[:, -patch:, -patch:], x[:, :patch, :patch]
    assert np.abs(encoder.model(x) - encoder.model(swapped)).max() > 1e-4


@pytest.mark.parametrize("name", [*FAMILIES, "efficientnet_b0"])
def test_blocks_hold_every_variable_once_and_names_are_unique(name):
    encoder = build(name, image_size_px=70)
    held = [id(v) for layers in encoder.blocks for layer in layers for v in layer.variables]
    assert sorted(held) == sorted(id(v) for v in encoder.model.variables)
    paths = [v.path for v in encoder.model.variables]
    assert len(set(paths)) == len(paths)
    assert len(encoder.blocks) == len(encoder.taps) + 1


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_stem_sees_the_windows_that_overlap_asks_for(name, overlap):
    encoder = build(name, image_size_px=61, patch_overlap_px=overlap)
    disturb(encoder.model)
    x = images(61, 1)
    stem = encoder.blocks[0][0]
    tokens = stem(x).numpy()[0]
    parts, patch = stem.parts.value, catalogue.find(name).architecture["patch_size"]
    kernel, stride = parts.patch_convolution.kernel.numpy(), patch - overlap
    starts = range(0, 61 - patch + 1, stride)
    assert encoder.positions.grid == len(starts)
    windows = [x[0, i : i + patch, j : j + patch] for i in starts for j in starts]
    slow = np.stack([np.einsum("hwc,hwcd->d", window, kernel) for window in windows])
    if parts.patch_convolution.bias is not None:
        slow = slow + parts.patch_convolution.bias.numpy()
    if parts.position_table is not None:
        slow = slow + parts.position_table.numpy().reshape(-1, 32)[parts.prefix_tokens :]
    np.testing.assert_allclose(tokens[parts.prefix_tokens + parts.extra_tokens :], slow, rtol=1e-3, atol=1e-3)


def loss_and_gradients(encoder, x, jit):
    values = [v.value for v in encoder.model.trainable_variables]
    target = tf.constant(np.random.default_rng(1).normal(size=(len(x), encoder.width)), tf.float32)

    @tf.function(jit_compile=jit)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((encoder.model(x, training=True) - target) ** 2)
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, values)]

    return step(x)


@pytest.mark.parametrize(
    ("name", "jit"), [("clip_tiny", True), ("dinov3_small_plus", False), ("pe_core_b_16_224", True)]
)
def test_recomputed_activations_give_the_same_gradients(name, jit):
    x = images(64)
    plain, recomputed = (build(name, image_size_px=64, checkpointing=c, pooling="mean") for c in (False, True))
    loss, gradients = loss_and_gradients(plain, x, jit=False)
    loss_2, gradients_2 = loss_and_gradients(recomputed, x, jit)
    np.testing.assert_allclose(loss, loss_2, rtol=1e-6)
    assert len(gradients) > 20 and max(np.abs(g).max() for g in gradients) > 1e-3
    for a, b in zip(gradients, gradients_2, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_recomputing_takes_less_memory():
    x = images(64, 8)

    def temporary_bytes(checkpointing):
        encoder = build(architecture={**SMALL, "num_layers": 3}, checkpointing=checkpointing)
        values = [v.value for v in encoder.model.trainable_variables]

        @tf.function(jit_compile=True)
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(encoder.model(x, training=True) ** 2)
            return [tf.convert_to_tensor(g) for g in tape.gradient(loss, values)]

        before = step.experimental_get_compiler_ir(x)(stage="optimized_hlo")
        return max_live_bytes(before)

    assert temporary_bytes(True) < 0.8 * temporary_bytes(False)


def max_live_bytes(hlo: str) -> int:
    """Largest sum of live results along XLA's schedule of the entry computation."""
    import re

    sizes = {"f32": 4, "s32": 4, "pred": 1, "s64": 8, "u32": 4, "bf16": 2}
    body = hlo[hlo.index("ENTRY") :]
    made, last_use = [], {}
    for line in body.splitlines():
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]\S* (\w[\w\-]*)\((.*)", line)
        if not found:
            continue
        name, kind, dims, operation, rest = found.groups()
        count = int(np.prod([int(d) for d in dims.split(",") if d])) if dims else 1
        free = operation in ("parameter", "bitcast", "get-tuple-element", "constant")
        made.append((name, 0 if free else count * sizes.get(kind, 4)))
        for operand in re.findall(r"%([\w.\-]+)", rest):
            last_use[operand] = len(made) - 1
    assert "is_scheduled=true" in hlo and len(made) > 50
    live, most, ends = 0, 0, {}
    for line, (name, size) in enumerate(made):
        live += size
        most = max(most, live)
        ends.setdefault(last_use.get(name, line), []).append(size)
        live -= sum(ends.pop(line, []))
    return most


def drop_step(encoder, jit=False):
    @tf.function(jit_compile=jit)
    def run(x, seed, first):
        with encoders.step_seed(seed, first):
            return encoder.model(x, training=True)

    return lambda x, step, first=0: run(x, tf.constant([7, step]), tf.constant(first)).numpy()


def test_stochastic_depth_depends_on_seed_step_and_image_alone():
    encoder, x = build(stochastic_depth=0.8), images(64, 8)
    run, compiled = drop_step(encoder), drop_step(encoder, jit=True)
    whole = run(x, 1)
    np.testing.assert_array_equal(whole, run(x, 1))
    np.testing.assert_allclose(whole, compiled(x, 1), rtol=1e-4, atol=1e-4)
    two_replicas = np.concatenate([run(x[:4], 1, 0), run(x[4:], 1, 4)])
    np.testing.assert_allclose(whole, two_replicas, rtol=1e-4, atol=1e-4)
    assert np.abs(whole - run(x, 2)).max() > 0.1
    np.testing.assert_array_equal(encoder.model(x), build().model(x))  # not in inference


def test_stochastic_depth_drops_at_its_rate_and_keeps_the_mean():
    block = build(stochastic_depth=0.4).blocks[-1][0]
    assert [round(layers[0].drop_rate, 6) for layers in build(stochastic_depth=0.4).blocks[1:]] == [0, 0.2, 0.4]
    with encoders.step_seed(tf.constant([0, 3])):
        kept = np.ravel(block._kept(tf.constant(20_000)))
    with encoders.step_seed(tf.constant([0, 4])):
        later = np.ravel(block._kept(tf.constant(20_000)))
    assert abs(kept.mean() - 0.6) < 0.015
    assert abs(np.corrcoef(kept, later)[0, 1]) < 0.03 and abs(np.corrcoef(kept[1:], kept[:-1])[0, 1]) < 0.03
    x = tf.random.stateless_normal([1, 3, 32], [1, 2])
    with encoders.step_seed(tf.constant([0, 3])):
        y = block(tf.tile(x, [4000, 1, 1]), training=True)
    np.testing.assert_allclose(np.mean(y, 0), block(x)[0], atol=0.15)


def test_stochastic_depth_without_a_seed_is_a_fault():
    with pytest.raises(ValueError, match="step_seed"):
        build(stochastic_depth=0.5).model(images(64), training=True)


def test_weights_move_to_another_size_and_back():
    small, large = (build(image_size_px=64), build(image_size_px=96, patch_overlap_px=2, seed=1, checkpointing=True))
    encoders.transfer(small, large)
    tables = [next(v for v in e.model.variables if v.path in e.positions.names).numpy() for e in (small, large)]
    assert tables[1].shape == (1 + 15 * 15, 32)
    np.testing.assert_array_equal(tables[0][0], tables[1][0])
    back = build(image_size_px=64, seed=2)
    encoders.transfer(small, back)
    np.testing.assert_array_equal(small.model(images(64)), back.model(images(64)))
    with pytest.raises(BadInput, match=r"encoder_block_2.*another|another.*encoder_block_2"):
        encoders.transfer(small, build(architecture={**SMALL, "num_layers": 2}))


def test_mixed_bfloat16_keeps_float32_weights_and_features():
    exact = build().model(images(64)).numpy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = build()
        features = encoder.model(images(64))
    finally:
        keras.config.set_dtype_policy("float32")
    assert features.dtype == tf.float32
    assert {v.dtype for v in encoder.model.trainable_variables} == {"float32"}
    assert 1e-6 < np.abs(features - exact).max() / np.abs(exact).max() < 0.05


def test_batch_norm_keeps_its_statistics_in_training():
    """With a batch's statistics, replicas, pieces of a batch and frozen blocks would each train another model."""
    built = encoders.build(Encoder(name="mobilenet_v3_small_050", image_size_px=32)).model
    pixels = images(32)
    before = [np.array(v) for v in built.non_trainable_variables]
    np.testing.assert_allclose(built(pixels, training=True), built(pixels, training=False), atol=1e-6)
    assert all((np.array(v) == value).all() for v, value in zip(built.non_trainable_variables, before, strict=True))
