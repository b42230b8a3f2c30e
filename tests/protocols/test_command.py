"""`guie bench` from images: any embedder, going on where it was, its table, JSON and page."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import cli
from pipeline.benchmarks import models, pixels
from pipeline.benchmarks.reported import TABLE, of
from pipeline.benchmarks.table import BENCHMARKS
from pipeline.models import catalogue
from tests.drawn_benchmarks import draw_cub200, draw_sop, draw_uned
from tests.evaluation.tiny import MeanColour, save
from tests.protocols.made import bench, values


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """An embedder of 100 numbers, more than the competition takes."""
    module = MeanColour()
    module.scale = tf.Variable(tf.tile(tf.eye(12), [1, 9])[:, :100])
    return save(module, tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A Keras file from 32 px to 12 numbers, with the JSON that says its pixels."""
    folder = tmp_path_factory.mktemp("keras")
    entering = keras.Input((32, 32, 3))
    pooled = keras.layers.AveragePooling2D(16)(entering)
    keras.Model(entering, keras.layers.Flatten()(pooled)).save(folder / "small.keras")
    (folder / "small.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3}))
    return folder / "small.keras"


def test_an_embedder_of_any_width_is_scored_where_guie_score_refuses_it(tmp_path, wide, capsys):
    root = draw_sop(tmp_path / "set")
    result = bench("sop", wide, root, tmp_path / "out")
    assert result["embedding_dim"] == 100
    said = capsys.readouterr().out
    assert "100 dimensions" in said and "Stanford Online Products: R@1" in said and "reported [1]" in said
    assert cli.main(["score", str(wide), "--index", f"sop:{root}"]) == 2


def test_the_same_command_goes_on_from_what_is_there(tmp_path, wide):
    root = draw_sop(tmp_path / "set")
    result = bench("sop", wide, root, tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/vectors").rglob("*.npy")}
    shutil.rmtree(tmp_path / "out/search")
    assert bench("sop", wide, root, tmp_path / "out") == result
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out/vectors").rglob("*.npy")}
    assert bench("sop", tmp_path / "out", root, tmp_path / "again")["modes"] == result["modes"]  # its features


def test_an_image_that_cannot_be_read_is_left_out_and_said(tmp_path, wide, capsys):
    root = draw_sop(tmp_path / "set")
    lost = next(root.glob("chair_final/*5_1.JPG"))
    lost.write_bytes(b"no image")
    result = bench("sop", wide, root, tmp_path / "out")
    assert "1 images cannot be read" in capsys.readouterr().out
    assert any("test 11 of 60,502" in note for note in result["notes"])
    assert bench("sop", tmp_path / "out", root, tmp_path / "again")["modes"] == result["modes"]


def test_raw_features_of_a_keras_file(tmp_path, small):
    root = draw_cub200(tmp_path / "set", classes=(1, 101, 102, 103), images=3)
    result = bench("cub200", small, root, tmp_path / "out")
    assert result["embedding_dim"] == 12 and result["pixels"] == "squashed to 32 px, bicubic"
    assert next(iter(values(result["modes"][0]).values()))["R@1"] == 1.0  # the drawn classes differ by colour
    for end in (".keras", ".json"):
        shutil.copy(small.with_suffix(end), tmp_path / f"moved{end}")
    assert bench("cub200", tmp_path / "moved.keras", root, tmp_path / "out")["fingerprint"] == result["fingerprint"]


def test_uned_gives_raw_features_its_own_pixels(tmp_path, small):
    root = draw_uned(tmp_path / "set", domains=("cars",))
    result = bench("uned", small, root, tmp_path / "out", "--domain", "cars", "--image-size", 32)
    assert result["pixels"] == "shorter side 32 px, bilinear without antialias, central square"
    asked = models.Asked(str(small), "", 32, way="uned")
    image = np.random.default_rng(0).integers(0, 256, (50, 75, 3), np.uint8)
    found = models.opened(asked).submission.embed(image[None])
    scaled = tf.image.resize(image, [32, 48], method="bilinear").numpy()[:, 8:40]
    expected = (scaled / 127.5 - 1).reshape(2, 16, 2, 16, 3).mean(axis=(1, 3)).reshape(-1)
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 301), (301, 100), (7, 5), (500, 333)])
def test_uneds_pixels_are_those_of_its_code(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    if height <= width:
        size, cut = (224, int(tf.cast((width / height) * 224, tf.int32))), 1
    else:
        size, cut = (int(tf.cast((height / width) * 224, tf.int32)), 224), 0
    scaled = tf.image.resize(image, size, method=tf.image.ResizeMethod.BILINEAR)
    start = (size[cut] - 224) // 2
    expected = scaled[:, start : start + 224] if cut else scaled[start : start + 224]
    np.testing.assert_array_equal(pixels.uned(image, 224), expected.numpy())


def test_an_encoder_by_name():
    model = models.opened(models.Asked("mobilenet_v3_small_050", "none", 32))
    assert (model.pixels, model.submission.embedding_dim) == ("squashed to 32 px, bicubic", 288)


def test_the_encoder_of_a_runs_config(tmp_path, small):
    root, config = draw_cub200(tmp_path / "set", classes=(1, 101, 102), images=2), tmp_path / "run.yaml"
    config.write_text(f"encoder: {{name: 'keras_file:{small}', fit: crop}}\n")
    result = bench("cub200", config, root, tmp_path / "a")
    assert result["pixels"] == "shorter side 32 px, bicubic, central square"
    config.write_text(f"encoder: {{name: 'keras_file:{small}'}}\n")
    squashed = bench("cub200", config, root, tmp_path / "b")
    assert squashed["modes"] == bench("cub200", small, root, tmp_path / "c")["modes"]


def test_an_encoder_sees_whole_images_where_the_protocol_keeps_the_aspect(tmp_path):
    entering = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3, activation="relu")(entering))
    keras.Model(entering, pooled).save(tmp_path / "any.keras")
    (tmp_path / "any.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3, "image_size_px": 64}))
    model = models.opened(models.Asked(str(tmp_path / "any.keras"), way="aspect"))
    assert model.pixels == "longer side 64 px, bicubic, aspect kept"
    wide, high = (np.random.default_rng(0).integers(0, 256, size, np.uint8) for size in ((30, 90, 3), (90, 30, 3)))
    halves = model.submission.halves
    assert [halves.resize(each)["images"].shape[:2] for each in (wide, high)] == [(21, 64), (64, 21)]
    for image in (wide, high):
        found = model.submission.embed(image[None])
        assert found.shape == (1, 5) and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("clip_vit_b_16_openai", 384), ("clip_vit_l_14_336_openai", 512), ("siglip_large_patch16_256", 384),
        ("siglip2_large_patch16_384", 512), ("siglip2_large_patch16_512", 724), ("pe_core_b_16_224", 384),
        ("pe_core_l_14_336", 512), ("efficientnet_b4", 512), ("dinov2_large", 724),
        ("dinov2_with_registers_base", 724), ("dinov3_base", 768),
    ],
)  # fmt: skip
def test_the_catalogues_encoders_have_the_size_of_iliass_authors(name, side):
    entry = catalogue.find(name)
    assert pixels.ilias_px(entry.family, entry.image_size_px) == side


