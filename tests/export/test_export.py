"""The exported files give the trainer's embeddings, and are the files that the competition's contract names."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from export import formats, saved_model
from pipeline import cli
from pipeline.config import Encoder, Run
from pipeline.data.preprocessing import Preprocess, prepare
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.models import embedder
from pipeline.training import checkpoints
from pipeline.training.checkpoints import Writer

PREPROCESS = Preprocess(24, (0.48, 0.45, 0.40), (0.26, 0.26, 0.27))
ODD_SIZES = ((1, 1), (7, 150), (63, 41), (200, 301))


def small_model(side: int = 24, width: int = 16) -> keras.Model:
    """float32 [B, side, side, 3] → [B, 16]: convolution, batch statistics, dropout; not of unit length."""
    keras.utils.set_random_seed(3)
    pixels = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(8, 5, strides=2, activation="gelu")(pixels)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(pixels, keras.layers.Dense(width, bias_initializer="normal")(x))


def images_of(height: int, width: int, count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def served(folder: Path, images: np.ndarray) -> np.ndarray:
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return signature(tf.constant(images))["embedding_norm"].numpy()


def by_hand(model: keras.Model, views: list[np.ndarray]) -> np.ndarray:
    """The mean of the views' unit embeddings, of unit length: uint8 views [B, H, W, 3] → [B, D]."""
    total = 0.0
    for view in views:
        embedding = model(prepare(tf.constant(view), PREPROCESS), training=False).numpy()
        total = total + embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def test_served_embeddings_are_the_trainers_at_any_size(tmp_path):
    model = small_model()
    saved_model.save([(model, PREPROCESS)], tmp_path / "model")
    for height, width in ODD_SIZES:
        images = images_of(height, width)
        np.testing.assert_allclose(served(tmp_path / "model", images), by_hand(model, [images]), atol=1e-5)


def test_a_bfloat16_trained_model_is_served_in_float32_and_stays_as_it_was(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    exact = small_model()
    exact.set_weights(model.get_weights())
    before = [layer.dtype_policy.name for layer in model.layers]
    saved_model.save([(model, PREPROCESS)], tmp_path / "model")
    images = images_of(60, 40)
    embeddings = served(tmp_path / "model", images)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, by_hand(exact, [images]), atol=1e-5)
    assert [layer.dtype_policy.name for layer in model.layers] == before
    assert "mixed_bfloat16" in before


def test_flip_and_crops_average_unit_embeddings_of_the_views(tmp_path):
    model, images = small_model(), images_of(80, 40)
    mirrored = images[:, :, ::-1]
    saved_model.save([(model, PREPROCESS)], tmp_path / "flip", flip_average=True)
    np.testing.assert_allclose(served(tmp_path / "flip", images), by_hand(model, [images, mirrored]), atol=1e-5)
    # 7/8 of 80 × 40 is 70 × 35: the room is 10 × 5, its middle (5, 2)
    boxes = [(5, 2), (0, 0), (0, 5), (10, 0), (10, 5)]
    crops = [images] + [images[:, top : top + 70, left : left + 35] for top, left in boxes]
    saved_model.save([(model, PREPROCESS)], tmp_path / "crops", crops=6)
    np.testing.assert_allclose(served(tmp_path / "crops", images), by_hand(model, crops), atol=1e-5)
    assert np.isfinite(served(tmp_path / "crops", images_of(1, 1))).all()


def test_no_op_of_later_versions_is_left_and_weights_are_variables(tmp_path):
    model = small_model()
    saved_model.save([(model, PREPROCESS)], tmp_path / "model")
    graph = tmp_path / "model" / "saved_model.pb"
    assert saved_model.UNKNOWN_TO_SCORER.encode() not in graph.read_bytes()
    weights = sum(4 * int(np.prod(weight.shape)) for weight in model.weights)
    data = tmp_path / "model" / "variables" / "variables.data-00000-of-00001"
    assert data.stat().st_size >= weights > graph.stat().st_size / 10
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["saved_model.pb", "variables"]


def test_an_embedding_of_nothing_is_zero_and_no_nan(tmp_path):
    pixels = keras.Input((8, 8, 3))
    silent = keras.Model(pixels, keras.layers.Dense(4, use_bias=False)(keras.layers.Flatten()(pixels * 0.0)))
    saved_model.save([(silent, Preprocess(8, (0, 0, 0), (1, 1, 1)))], tmp_path / "model", flip_average=True)
    np.testing.assert_array_equal(served(tmp_path / "model", images_of(5, 5)), np.zeros((2, 4)))


def test_zips_of_the_same_folder_have_the_same_bytes(tmp_path):
    saved_model.save([(small_model(), PREPROCESS)], tmp_path / "model")
    saved_model.zip_submission(tmp_path / "model", tmp_path / "one.zip")
    for path in (tmp_path / "model").rglob("*"):
        path.touch()
    saved_model.zip_submission(tmp_path / "model", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "one.zip").namelist() == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    with pytest.raises(BadInput, match="holds no saved_model"):
        saved_model.zip_submission(tmp_path, tmp_path / "three.zip")


