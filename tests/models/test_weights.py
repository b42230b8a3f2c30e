"""Weights of files, tags and checkpoints in encoders and text towers, and those that are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline import cli
from pipeline.config import Encoder
from pipeline.errors import BadInput
from pipeline.models import backbones, catalogue, encoders
from pipeline.models.catalogue import find
from pipeline.models.text import encoder as text_encoder
from pipeline.models.weights import files, load, sources
from tests.models.narrow_models import IMAGE, TEXT, narrow_clip

torch = pytest.importorskip("torch")
open_clip = files.import_open_clip()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A narrow CLIP as open_clip saves it, and its state."""
    torch.manual_seed(1)
    model = open_clip.CLIP(**narrow_clip(False).reference)
    state = {key: value.contiguous().numpy() for key, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("open_clip") / "narrow.safetensors"
    save_file(state, path)
    return path, state


@pytest.fixture(autouse=True)
def narrow_catalogue(monkeypatch):
    """`clip_narrow` in the catalogue, so that the command can name it."""
    entry = replace(
        find("clip_vit_b_32"), architecture={**IMAGE, "activation": "gelu"}, text={**TEXT, "activation": "gelu"},
        image_size_px=32, preset="",
    )  # fmt: skip
    monkeypatch.setitem(catalogue.CATALOGUE, "clip_narrow", entry)
    quick = replace(entry, architecture={**entry.architecture, "activation": "quick_gelu"})
    monkeypatch.setitem(catalogue.CATALOGUE, "clip_narrow_quick", quick)


def features(weights_spec, **options):
    encoder = encoders.build(Encoder(name="clip_narrow", weights=weights_spec, **options))
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    return encoder.model(pixels).numpy() if encoder.preprocess.image_size_px == 32 else encoder


def test_imported_file_gives_the_checkpoints_encoder_and_its_text_tower(checkpoint, tmp_path, capsys):
    path, state = checkpoint
    out = tmp_path / "imported.safetensors"
    assert cli.main(["import-weights", str(path), "--encoder", "clip_narrow", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"import-weights: {out}: ")
    np.testing.assert_array_equal(features(f"file:{out}"), features(f"open_clip:{path}"))
    np.testing.assert_array_equal(features(f"file:{path}"), features(f"open_clip:{path}"))
    assert np.abs(features(f"file:{out}") - features("none")).max() > 0.1

    tower = text_encoder.build_tower("clip", {**TEXT, "activation": "gelu"})
    scale, bias = load.load_text(tower, find("clip_narrow"), f"file:{out}")
    np.testing.assert_allclose(scale, np.exp(state["logit_scale"]), rtol=1e-6)
    assert bias is None
    kernel = next(v for v in tower.variables if v.path.endswith("text_projection/kernel"))
    np.testing.assert_array_equal(kernel, state["text_projection"])


def test_pooling_before_the_projection_takes_the_same_file(checkpoint):
    assert features(f"open_clip:{checkpoint[0]}", pooling="class_token").shape == (2, 48)


def test_weights_of_32_px_fill_an_encoder_of_another_grid(checkpoint):
    encoder = features(f"open_clip:{checkpoint[0]}", image_size_px=56, patch_overlap_px=2)
    assert encoder.positions.grid == 9
    assert encoder.model(np.zeros((1, 56, 56, 3), np.float32)).shape == (1, 20)


@pytest.mark.faults("hostile pickle")
def test_torch_checkpoint_of_a_training_run_is_read_and_code_in_one_is_not_run(checkpoint, tmp_path):
    _, state = checkpoint
    tensors = {f"module.{key}": torch.from_numpy(np.array(value)) for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "epoch_3.pt")
    np.testing.assert_array_equal(
        features(f"open_clip:{tmp_path / 'epoch_3.pt'}"), features(f"open_clip:{checkpoint[0]}")
    )
    touched = tmp_path / "touched"

    class Code:
        def __reduce__(self):
            return (open, (str(touched), "w"))

    torch.save({"state_dict": Code()}, tmp_path / "code.pt")
    with pytest.raises(BadInput, match="code in it is not run"):
        features(f"open_clip:{tmp_path / 'code.pt'}")
    assert not touched.exists()


def test_half_precision_checkpoints_are_read(checkpoint, tmp_path):
    from safetensors.torch import save_file as save_torch

    half = {key: torch.from_numpy(np.array(value)) for key, value in checkpoint[1].items()}
    for kind in (torch.float16, torch.bfloat16):
        save_torch({key: value.to(kind) for key, value in half.items()}, tmp_path / "half.safetensors")
        close = features(f"open_clip:{tmp_path / 'half.safetensors'}")
        np.testing.assert_allclose(close, features(f"open_clip:{checkpoint[0]}"), atol=0.1)


def edited(checkpoint, folder, change):
    state = dict(checkpoint[1])
    change(state)
    save_file(state, folder / "edited.safetensors")
    return f"open_clip:{folder / 'edited.safetensors'}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), r"lacks visual\.ln_post\.bias"),
        (lambda s: s.update({"visual.extra": np.ones(2, np.float32)}), r"has besides visual\.extra"),
        (lambda s: s.update({"visual.proj": np.ones((48, 21), np.float32)}), r"shape \[48, 21\]"),
        (lambda s: s.update({"visual.conv1.weight": np.ones((48, 3), np.float32)}), r"conv1\.weight has the shape"),
        (lambda s: s.update({"visual.positional_embedding": np.ones((16, 48), np.float32)}), "square"),
    ],
)  # fmt: skip
@pytest.mark.faults("damaged weights")
def test_a_tensor_too_few_too_many_or_of_another_shape_is_named(checkpoint, tmp_path, change, message):
    with pytest.raises(BadInput, match=message):
        features(edited(checkpoint, tmp_path, change))