def test_a_name_without_weights_is_refused(tmp_path, capsys):
    root = draw_cub200(tmp_path / "set")
    assert cli.main(["bench", "cub200", "clip_vit_b_32", "--root", str(root), "--out", str(tmp_path / "out")]) == 2
    assert "--weights: say where the weights of clip_vit_b_32 come from" in capsys.readouterr().err


def test_the_page_has_every_table_and_figure_and_escapes_names(tmp_path, wide):
    root = draw_uned(tmp_path / "set", domains=("cars", "sop"))
    name = tmp_path / "<b>odd"
    shutil.copytree(wide, name)
    bench("uned", name, root, tmp_path / "out", "--domain", "cars", "--domain", "sop")
    text = (tmp_path / "out/bench.html").read_text()
    assert "<b>odd" not in text and "&lt;b&gt;odd" in text
    for each in of("uned"):
        assert each.value in text
    assert text.count("<table") == 3 and text.count("<svg") == 2
    assert "2 of 8 domains" in text and "measured here" in text


def test_every_published_figure_has_its_source_and_is_of_a_known_benchmark():
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    figures = [each for name in BENCHMARKS for each in of(name)]
    assert len(figures) == len(lines) > 60
    for each in figures:
        assert 0 < float(each.value) < 1 and each.source and each.caveat and each.model
    assert len({(each.benchmark, each.model, each.of, each.measure) for each in figures}) == len(figures)