def run_folder(tmp_path: Path, **export: object) -> Path:
    """A config whose run folder holds the checkpoint of a two-block CLIP; returns the config's path."""
    encoder = {"name": "clip_tiny", "architecture": {"num_layers": 2}}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "encoder": encoder, "export": export}))
    built = embedder.build(Run(name="tiny", run_dir=str(tmp_path / "run"), encoder=Encoder(**encoder)))
    writer = Writer(tmp_path / "run" / "checkpoints", kept=1)
    writer.save(7, built.variables, {})
    writer.wait()
    return config


def test_every_format_of_a_run_agrees_with_its_saved_model(tmp_path, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("tf2onnx")
    config = run_folder(tmp_path, formats=["saved_model", "onnx", "litert", "torchscript"])
    assert cli.main(["export", str(config)]) == 0
    run = tmp_path / "run"
    mark = json.loads((run / "export" / "fingerprint.json").read_text())
    assert set(mark["formats"]) == {"onnx", "litert", "torchscript"}
    trained = checkpoints.load_trained(
        Run(name="tiny", run_dir=str(run), encoder=Encoder("clip_tiny", architecture={"num_layers": 2}))
    )
    image = images_of(90, 130, count=1)
    expected = trained.model(prepare(tf.constant(image), trained.preprocess), training=False).numpy()
    np.testing.assert_allclose(served(run / "export" / "saved_model", image), expected, atol=1e-5)

    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(run / "export" / "model.onnx"))
    (from_onnx,) = session.run(["embedding_norm"], {"images": image})
    np.testing.assert_allclose(from_onnx, expected, atol=formats.TOLERANCES["onnx"])
    zipfile.ZipFile(run / "export" / "submission_torch.zip").extract("saved_model.pt", tmp_path)
    module = torch.jit.load(str(tmp_path / "saved_model.pt"))
    from_torch = module(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(from_torch, expected, atol=formats.TOLERANCES["torchscript"])
    anybodys = embedders.load(str(run / "export" / "submission_torch.zip"))  # nothing in it has to be trusted
    np.testing.assert_array_equal(anybodys.embed(image), from_torch)

    capsys.readouterr()
    assert cli.main(["export", str(config)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_card_says_data_recipe_score_and_licence(tmp_path):
    config = run_folder(tmp_path)
    records, run = tmp_path / "run" / "records", tmp_path / "run"
    records.mkdir()
    shards = [{"source": "birds", "split": "train", "count": 1200}, {"source": "birds", "split": "test", "count": 8}]
    (records / "manifest.json").write_text(json.dumps({"shards": shards}))
    assert cli.main(["export", str(config)]) == 0
    card = (run / "export" / "model_card.md").read_text()
    assert "birds, train: 1,200 images" in card and "Not scored yet" in card and "clip_tiny" in card
    metrics = {
        "mP@5": 0.5,
        "interval": [0.4, 0.6],
        "domains": {"birds": {"mP@5": 0.5, "interval": [0.4, 0.6], "queries": 8, "index": 8}},
        "references": {"raw_pixels": 0.1},
        "classes": 3,
        "classes_trained_on": 2,
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert cli.main(["export", str(config)]) == 0  # the model is done, its card is not
    card = (run / "export" / "model_card.md").read_text()
    assert "mP@5, all domains: 0.5000 ±0.100 (3 classes, 8 queries: too few for an estimate)" in card
    assert "mP@5, birds: 0.5000 ±0.100 (8 queries, 8 index images)" in card and "raw_pixels: 0.1000" in card
    assert "2 of 3 scored classes were trained on" in card and "no scored class" not in card
    assert "licence" in card and "sha256" in card


def test_an_export_that_fails_is_one_line_and_leaves_nothing(tmp_path, capsys):
    config = run_folder(tmp_path, formats=["saved_model", "coreml"])
    assert cli.main(["export", str(config)]) == 2
    assert "expected saved_model, torchscript, onnx or litert, got 'coreml'" in capsys.readouterr().err
    assert cli.main(["export", str(config), "export.formats=[saved_model]", "export.crops=7"]) == 2
    assert "export.crops: expected 1 … 6, got 7" in capsys.readouterr().err
    assert cli.main(["export", str(config), "export.formats=[onnx]", "export.flip_average=true"]) == 2
    assert "for saved_model only" in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()
    elsewhere = [f"run_dir={tmp_path / 'empty'}", "export.formats=[saved_model]"]
    assert cli.main(["export", str(config), *elsewhere]) == 2
    assert "expected a checkpoint" in capsys.readouterr().err
    assert not list(tmp_path.rglob(".partial-*"))
    with pytest.raises(BadInput, match="holds at most"):
        formats._check_size(type("Huge", (), {"count_params": lambda self: 632_000_000})(), "onnx")
