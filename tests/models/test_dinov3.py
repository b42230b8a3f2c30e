"""DINOv3's files as Meta, Hugging Face and timm write them: the same features of each."""

import numpy as np
import pytest

from pipeline import cli
from pipeline.config import Encoder
from pipeline.errors import BadInput
from pipeline.models import catalogue, encoders
from pipeline.models.weights import files
from tests.models.test_encoders import images

torch = pytest.importorskip("torch")
from tests.models.narrow_models import narrow_dinov3  # noqa: E402

State = dict[str, "torch.Tensor"]


def timms(name: str, gated: bool) -> tuple[State, dict, np.ndarray]:
    """(state, architecture, features of two images) of a small one, every tensor random."""
    files.import_open_clip()  # torchvision, which timm imports, needs its operators declared
    import timm

    narrowed = narrow_dinov3(gated)
    biased = catalogue.find(name).architecture["use_query_bias"]
    sizes = {**narrowed.image, "use_query_bias": biased, "use_value_bias": biased}
    torch.manual_seed(1)
    more = {"swiglu_align_to": 8} if gated else {}  # the largest aligns to 64, which 96 is not
    arguments = {**narrowed.reference, **more, "num_classes": 0, "global_pool": "token"}
    model = timm.create_model(catalogue.find(name).timm, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        features = model(torch.from_numpy(images(32).transpose(0, 3, 1, 2).copy())).numpy()
    return model.state_dict(), sizes, features


def as_meta(state: State) -> State:
    """Keys' biases are masked there, whatever stands in their place."""
    found: State = {"mask_token": torch.ones(1, 48), "rope_embed.periods": torch.ones(4)}
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens",
             "fc1_g": "w1", "fc1_x": "w2"}  # fmt: skip
    gated = any("fc1_g" in key for key in state)
    for key, value in state.items():
        if key.endswith("_bias"):
            continue
        for ours, theirs in {**names, **({"mlp.fc2": "mlp.w3"} if gated else {})}.items():
            key = key.replace(ours, theirs)
        found[key] = value
    for i in range(3):
        q, v = (state.get(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        if q is not None:
            found[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])
            found[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([torch.ones(48), torch.zeros(48), torch.ones(48)])
    return found


def as_hugging_face(state: State) -> State:
    found: State = {"embeddings.mask_token": torch.ones(1, 1, 48)}
    starts = {"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens",
              "patch_embed.proj": "embeddings.patch_embeddings", "blocks.": "layer."}  # fmt: skip
    parts = {"attn.proj": "attention.o_proj", "gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1",
             "fc1_g": "gate_proj", "fc1_x": "up_proj", "fc1": "up_proj", "fc2": "down_proj"}  # fmt: skip
    for key, value in state.items():
        if "qkv" in key:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"layer.{key.split('.')[1]}.attention.{part}_proj.weight"] = piece
        elif key.endswith("_bias"):
            found[f"layer.{key.split('.')[1]}.attention.{key[-6]}_proj.bias"] = value
        else:
            for ours, theirs in {**starts, **parts}.items():
                key = key.replace(ours, theirs)
            found[key] = value
    return found


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("dinov3_small", as_meta),
        ("dinov3_small", as_hugging_face),
        ("dinov3_small_plus", as_meta),
        ("dinov3_7b", dict),
        ("dinov3_7b", as_hugging_face),
    ],
)
def test_a_file_of_each_kind_gives_timms_features(name, named, tmp_path):
    state, sizes, expected = timms(name, gated=name != "dinov3_small")
    torch.save(named(state), tmp_path / "dinov3.pth")
    encoder = encoders.build(
        Encoder(name, f"file:{tmp_path / 'dinov3.pth'}", image_size_px=32, architecture=sizes), seed=8
    )
    np.testing.assert_allclose(encoder.model(images(32)), expected, rtol=1e-4, atol=1e-5)


def test_a_file_without_biases_means_zeros(tmp_path):
    state, sizes, _ = timms("dinov3_small", gated=False)
    silent = {key: torch.zeros_like(value) if key.endswith("_bias") else value for key, value in state.items()}
    found = []
    for number, each in enumerate((silent, {key: v for key, v in state.items() if not key.endswith("_bias")})):
        torch.save(each, tmp_path / f"{number}.pth")
        section = Encoder("dinov3_small", f"file:{tmp_path / f'{number}.pth'}", image_size_px=32, architecture=sizes)
        found.append(encoders.build(section).model(images(32)).numpy())
    np.testing.assert_array_equal(*found)


def test_an_imported_file_is_the_checkpoint_and_another_size_is_named(tmp_path, monkeypatch):
    from dataclasses import replace

    from safetensors.torch import save_file

    state, sizes, expected = timms("dinov3_small", gated=False)
    entry = replace(catalogue.find("dinov3_small"), architecture=sizes, image_size_px=32)
    monkeypatch.setitem(catalogue.CATALOGUE, "dinov3_narrow", entry)
    path, out = tmp_path / "timm.safetensors", tmp_path / "ours.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    assert cli.main(["import-weights", str(path), "--encoder", "dinov3_narrow", "--out", str(out)]) == 0
    encoder = encoders.build(Encoder("dinov3_narrow", f"file:{out}"))
    np.testing.assert_allclose(encoder.model(images(32)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match=r"another architecture.*blocks\.2"):
        encoders.build(Encoder("dinov3_narrow", f"file:{path}", architecture={"num_layers": 2}))
    with pytest.raises(BadInput, match="3 attention heads"):
        encoders.build(Encoder("dinov3_narrow", f"file:{out}", architecture={"num_heads": 6}))
