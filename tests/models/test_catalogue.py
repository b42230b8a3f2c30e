"""Keras files as encoders, the catalogue against KerasHub's and open_clip's figures, families, bad input."""

import keras
import keras_hub
import numpy as np
import pytest

from pipeline.config import Encoder, keys
from pipeline.errors import BadInput
from pipeline.models import backbones, catalogue, encoders
from pipeline.models.text import encoder as text_encoder
from pipeline.models.text.tokenizers import TOKENIZERS
from pipeline.models.weights import files
from tests.models.test_encoders import FAMILIES, SMALL, build, images


def keras_file(path, layers, side=32):
    keras.Sequential([keras.Input((side, side, 3)), *layers]).save(path)
    return f"keras_file:{path}"


HALVES = {"mean": [0.5] * 3, "std": [0.25] * 3}


def test_any_keras_file_from_images_to_features_is_an_encoder(tmp_path):
    layers = [keras.layers.Conv2D(5, 3), keras.layers.GlobalAveragePooling2D()]
    name = keras_file(tmp_path / "small.keras", layers)
    encoder = encoders.build(Encoder(name=name, **HALVES))
    assert (encoder.width, encoder.preprocess.image_size_px, encoder.preprocess.std) == (5, 32, (0.25,) * 3)
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(encoder.model(images(32)), loaded(images(32)))


def test_the_shared_mobilenet_is_an_encoder(shared):
    path = shared / "weights" / "mobilenet_v1_imagenet.keras"
    encoder = encoders.build(Encoder(name=f"keras_file:{path}", mean=[0.5019608] * 3, std=[0.5019608] * 3))
    assert (encoder.width, encoder.preprocess.image_size_px) == (1024, 224)


def test_a_keras_file_that_cannot_be_used_is_bad_input(tmp_path):
    (tmp_path / "not.keras").write_bytes(b"no model")
    map_out = keras_file(tmp_path / "map.keras", [keras.layers.Conv2D(5, 3)])
    code = keras_file(tmp_path / "code.keras", [keras.layers.Lambda(lambda x: x), keras.layers.Flatten()])
    good = keras_file(tmp_path / "good.keras", [keras.layers.Flatten()])
    for name, options, message in [
        (f"keras_file:{tmp_path / 'absent.keras'}", HALVES, "does not exist"),
        (f"keras_file:{tmp_path / 'not.keras'}", HALVES, "not a Keras model"),
        (map_out, HALVES, "end it with a pooling"),
        (code, HALVES, "safely"),
        (good, {}, "mean"),
        (good, {**HALVES, "std": [0.5, 0.5, 0.0]}, "above 0"),
        (good, {**HALVES, "image_size_px": 64}, "takes 32"),
        (good, {**HALVES, "patch_overlap_px": 2}, "as it is"),
    ]:
        with pytest.raises(BadInput, match=message) as caught:
            encoders.build(Encoder(name=name, **options))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "clip_vit_b_23"}, "clip_vit_b_32"),
        ({"name": "clip_tiny", "architecture": {"hiden_dim": 3}}, "hidden_dim"),
        ({"name": "clip_tiny", "architecture": {"hidden_dim": 30}}, "num_heads"),
        ({"name": "clip_tiny", "pooling": "attention"}, "class_token"),
        ({"name": "clip_tiny", "patch_overlap_px": 8}, "0 … 7"),
        ({"name": "clip_tiny", "image_size_px": 4}, "at least one patch"),
        ({"name": "clip_tiny", "stochastic_depth": 1.0}, "stochastic_depth"),
        ({"name": "clip_tiny", "weights": "imagenet"}, "open_clip:TAG"),
        ({"name": "clip_tiny", "weights": "preset"}, "no preset"),
        ({"name": "clip_tiny", "mean": [0.5]}, "three numbers"),
        ({"name": "mobilenet_v3_small", "checkpointing": True}, "no transformer"),
    ],
)
def test_a_wrong_encoder_section_is_bad_input(options, message):
    with pytest.raises(BadInput, match=message):
        section = Encoder(**options)
        keys.check(section)  # as `config.load` does
        encoders.build(section)


def test_every_family_has_its_builders_and_every_text_tower_its_tokenizer():
    assert backbones.BUILDERS.keys() == catalogue.FAMILIES.keys()
    for name, family in catalogue.FAMILIES.items():
        assert family.transformer == (backbones.BUILDERS[name].take_apart is not None), name
        assert bool(family.joint_pooling) == (name in text_encoder.EMBEDDINGS), name
        assert not family.joint_pooling or family.tokenizer in TOKENIZERS, name
    for name, entry in catalogue.CATALOGUE.items():
        assert bool(entry.text) == bool(entry.facts.joint_pooling), name
        assert entry.pooling in entry.facts.poolings, name


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("dinov2_with")])
def test_a_familys_facts_are_those_of_kerashubs_backbone(name):
    entry = catalogue.find(name, SMALL)
    parts = backbones.transformer_parts(entry, 4 * entry.architecture["patch_size"])
    assert entry.facts.prefix_tokens == parts.prefix_tokens
    assert entry.facts.stem_norm == (parts.patch_convolution.bias is None) == bool(parts.before)
    assert entry.facts.layer_scales == any("scale" in v.path for v in parts.blocks[0].variables)
    assert ("attention" in entry.facts.poolings) == (parts.head is not None)
    assert entry.facts.position_table == (parts.position_table is not None)


