"""Drawn images in class folders, a tiny encoder, classifier and detector, and a config that names them."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline import cli

COLOURS = {"blue": (90, 100, 160), "green": (85, 150, 100), "grey": (130, 130, 130), "red": (165, 90, 100)}


@pytest.fixture(scope="package")
def images(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                light = np.array(colour) * rng.uniform(0.4, 1.4)
                pixels = np.clip(rng.normal(light, 40, (18, 22, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="package")
def models(tmp_path_factory) -> Path:
    """`encoder.keras`: averages of random colour filters; `classifier.keras`: 4 logits, how much of each colour."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(3)
    pixels = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(12, 3, strides=2, activation="relu")(pixels)
    keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x)).save(folder / "encoder.keras")
    logits = keras.layers.Dense(4, use_bias=False)(keras.layers.GlobalAveragePooling2D()(pixels))
    classifier = keras.Model(pixels, logits)
    colours = np.array(list(COLOURS.values()), np.float32).T
    centred = colours - colours.mean(axis=0)
    classifier.set_weights([centred / np.maximum(np.linalg.norm(centred, axis=0), 1)])
    classifier.save(folder / "classifier.keras")
    (folder / "labels.csv").write_text("index,name\n" + "".join(f"{i},colour {n}\n" for i, n in enumerate(COLOURS)))
    return folder


@pytest.fixture
def config_file(tmp_path: Path, models: Path, images: Path) -> str:
    path = tmp_path / "similar_tiny.yaml"
    path.write_text(f"""
run_dir: {tmp_path / "run"}
data_root: {images}
encoder: {{name: "keras_file:{models / "encoder.keras"}", mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}
embedding_dim: 8
triplets:
  classes_a_batch: 4
  images_a_class: 6
  learning_rate: 0.01
  margin: 0.3
  sets:
    - {{name: one, epochs: 2, train: [{{layout: folder, name: tiny, root: train}}],
       validation: [{{layout: folder, name: tiny, root: test}}]}}
    - {{name: two, epochs: 8, train: [{{layout: folder, name: tiny, root: train}}],
       validation: [{{layout: folder, name: tiny, root: test}}]}}
index: [{{layout: folder, name: tiny, root: train}}]
queries: [{{layout: folder, name: tiny-test, root: test}}]
pictures: 3
batch_size: 16
""")
    return str(path)


@pytest.fixture(scope="package")
def detector_folder(tmp_path_factory) -> Path:
    """A small RetinaNet with random weights, saved as a preset."""
    import keras_hub

    keras.utils.set_random_seed(1)
    stem = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )
    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=stem, min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3)
    )
    decoder = keras_hub.layers.NonMaxSuppression(
        from_logits=True, bounding_box_format="yxyx", confidence_threshold=0.001, max_detections=50
    )
    converter = keras_hub.layers.RetinaNetImageConverter(image_size=(64, 64), scale=1 / 255.0)
    detector = keras_hub.models.RetinaNetObjectDetector(
        backbone,
        num_classes=2,
        preprocessor=keras_hub.models.RetinaNetObjectDetectorPreprocessor(converter),
        pre_logits_num_conv_layers=1,
        prediction_decoder=decoder,
        classification_head_prior_probability=0.4,
    )
    folder = tmp_path_factory.mktemp("detector") / "tiny_retinanet"
    detector.save_to_preset(str(folder))
    return folder


@pytest.fixture
def run(capsys) -> Callable[..., list[str]]:
    """Runs `guie similar …`; returns the lines of stdout, or of stderr where an exit code other than 0 is expected."""

    def run(*argv: str, code: int = 0) -> list[str]:
        came = cli.main(["similar", *argv])
        captured = capsys.readouterr()
        assert came == code, captured.err
        return (captured.out if code == 0 else captured.err).strip().splitlines()

    return run
