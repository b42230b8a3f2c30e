"""Triplets against slow loops, crops that are the right ones, searches within classes, training that resumes."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import cli
from pipeline.config import Source
from pipeline.data.sources import check_shared_names
from pipeline.errors import BadInput
from pipeline.retrieval.vectors import class_means
from pipeline.similar import classifiers, command, crop, triplets
from pipeline.similar.embedding_store import Stored, embed_all
from pipeline.similar.train import build_head, map_table
from tfrecords.sources import Item

COLOURS = {"blue": (90, 100, 160), "green": (85, 150, 100), "grey": (130, 130, 130), "red": (165, 90, 100)}


def slow_triplet_loss(rows, labels, margin, mining):
    def distance(i, j):
        return float(np.sqrt(((rows[i] - rows[j]) ** 2).sum()))

    everyone, losses = range(len(rows)), []
    for a in everyone:
        positives = [p for p in everyone if p != a and labels[p] == labels[a]]
        negatives = [n for n in everyone if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            gap = max(distance(a, p) for p in positives) - min(distance(a, n) for n in negatives)
            losses.append(max(0.0, gap + margin))
            continue
        for p in positives:
            farther = [distance(a, n) for n in negatives if distance(a, n) > distance(a, p)]
            chosen = min(farther) if farther else max(distance(a, n) for n in negatives)
            losses.append(max(0.0, distance(a, p) - chosen + margin))
    return sum(losses) / len(losses) if losses else 0.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=9),
    st.integers(0, 1000),
    st.sampled_from(("semihard", "hard")),
    st.sampled_from([0.1, 0.5, 1.5]),
)
def test_triplet_loss_equals_a_slow_loop(labels, seed, mining, margin):
    rows = np.random.default_rng(seed).normal(size=(len(labels), 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    loss = triplets.triplet_loss(tf.constant(rows), tf.constant(labels), margin, mining)
    np.testing.assert_allclose(loss, slow_triplet_loss(rows, labels, margin, mining), atol=2e-5)


@pytest.mark.parametrize("mining", ("semihard", "hard"))
def test_triplet_gradient_is_finite_where_images_are_the_same(mining: str):
    rows = tf.Variable(tf.math.l2_normalize(tf.constant([[1.0, 2], [1, 2], [1, 2], [2, -1]]), axis=1))
    with tf.GradientTape() as tape:
        loss = triplets.triplet_loss(rows, tf.constant([0, 0, 1, 1]), 0.2, mining)
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, rows)).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=4, max_size=60),
    st.integers(2, 4),
    st.integers(2, 4),
    st.integers(0, 99),
)
def test_class_batches_hold_several_images_of_several_classes_and_come_round_fairly(
    labels, classes, images, seed
):
    labels = np.array(labels)
    counts = {label: int((labels == label).sum()) for label in set(labels.tolist())}
    usable = [label for label, count in counts.items() if count > 1]
    if len(usable) < 2:
        with pytest.raises(BadInput, match="two classes"):
            triplets.class_batches(labels, classes, images, seed)
        return
    batches = triplets.class_batches(labels, classes, images, seed)
    drawn = dict.fromkeys(usable, 0)
    for batch in batches:
        assert len(set(batch.tolist())) == len(batch)
        found = {int(label): int((labels[batch] == label).sum()) for label in set(labels[batch].tolist())}
        assert len(found) == min(classes, len(usable))
        for label, count in found.items():
            assert count == min(images, counts[label])
            drawn[label] += 1
    assert max(drawn.values()) - min(drawn.values()) <= 1
    again = triplets.class_batches(labels, classes, images, seed)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_map_at_k_of_a_worked_example():
    """Three points on a line: a, b of class 0 with c of class 1 between them."""
    table = map_table(np.array([[0.0, 0], [0.1, 0], [0.3, 0]], np.float32), ["x", "y", "x"])
    # query a: c, b → AP@1 0, AP@3 = 1/2; query c has no match: 0; query b: c, a → as a
    assert table["mAP@1"] == 0 and table["mAP@3"] == pytest.approx((0.5 + 0 + 0.5) / 3)


def corners(*rows):
    return np.array(rows, float)


@pytest.mark.parametrize(
    ("found", "scores", "options", "expected"),
    [
        (corners([30, 30, 70, 70], [45, 45, 60, 60]), [0.9, 0.99], {}, (30, 30, 70, 70)),  # the larger
        (corners([0, 0, 40, 100], [45, 45, 60, 60]), [0.9, 0.5], {}, (45, 45, 60, 60)),  # near the centre
        (corners([30, 30, 70, 70]), [0.2], {}, None),  # unsure
        (corners([30, 30, 70, 70]), [0.2], {"min_score": 0.1}, (30, 30, 70, 70)),
        (corners([40, 40, 60, 60]), [0.9], {"padding": 0.5}, (30, 30, 70, 70)),
        (corners([10, 10, 90, 90]), [0.9], {"padding": 0.5}, (0, 0, 100, 100)),  # cut to the picture
        (corners([-50, -50, 150, 150]), [0.9], {}, (0, 0, 100, 100)),
        (corners([50, 50, 50, 50], [200, 0, 300, 9]), [0.9, 0.9], {}, None),  # empty; outside
        (corners([np.nan, 0, 10, 10], [40, 40, 60, np.inf]), [0.9, 0.9], {}, None),
        (
            corners([40, 40, 60, 60], [41, 41, 61, 61]),
            [0.5, 0.8],
            {},
            (41, 41, 61, 61),
        ),  # same area: the surer
        (np.zeros((0, 4)), [], {}, None),
    ],
)
def test_the_largest_sure_box_near_the_centre_is_chosen(found, scores, options, expected):
    assert crop.choose_box(found, np.array(scores), 100, 100, **options) == expected


def test_cut_gives_the_pixels_of_the_box_or_all():
    image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    np.testing.assert_array_equal(crop.cut(image, (1, 2, 4, 5)), image[2:5, 1:4])
    assert crop.cut(image, None) is image


@pytest.fixture(scope="module")
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


def test_a_detectors_boxes_are_scaled_from_its_square_to_the_picture(detector_folder: Path):
    detector = crop.Detector(crop.Crop(str(detector_folder), min_score=0.01, centre_share=1.0))
    picture = np.random.default_rng(0).integers(0, 255, (90, 150, 3)).astype(np.uint8)
    square = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    found = detector.model.predict(square[None], verbose=0)
    count = int(found["num_detections"][0])
    yxyx = found["boxes"][0, :count]
    expected = crop.choose_box(
        np.stack(
            [yxyx[:, 1] * 150 / 64, yxyx[:, 0] * 90 / 64, yxyx[:, 3] * 150 / 64, yxyx[:, 2] * 90 / 64], axis=1
        ),
        found["confidence"][0, :count],
        90,
        150,
        0.01,
        1.0,
    )
    assert count > 0 and expected is not None and detector.box(picture) == expected
    with pytest.raises(BadInput, match=r"crop\.detector 'no_such_detector'"):
        crop.Detector(crop.Crop("no_such_detector"))


def stored(vectors, classes, prefix="i") -> Stored:
    images = [Item(f"{prefix}{i}", name, lambda: b"") for i, name in enumerate(classes)]
    return Stored(images, np.array(vectors, np.float32), [None] * len(images), [])


def test_neighbours_stay_within_the_likeliest_classes_and_leave_the_image_itself_out():
    index = stored([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], "abbca")
    queries = stored([[0.9, 0]], "?", prefix="q")
    everywhere = command.neighbours(index, queries, 3)[0]
    assert everywhere.rows == [1, 0, 2] and everywhere.distances == pytest.approx([0.1, 0.9, 1.1])
    within = command.Allowed(np.array([[0, 2]]), np.array([0, 1, 1, 2, 0]), ["A", "B", "C"])
    only = command.neighbours(index, queries, 3, within)[0]
    assert only.rows == [0, 3, 4] and only.classes == ["A", "C"]
    itself = command.neighbours(index, index, 2)
    assert [found.rows for found in itself] == [[1, 2], [0, 2], [1, 3], [2, 4], [3, 2]]
    few = command.Allowed(np.array([[2]]), np.array([0, 1, 1, 2, 0]), ["A", "B", "C"])
    assert command.neighbours(index, queries, 3, few)[0].rows == [3]


def test_label_maps_in_both_forms_and_what_is_wrong_with_others(tmp_path: Path):
    synsets = tmp_path / "LOC_synset_mapping.txt"
    synsets.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n\nplain name\n")
    assert classifiers.label_map(synsets, 3) == ["tench, Tinca tinca", "goldfish", "plain name"]
    table = tmp_path / "map.csv"
    table.write_text('\ufeffindex,name\n1,"b, c"\n0,a\n')
    assert classifiers.label_map(table, 2) == ["a", "b, c"]
    with pytest.raises(BadInput, match="names 2 classes, the classifier has 21,843 outputs"):
        classifiers.label_map(table, 21843)
    for text, message in (
        ("index,name\n0,a\n0,b\n", "line 3"),
        ("index,name\n0,a\n2,b\n", "some are missing"),
    ):
        table.write_text(text)
        with pytest.raises(BadInput, match=message):
            classifiers.label_map(table, 2)
    with pytest.raises(BadInput, match="does not exist"):
        classifiers.label_map(tmp_path / "none.csv", 2)


def test_class_means_equal_a_loop():
    rng = np.random.default_rng(0)
    index, queries, labels = rng.normal(size=(30, 4)), rng.normal(size=(6, 4)), np.arange(30) % 5
    means = [index[labels == each].mean(axis=0) for each in range(5)]
    expected = [np.argsort([((query - mean) ** 2).sum() for mean in means])[:2].tolist() for query in queries]
    assert classifiers.by_class_means(queries, class_means(index, labels), 2).tolist() == expected


def test_embeddings_are_computed_once_by_content_and_a_broken_image_is_named(tmp_path: Path):
    calls = []

    def embed(pictures):
        calls.append(len(pictures))
        return np.stack([picture.mean(axis=(0, 1)) for picture in pictures]).astype(np.float32)

    def image(key: str, value: int):
        path = tmp_path / key
        Image.new("RGB", (4, 4), (value, 0, 0)).save(path, "PNG")
        return Item(key, "c", path.read_bytes)

    images = [image("a.png", 10), Item("bad", "c", lambda: b"no image"), image("b.png", 20)]
    for _ in range(2):
        found = embed_all(images, embed, "model", tmp_path / "store", None, 2, "test")
        assert [each.key for each in found.images] == ["a.png", "b.png"] and found.rejects[0][0] == "bad"
        np.testing.assert_allclose(found.vectors[:, 0], [10, 20])
    assert calls == [2]
    embed_all(images, embed, "another model", tmp_path / "store", None, 2, "test")
    image("b.png", 30)
    assert embed_all(images, embed, "model", tmp_path / "store", None, 2, "test").vectors[1, 0] == 30
    assert calls == [2, 2, 2]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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
    (folder / "labels.csv").write_text(
        "index,name\n" + "".join(f"{i},colour {n}\n" for i, n in enumerate(COLOURS))
    )
    return folder


@pytest.fixture
def settings_file(tmp_path: Path, models: Path, images: Path) -> str:
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


def run(capsys, *argv: str, code: int = 0) -> list[str]:
    came = cli.main(["similar", *argv])
    captured = capsys.readouterr()
    assert came == code, captured.err
    return (captured.out if code == 0 else captured.err).strip().splitlines()


def test_training_raises_map_and_the_embedder_can_be_searched(settings_file: str, tmp_path: Path, capsys):
    assert "two mAP@5" in run(capsys, "train", settings_file)[-1]
    sets = json.loads((tmp_path / "run" / "train_metrics.json").read_text())["sets"]
    assert [row["set"] for row in sets] == ["one", "two"]
    assert sets[1]["after"]["mAP@5"] > sets[0]["before"]["mAP@5"] + 0.02
    assert sets[1]["before"] == sets[0]["after"]  # the second set goes on where the first ended
    run(capsys, "search", settings_file, "method=embedder")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["method"] == "embedder" and metrics["queries"] == 24 and metrics["index"] == 48


def test_killed_training_ends_where_an_unbroken_one_does(
    settings_file: str, tmp_path: Path, capsys, monkeypatch
):
    short = ["triplets.sets.1.epochs=3"]
    run(capsys, "train", settings_file, *short)
    whole = dict(np.load(tmp_path / "run" / "embedder.npz"))
    real, calls = triplets.Trainer.epoch, []

    def killed_in_the_fourth(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(triplets.Trainer, "epoch", killed_in_the_fourth)
    assert cli.main(["similar", "train", settings_file, *short, f"run_dir={tmp_path / 'again'}"]) == 130
    run(capsys, "train", settings_file, *short, f"run_dir={tmp_path / 'again'}")
    assert len(calls) == 4 + 2  # one whole epoch of the second set was kept
    resumed = dict(np.load(tmp_path / "again" / "embedder.npz"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    metrics = [json.loads((tmp_path / each / "train_metrics.json").read_text()) for each in ("run", "again")]
    assert metrics[0] == metrics[1] and all(row["before"] for row in metrics[0]["sets"])


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_a_broken_image_is_named_and_training_goes_on(
    settings_file: str, images: Path, tmp_path: Path, capsys, trainable: str
):
    shutil.copytree(images, tmp_path / "broken")
    for path in ("train/red/0.png", "test/blue/1.png"):
        (tmp_path / "broken" / path).write_bytes(b"no image")
    argv = [f"data_root={tmp_path / 'broken'}", f"triplets.trainable={trainable}"]
    lines = run(capsys, "train", settings_file, *argv, *[f"triplets.sets.{i}.epochs=1" for i in (0, 1)])
    assert "two mAP@5" in lines[-1]
    with (tmp_path / "run" / "train_rejects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["set"], row["key"]) for row in rows] == [
        (name, key) for name in ("one", "two") for key in ("tiny/red/0.png", "tiny/blue/1.png")
    ]
    assert all(row["reason"].startswith("not an image") for row in rows)
    sets = json.loads((tmp_path / "run" / "train_metrics.json").read_text())["sets"]
    assert [row["images"] for row in sets] == [47, 47]


def test_a_query_is_not_itself_because_a_file_of_another_set_has_its_name(
    settings_file: str, models: Path, capsys
):
    same = "queries=[{layout: folder, name: tiny, root: test}]"
    line = run(capsys, "search", settings_file, same, code=2)[-1]
    assert "both have a source 'tiny', of folder:train and of folder:test" in line and "rename one" in line
    two = "index=[{layout: folder, name: a, root: train}, {layout: folder, name: a, root: test}]"
    assert "2 sources are called 'a'" in run(capsys, "search", settings_file, two, code=2)[-1]
    split = [Source("cub200", "birds", "CUB", None, {"split": each}) for each in ("train", "all")]
    check_shared_names(split[:1], split[1:])  # a set's keys are of the whole set


def test_drawn_images_need_no_data_root(settings_file: str, capsys):
    drawn = "{layout: drawn, name: d, options: {classes: 2, images_per_class: 3}}"
    lines = run(
        capsys, "search", settings_file, "data_root=''", f"index=[{drawn}]", "queries=[]", "pictures=1"
    )
    assert "6 queries among 6 images" in lines[-2]


def test_the_whole_encoder_trains_too(settings_file: str, tmp_path: Path, capsys):
    """An EfficientNet of the catalogue, made small, with random weights."""
    sizes = {
        "kernel_sizes": [3, 3], "num_repeats": [1, 1], "input_filters": [32, 16], "output_filters": [16, 24],
        "expansion_ratios": [1, 6], "strides": [1, 2], "squeeze_and_excite_ratios": [0.25, 0.25],
        "block_types": ["v1", "v1"], "width_coefficients": [1.0, 1.0], "depth_coefficients": [1.0, 1.0],
    }  # fmt: skip
    architecture = json.dumps({f"stackwise_{name}": values for name, values in sizes.items()})
    tiny = f"encoder={{name: efficientnet_b0, image_size_px: 32, architecture: {architecture}}}"
    options = ["triplets.trainable=all", "triplets.sets.0.epochs=1", "triplets.sets.1.epochs=1"]
    path = Path(settings_file)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("encoder:")]
    path.write_text("\n".join(lines))
    run(capsys, "train", settings_file, tiny, *options)
    state = np.load(tmp_path / "run" / "embedder.npz")
    assert len([name for name in state if name.startswith("model/")]) > 30
    assert "mAP@5" in run(capsys, "search", settings_file, tiny, "method=embedder")[-2]
    assert (
        "another encoder"
        in run(capsys, "search", settings_file, tiny, "method=embedder", "embedding_dim=7", code=2)[-1]
    )


def test_search_writes_what_brute_force_finds_and_a_picture_a_query(
    settings_file: str, models: Path, images: Path, tmp_path: Path, capsys
):
    lines = run(capsys, "search", settings_file)
    encoder = keras.models.load_model(models / "encoder.keras")

    def vectors(split):
        paths = sorted((images / split).rglob("*.png"))
        pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        from pipeline.data.preprocessing import Preprocess, prepare_all

        rows = encoder(prepare_all(pixels, Preprocess(16, (0.5,) * 3, (0.5,) * 3))).numpy()
        return paths, rows / np.linalg.norm(rows, axis=1, keepdims=True)

    index_paths, index = vectors("train")
    query_paths, queries = vectors("test")
    with (tmp_path / "run" / "neighbours.csv").open() as file:
        rows = list(csv.DictReader(file))
    precisions = []
    for path, query in zip(query_paths, queries, strict=True):
        order = np.argsort(((index - query) ** 2).sum(axis=1))[:5]
        mine = [row for row in rows if row["query"] == f"tiny-test/{path.parent.name}/{path.name}"]
        expected = [f"tiny/{index_paths[i].parent.name}/{index_paths[i].name}" for i in order]
        assert [row["key"] for row in mine] == expected
        right = [index_paths[i].parent.name == path.parent.name for i in order]
        hits = [sum(right[: j + 1]) / (j + 1) for j in range(5) if right[j]]
        precisions.append(sum(hits) / 5)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["mAP@5"] == pytest.approx(np.mean(precisions))
    assert f"mAP@5 {metrics['mAP@5']:.4f}" in lines[-2]
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 3
    assert (tmp_path / "run" / "similar.html").read_text().count("<img") == 3


def test_classify_keeps_to_the_predicted_class_and_one_image_needs_no_label(
    settings_file: str, models: Path, images: Path, tmp_path: Path, capsys
):
    with_labels = [
        "method=classify", f"classifier.name=keras_file:{models / 'classifier.keras'}", "classifier.mean=[0,0,0]",
        "classifier.std=[1,1,1]", f"classifier.labels={models / 'labels.csv'}",
    ]  # fmt: skip
    picture = str(images / "test" / "red" / "0.png")
    lines = run(capsys, "search", settings_file, picture, *with_labels)
    assert any(line.startswith(picture) and "colour red" in line for line in lines)
    with (tmp_path / "run" / "neighbours.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 5 and {row["within"] for row in found} == {"colour red"}
    run(capsys, "search", settings_file, "method=classify", "classifier.top_classes=1")
    with (tmp_path / "run" / "neighbours.csv").open() as file:
        assert all(row["class"] == row["within"] for row in csv.DictReader(file))
    run(capsys, "search", settings_file)
    everywhere = json.loads((tmp_path / "run" / "metrics.json").read_text())["mAP@5"]
    run(
        capsys, "search", settings_file, "method=classify", "classifier.top_classes=4"
    )  # of 4: no restriction
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["mAP@5"] == pytest.approx(everywhere)


def test_search_with_a_detector_shows_its_boxes(
    settings_file: str, detector_folder: Path, tmp_path: Path, capsys
):
    cropped = [f"crop.detector={detector_folder}", "crop.min_score=0.01", "crop.centre_share=1.0"]
    few = ["index.0.cap_per_class=2", "queries.0.cap_per_class=1", "pictures=4"]
    plain = run(capsys, "search", settings_file, *few)[-2]
    assert run(capsys, "search", settings_file, *cropped, *few)[-2].split(" of ")[1] == plain.split(" of ")[1]
    shown = [np.asarray(Image.open(path)) for path in (tmp_path / "run" / "pictures").glob("*.png")]
    assert any((picture == (0xF5, 0xC5, 0x18)).all(axis=2).any() for picture in shown)


def test_bad_input_is_one_line(settings_file: str, models: Path, tmp_path: Path, capsys):
    no_image = tmp_path / "x.png"
    no_image.write_text("hello")
    classify = ["method=classify", f"classifier.name=keras_file:{models / 'classifier.keras'}"]
    means = ["classifier.mean=[0,0,0]", "classifier.std=[1,1,1]"]
    for argv, expected in (
        (["search", settings_file, "nowhere.png"], "nowhere.png does not exist"),
        (["search", settings_file, str(no_image)], "x.png: not a"),
        (["search", settings_file, "method=magic"], "method: expected embedder, features, classify"),
        (["search", settings_file, "method=embedder"], "run `guie similar train` first"),
        (["search", settings_file, "index=[]"], "index: expected at least one source"),
        (["search", settings_file, *classify], "classifier.mean"),
        (["search", settings_file, *classify, *means], "label map"),
        (
            ["search", settings_file, "method=classify", "classifier.name=x"],
            "classifier.name: expected class_means",
        ),
        (["search", settings_file, "crop.detector=no_such"], "crop.detector 'no_such'"),
        (["train", settings_file, "triplets.mining=easy"], "mining is semihard or hard"),
        (["train", settings_file, "triplets.sets=[]"], "triplets.sets: expected at least one set"),
        (["grow", settings_file], "expected train or search"),
        (["search"], "expected a CONFIG"),
    ):
        lines = run(capsys, *argv, code=2)
        assert expected in lines[-1] and len(lines) == 1, lines


def test_an_untrained_head_keeps_the_order_of_the_features():
    """Orthogonal and as wide as the features: all distances stay what they were."""
    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    head = build_head(8, 8, seed=1)(rows).numpy()
    np.testing.assert_allclose(unit @ unit.T, head @ head.T, atol=1e-5)