def test_a_preset_without_a_connection_is_bad_input(monkeypatch):
    def offline(*_):
        raise OSError("no route\nto host")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", offline)
    with pytest.raises(BadInput, match=r"could not be fetched \(no route\).*import-weights"):
        build("clip_vit_b_32", weights="preset")


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "efficientnet", "mobilenet"])
def test_catalogues_dimensions_are_those_of_kerashubs_presets(family):
    """The number of parameters that KerasHub states for each preset, without building the large ones."""
    presets = __import__(f"keras_hub.src.models.{family}.{family}_presets", fromlist=["x"]).backbone_presets
    names = {"vit": ["vit_base_patch32_384_imagenet"], "dinov2": ["dinov2_with_registers_small"],
             "dinov3": ["dinov3_small", "dinov3_small_plus"], "efficientnet": ["efficientnet_b4"],
             "mobilenet": ["mobilenet_v3_small_050", "mobilenet_v3_large"]}[family]  # fmt: skip
    for name in names:
        entry = catalogue.find(name)
        model = build(name, architecture={}, image_size_px=518 if family == "dinov2" else None).model
        if family == "efficientnet":  # stated with ImageNet's 1,000 classes and without running statistics
            counted = [v for v in model.variables if not v.path.rsplit("/", 1)[-1].startswith("moving_")]
            ours = sum(int(np.prod(v.shape)) for v in counted) + 1000 * model.output_shape[-1] + 1000
        else:
            ours = model.count_params()
        stated = presets[entry.preset]["metadata"]["params"]
        assert ours == (pytest.approx(stated, rel=0.02) if family == "dinov3" else stated), name  # in millions there
    assert {e.preset for e in catalogue.CATALOGUE.values() if e.family == family} <= presets.keys()


def test_catalogues_clip_and_siglip_are_open_clips_architectures():
    pytest.importorskip("torch")
    open_clip = files.import_open_clip()
    for name, entry in catalogue.CATALOGUE.items():
        if not entry.open_clip:
            continue
        theirs = open_clip.get_model_config(entry.open_clip)
        vision, language = theirs["vision_cfg"], theirs["text_cfg"]
        ours = entry.text
        assert (language["width"], language["layers"], language["heads"]) == (
            ours["hidden_dim"], ours["num_layers"], ours["num_heads"]), name  # fmt: skip
        assert (language["vocab_size"], language["context_length"], theirs["embed_dim"]) == (
            ours["vocabulary_size"], ours["sequence_length"], ours["projection_dim"]), name  # fmt: skip
        assert bool(theirs.get("quick_gelu")) == (entry.architecture["activation"] == "quick_gelu"), name
        if "width" in vision:
            width = vision["width"]
            shape = tuple(entry.architecture[key] for key in ("hidden_dim", "num_layers", "patch_size"))
            assert shape == (width, vision["layers"], vision["patch_size"]), name
            assert width // vision.get("head_width", 64) == entry.architecture["num_heads"], name
            assert int(width * vision.get("mlp_ratio", 4)) == entry.architecture["intermediate_dim"], name
    assert sum(bool(entry.open_clip) for entry in catalogue.CATALOGUE.values()) > 30


def test_pixels_are_those_of_open_clips_published_weights():
    """Mean, std, filter, and whether the image is squashed, of the tag of each encoder of 2025."""
    pytest.importorskip("torch")
    open_clip = files.import_open_clip()
    checked = []
    for name, entry in catalogue.CATALOGUE.items():
        if entry.family not in ("siglip2", "metaclip2", "pe_core"):
            continue
        (tag,) = open_clip.list_pretrained_tags_by_model(entry.open_clip.removesuffix("-quickgelu"))
        known, facts = files.known_tag(entry.open_clip, tag), entry.facts
        assert (facts.mean, facts.std) == (tuple(known["mean"]), tuple(known["std"])), name
        assert facts.resize == known["interpolation"], name
        assert facts.fit == {"squash": "squash", "shortest": "crop"}[known["resize_mode"]], name
        if entry.family == "metaclip2":
            assert bool(known.get("quick_gelu")) == (entry.architecture["activation"] == "quick_gelu"), name
        checked.append(name)
    assert len(checked) == 15 + 4 + 5
    with pytest.raises(BadInput, match="no tag"):  # only a tag that says quick-GELU stands in for the other name
        files.known_tag("ViT-B-32-quickgelu", "laion2b_s34b_b79k")
