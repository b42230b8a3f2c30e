"""Encoders on images of any height and width: timm's and open_clip's own, which resize positions for each grid."""

from dataclasses import replace

import keras
import keras_hub
import numpy as np
import pytest

from pipeline.config import Encoder
from pipeline.errors import BadInput
from pipeline.models import any_size, catalogue, encoders
from tests.models import test_keras_files as keras_file
from tests.models.test_encoders import build, disturb, images

GRIDS = [(5, 3), (2, 7), (4, 4)]  # of patches of 8 px; the last is that of the weights


def rectangle(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).normal(size=(2, height, width, 3)).astype(np.float32)


@pytest.fixture
def of_32_px(monkeypatch):
    """Encoders of the catalogue as if they had been trained at 32 px."""

    def of(name: str) -> None:
        monkeypatch.setitem(catalogue.CATALOGUE, name, replace(catalogue.find(name), image_size_px=32))

    return of


def narrowed_trunks():
    """Name → (timm's class, its arguments, the catalogue's dimensions)."""
    pytest.importorskip("torch")
    from tests.models import narrow_models as narrow

    narrow.files.import_open_clip()
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return {
        "siglip2_base_patch16_512": (VisionTransformer, narrow.SIGLIP_TRUNK, narrow.narrow_siglip(False).image),
        "pe_core_b_16_224": (
            Eva, {**narrow.pe_core_trunk(True), "num_classes": 20}, narrow.narrow_pe_core(True).image,
        ),
        "pe_core_bigg_14_448": (
            Eva, {**narrow.pe_core_trunk(False), "num_classes": 20}, narrow.narrow_pe_core(False).image,
        ),
    }  # fmt: skip


def randomized(model):
    import torch

    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def answer(model, pixels: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()


def saved(path, state, prefix: str = ""):
    from safetensors.torch import save_file

    save_file({prefix + key: value.contiguous() for key, value in state.items()}, path)
    return f"file:{path}"


@pytest.mark.parametrize("name", ["siglip2_base_patch16_512", "pe_core_b_16_224", "pe_core_bigg_14_448"])
def test_rectangles_are_embedded_as_by_timms_towers_of_dynamic_size(name, tmp_path, of_32_px):
    kind, arguments, sizes = narrowed_trunks()[name]
    trunk = randomized(kind(**{"num_classes": 0, **arguments}, img_size=32, dynamic_img_size=True))
    of_32_px(name)
    activation = {"activation": "gelu"} if name.startswith("siglip") else {}
    weights = saved(tmp_path / "trunk.safetensors", trunk.state_dict(), "visual.trunk.")
    encoder = encoders.build(Encoder(name, weights, fit="aspect", architecture={**sizes, **activation}))
    run = any_size.forward(encoder)
    assert encoder.preprocess.multiple_px == 8 and encoder.model.input_shape == (None, None, None, 3)
    for height, width in GRIDS:
        pixels = rectangle(8 * height, 8 * width)
        np.testing.assert_allclose(run(pixels), answer(trunk, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_rectangles_are_embedded_as_by_timms_dinov3(gated, tmp_path):
    pytest.importorskip("torch")
    from tests.models import narrow_models as narrow

    narrow.files.import_open_clip()
    import timm

    name, narrowed = "dinov3_small_plus" if gated else "dinov3_small", narrow.narrow_dinov3(gated)
    arguments = {**narrowed.reference, "num_classes": 0, "global_pool": "token"}
    trunk = randomized(timm.create_model(catalogue.find(name).timm, **arguments))
    section = Encoder(name, saved(tmp_path / "d.safetensors", trunk.state_dict()), architecture=narrowed.image)
    run = any_size.forward(encoders.build(replace(section, fit="aspect")))
    for height, width in GRIDS:
        pixels = rectangle(8 * height, 8 * width)
        np.testing.assert_allclose(run(pixels), answer(trunk, pixels), rtol=1e-4, atol=1e-5)
    square = encoders.build(replace(section, image_size_px=40)).model
    np.testing.assert_allclose(square(images(40)), answer(trunk, images(40)), rtol=1e-4, atol=1e-5)


def test_rectangles_are_embedded_as_by_open_clip_with_its_positions_resized(tmp_path, of_32_px):
    torch = pytest.importorskip("torch")
    from tests.models import narrow_models as narrow

    model = randomized(narrow.files.import_open_clip().CLIP(**narrow.narrow_clip(False).reference))
    of_32_px("clip_vit_b_32")
    weights = saved(tmp_path / "clip.safetensors", model.state_dict())
    run = any_size.forward(encoders.build(Encoder("clip_vit_b_32", weights, fit="aspect", architecture=narrow.IMAGE)))
    table = model.visual.positional_embedding.detach().clone()
    for grid in GRIDS:
        square = table[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(square, grid, mode="bicubic", antialias=True, align_corners=False)
        patches = resized.permute(0, 2, 3, 1).reshape(-1, table.shape[1])
        model.visual.positional_embedding = torch.nn.Parameter(torch.cat([table[:1], patches]))
        pixels = rectangle(8 * grid[0], 8 * grid[1])
        np.testing.assert_allclose(run(pixels), answer(model.visual, pixels), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["clip_tiny", "dinov2_small", "dinov2_with_registers_small", "pe_core_t_16_384"])
def test_a_square_is_embedded_as_by_the_encoder_that_is_built_for_it(name):
    patch = catalogue.find(name).architecture["patch_size"]
    encoder = build(name, image_size_px=4 * patch)
    disturb(encoder.model)
    run, other = any_size.forward(encoder), build(name, seed=9, image_size_px=6 * patch)
    encoders.transfer(encoder, other)
    for each in (encoder, other):
        x = images(each.preprocess.image_size_px)
        np.testing.assert_allclose(run(x), each.model(x), rtol=1e-4, atol=2e-5)


def test_positions_are_resized_once_from_the_grid_of_the_weights():
    """Built for squares of 384 px, the table would be resized to that grid first."""
    encoder = build("clip_vit_b_32", fit="aspect", image_size_px=384)
    assert encoder.positions.grid == 7 and encoder.preprocess.image_size_px == 384
    assert build("dinov2_small", fit="aspect", image_size_px=724).positions.grid == 37
    assert encoder.preprocess.fit == "aspect" and encoder.preprocess.resize == "bicubic"


def test_a_convolutional_network_runs_as_it_is():
    encoder = build("mobilenet_v3_small", fit="aspect", image_size_px=64)
    disturb(encoder.model)
    peer = keras_hub.models.MobileNetBackbone(
        **catalogue.find("mobilenet_v3_small").architecture, image_shape=(64, 96, 3)
    )
    peer.set_weights([variable.numpy() for variable in encoder.model.variables])
    x = rectangle(64, 96)
    np.testing.assert_allclose(any_size.forward(encoder)(x), np.mean(peer(x), (1, 2)), rtol=1e-4, atol=1e-5)
    assert encoder.preprocess.multiple_px == 1


def test_a_graph_of_one_size_is_refused_in_a_line(tmp_path):
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Dense(5)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3, strides=2)(inputs)))
    keras_file.saved(tmp_path / "net.keras", inputs, outputs)
    halves = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(BadInput, match="takes 16 × 16 px alone") as refused:
        encoders.build(Encoder(f"keras_file:{tmp_path / 'net.keras'}", fit="aspect", **halves))
    assert "\n" not in str(refused.value)