def test_a_text_tensor_too_few_is_named_and_nothing_is_written(checkpoint, tmp_path, capsys):
    spec = edited(checkpoint, tmp_path, lambda s: s.pop("ln_final.weight")).partition(":")[2]
    out = tmp_path / "out.safetensors"
    assert cli.main(["import-weights", spec, "--encoder", "clip_narrow", "--out", str(out)]) == 2
    assert "ln_final.weight" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edited.safetensors"]


def test_quick_gelu_weights_are_refused_for_a_gelu_encoder(checkpoint, tmp_path):
    out = tmp_path / "quick.safetensors"
    assert cli.main(["import-weights", str(checkpoint[0]), "--encoder", "clip_narrow_quick", "--out", str(out)]) == 0
    with pytest.raises(BadInput, match="quick_gelu"):
        features(f"file:{out}")
    features(f"file:{out}", architecture={"activation": "quick_gelu"})
    with pytest.raises(BadInput, match="dfn2b was trained with quick_gelu"):
        sources.read("open_clip:dfn2b", find("clip_vit_l_14"), [])


def test_another_number_of_heads_is_refused_though_every_shape_fits(checkpoint, tmp_path):
    out = tmp_path / "imported.safetensors"
    cli.main(["import-weights", str(checkpoint[0]), "--encoder", "clip_narrow", "--out", str(out)])
    with pytest.raises(BadInput, match="3 attention heads"):
        features(f"file:{out}", architecture={"num_heads": 6})


def test_mean_and_std_of_a_tag_replace_the_catalogues(checkpoint, monkeypatch):
    """LAION's ViT-L/14 was trained with 0.5, not with CLIP's mean."""
    monkeypatch.setattr(files, "fetch", lambda *_: checkpoint[0])
    known = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    monkeypatch.setattr(files, "known_tag", lambda *_: known)
    filled = encoders.build(Encoder(name="clip_narrow", weights="open_clip:laion2b"))
    assert filled.preprocess.mean == (0.5, 0.4, 0.3)
    unfilled = encoders.build(Encoder(name="clip_narrow", weights="open_clip:laion2b"), fill=False)
    assert unfilled.preprocess == filled.preprocess
    configured = encoders.build(Encoder(name="clip_narrow", weights="open_clip:laion2b", mean=[0.1, 0.2, 0.3]))
    assert configured.preprocess.mean == (0.1, 0.2, 0.3)
    assert tuple(open_clip.get_pretrained_cfg("ViT-L-14", "laion2b_s32b_b82k")["mean"]) == (0.5, 0.5, 0.5)


@pytest.mark.faults("damaged weights")
def test_weights_that_are_missing_or_damaged_are_one_line(checkpoint, tmp_path, monkeypatch):
    def offline(*_):
        raise OSError("no route\nto host")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    whole = checkpoint[0].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "odd.npz").write_bytes(b"x")
    (tmp_path / "bad.keras").write_bytes(b"x")
    (tmp_path / "bad.weights.h5").write_bytes(b"x")
    for spec, message in [
        ("open_clip:laion2b_s34b_b79k", r"could not be fetched \(no route\)"),
        ("open_clip:laion2b_s34b", "nearest: laion2b_s34b_b79k"),
        (f"open_clip:{tmp_path / 'none.pt'}", "does not exist"),
        (f"file:{tmp_path / 'none.safetensors'}", "does not exist"),
        (f"file:{tmp_path / 'cut.safetensors'}", "not a whole safetensors"),
        (f"file:{tmp_path / 'odd.npz'}", r"\.safetensors, \.pth, \.weights\.h5 or \.keras"),
        (f"file:{tmp_path / 'bad.keras'}", "does not load"),
        (f"file:{tmp_path / 'bad.weights.h5'}", "does not load"),
    ]:
        with pytest.raises(BadInput, match=message) as caught:
            encoders.build(Encoder(name="clip_vit_b_32", weights=spec, architecture={"num_layers": 1, **IMAGE}))
        assert "\n" not in str(caught.value)


def test_keras_weights_file_of_kerashubs_encoder_is_taken(tmp_path):
    entry = find("clip_narrow")
    backbone = backbones.make(entry, 32)
    backbones.hub_variables(entry, backbone)  # sets the ids of positions
    backbone.save_weights(tmp_path / "hub.weights.h5")
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    ours = features(f"file:{tmp_path / 'hub.weights.h5'}", pooling="class_token")
    np.testing.assert_allclose(ours, backbone({"images": pixels})[:, 0], atol=1e-5)


def test_keras_weights_file_of_a_convolutional_network_is_taken(tmp_path):
    entry = find("mobilenet_v3_small_050")
    backbone = backbones.make(entry, 32)
    backbone.save_weights(tmp_path / "hub.weights.h5")
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    section = Encoder(name="mobilenet_v3_small_050", weights=f"file:{tmp_path / 'hub.weights.h5'}", image_size_px=32)
    ours = encoders.build(section, seed=1).model(pixels)
    np.testing.assert_allclose(ours, np.mean(backbone(pixels), axis=(1, 2)), atol=1e-5)


def test_imported_file_says_what_it_is(checkpoint, tmp_path):
    out = tmp_path / "imported.safetensors"
    cli.main(["import-weights", str(checkpoint[0]), "--encoder", "clip_narrow", "--out", str(out)])
    metadata = files.read_metadata(files.SafeTensors(out))
    assert (metadata["encoder"], metadata["activation"], metadata["num_heads"]) == ("clip_narrow", "gelu", 3)
    assert json.loads(json.dumps(metadata)) == metadata
    names = set(load_file(out))
    assert {"image/projection/kernel", "text/text_projection/kernel"} <= names
    assert {name.split("/")[0] for name in names} == {"image", "text"}


def test_kerashubs_whole_clip_fills_both_towers_as_a_preset_would(tmp_path):
    """Presets come with prefixes in their layers' names; the order and the ends of the names count."""
    import keras_hub

    entry = find("clip_narrow")
    dims = {key: IMAGE[key] for key in ("patch_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")}
    words = {key: TEXT[key] for key in ("vocabulary_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")}
    backbone = keras_hub.models.CLIPBackbone(
        keras_hub.models.CLIPVisionEncoder(
            **dims, intermediate_activation="gelu", image_shape=(32, 32, 3), name="vision"
        ),
        keras_hub.models.CLIPTextEncoder(
            **words, embedding_dim=32, intermediate_activation="gelu", max_sequence_length=9, name="words"
        ),
        projection_dim=20,
    )
    backbone.vision_encoder.embedding.position_ids.assign(np.arange(17)[None])
    backbone.text_encoder.layer_norm.epsilon = 1e-5
    backbone.save(tmp_path / "clip.keras")
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    ours = features(f"file:{tmp_path / 'clip.keras'}")
    np.testing.assert_allclose(ours, backbone.get_vision_embeddings(pixels), atol=1e-5)
    tower = text_encoder.build_tower("clip", {**TEXT, "activation": "gelu"}, seed=3)
    load.load_text(tower, entry, f"file:{tmp_path / 'clip.keras'}")
    tokens = np.random.default_rng(0).integers(1, 60, (2, 9)).astype(np.int32)
    np.testing.assert_allclose(tower(tokens), backbone.get_text_embeddings(tokens), atol=1e-5)


def test_kerashubs_whole_metaclip2_fills_both_towers_as_a_preset_would(tmp_path, monkeypatch):
    import keras_hub

    entry = replace(
        find("metaclip_2_vit_huge_patch14_224"), architecture={**IMAGE, "activation": "quick_gelu"},
        text={**TEXT, "activation": "quick_gelu"}, image_size_px=32,
    )  # fmt: skip
    monkeypatch.setitem(catalogue.CATALOGUE, "metaclip2_narrow", entry)
    dims = {key: IMAGE[key] for key in ("patch_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")}
    words = {key: TEXT[key] for key in ("vocabulary_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")}
    backbone = keras_hub.models.MetaCLIP2Backbone(
        keras_hub.models.MetaCLIP2VisionEncoder(**dims, image_shape=(32, 32, 3), name="vision"),
        keras_hub.models.MetaCLIP2TextEncoder(**words, embedding_dim=32, max_sequence_length=9, name="words"),
        projection_dim=20,
    )
    backbone.save(tmp_path / "metaclip2.keras")
    pixels = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    encoder = encoders.build(Encoder("metaclip2_narrow", f"file:{tmp_path / 'metaclip2.keras'}"), seed=4)
    np.testing.assert_allclose(encoder.model(pixels), backbone.get_vision_embeddings(pixels), atol=1e-5)
    tower = text_encoder.build_tower("metaclip2", entry.text, seed=3)
    load.load_text(tower, entry, f"file:{tmp_path / 'metaclip2.keras'}")
    tokens = np.random.default_rng(0).integers(3, 60, (3, 9)).astype(np.int32)
    tokens[[0, 1, 2], [3, 8, 5]] = 2
    np.testing.assert_allclose(tower(tokens), backbone.get_text_embeddings(tokens), atol=1e-5)
