"""Staged retrieval: taps go on from each other, builds resume, answers are the neighbours', the cascade is honest."""

import gzip
import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.config import Encoder, ImageTextModel
from pipeline.data.preprocessing import prepare_all
from pipeline.errors import BadInput
from pipeline.models import encoders, intermediate_layers
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.text import tokenizers
from pipeline.staged import cascade, command, retriever
from pipeline.staged.vector_database import VectorDatabase
from tfrecords import pixels

pytest.importorskip("milvus_lite", reason="needs the extra vectordb")
# Imported here, not within a test: pymilvus resets logging, whereby absl's handler closes a stderr that is no
# longer the current one, pytest's own.
pytest.importorskip("pymilvus", reason="needs the extra vectordb")
COLOURS = {"blue": (100, 110, 150), "green": (95, 150, 105), "red": (150, 100, 110)}


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory) -> Path:
    """Three convolutions, the second one passed by a skip connection, random weights."""
    keras.utils.set_random_seed(5)
    images = keras.Input((16, 16, 3))
    a = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="a")(images)
    b = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="b")(a)
    c = keras.layers.Add(name="c")([a, b])
    d = keras.layers.Conv2D(10, 3, strides=2, activation="relu", name="d")(c)
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D(name="pool")(d))
    path = tmp_path_factory.mktemp("encoder") / "tiny.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Class folders of noisy colours: 8 images a class to index, 3 to test."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                light = np.array(colour) + rng.normal(0, 35, 3)
                pixels = np.clip(rng.normal(light, 60, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def config(tmp_path: Path, encoder_file: Path, images: Path) -> str:
    path = tmp_path / "staged_tiny.yaml"
    path.write_text(f"""
run_dir: {tmp_path / "run"}
data_root: {images}
encoder: {{name: "keras_file:{encoder_file}", mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}
taps: {{second: a, third: d}}
index: [{{layout: folder, name: tiny, root: train}}]
queries: [{{layout: folder, name: tiny-test, root: test}}]
pixels_px: 4
neighbours: 3
batch_size: 5
""")
    return str(path)


def run(capsys, *argv: str, code: int = 0) -> list[str]:
    came = cli.main(["staged", *argv])
    captured = capsys.readouterr()
    assert came == code, captured.err
    return (captured.out if code == 0 else captured.err).strip().splitlines()


@pytest.fixture
def built(config: str, capsys) -> str:
    assert (
        "24 images (24 new or changed, 0 rejected), 24 in 4 collections" in run(capsys, "build", config)[-1]
    )
    return config


def test_taps_equal_the_whole_model_and_each_goes_on_from_the_one_before(encoder_file: Path):
    model = keras.models.load_model(encoder_file)
    stepped = intermediate_layers.SteppedEncoder(
        model, {"second": "a", "third": "d", "origin": intermediate_layers.OUTPUT}
    )
    pixels = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    activations = {intermediate_layers.PIXELS: keras.ops.convert_to_tensor(pixels)}
    for stage, layer in (("second", "a"), ("third", "d"), ("origin", "pool")):
        whole = keras.Model(model.inputs, model.get_layer(layer).output)(pixels).numpy()
        expected = whole.mean(axis=(1, 2)) if whole.ndim == 4 else whole
        np.testing.assert_allclose(stepped.advance(activations, stage), expected, atol=1e-6)
        assert stepped.width(stage) == expected.shape[1]
    assert set(stepped.parts) == {
        (intermediate_layers.PIXELS, "second"),
        ("second", "third"),
        ("third", "origin"),
    }


def test_a_tap_that_a_skip_connection_passes_starts_again_further_up(encoder_file: Path):
    model = keras.models.load_model(encoder_file)
    stepped = intermediate_layers.SteppedEncoder(
        model, {"second": "b", "third": "c", "origin": intermediate_layers.OUTPUT}
    )
    pixels = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    activations = {intermediate_layers.PIXELS: keras.ops.convert_to_tensor(pixels)}
    for stage in ("second", "third", "origin"):
        features = stepped.advance(activations, stage)
    np.testing.assert_allclose(features, model(pixels), atol=1e-6)
    assert (
        stepped.parts["second", "third"] is None
        and stepped.parts[intermediate_layers.PIXELS, "third"] is not None
    )


def test_taps_are_chosen_at_half_and_nearly_all_of_the_blocks():
    tiny = encoders.build(Encoder(name="clip_tiny"))
    names = list(tiny.taps.values())
    assert intermediate_layers.choose_layers(tiny, {}) == {"second": names[1], "third": names[3]}
    assert intermediate_layers.choose_layers(tiny, {"second": "block_1"})["second"] == names[0]
    for given in ({"second": "nowhere"}, {"fourth": "block_1"}):
        with pytest.raises(BadInput, match="taps"):
            intermediate_layers.choose_layers(tiny, given)


def test_features_average_tokens_and_space_as_numpy_does():
    rng = np.random.default_rng(0)
    space, tokens = rng.normal(size=(2, 3, 4, 5)).astype("f"), rng.normal(size=(2, 7, 5)).astype("f")
    np.testing.assert_allclose(intermediate_layers.pooled(space), space.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(intermediate_layers.pooled(tokens), tokens.mean(axis=1), atol=1e-6)


def test_vote_counts_and_breaks_ties_by_the_nearest():
    assert cascade.vote(["a", "b", "b"]) == ("b", 2 / 3)
    assert cascade.vote(["b", "a", "a", "b"]) == ("b", 0.5)
    assert cascade.vote([]) == ("", 0.0)


def slow_cascade(correct, agreement, cost, passed_by, thresholds):
    right = spent = 0.0
    for image in range(correct.shape[1]):
        for stage in range(len(correct)):
            last = stage == len(correct) - 1
            if not last and thresholds[stage] > 1:
                spent += passed_by[stage, image]
                continue
            spent += cost[stage, image]
            if last or agreement[stage, image] >= thresholds[stage]:
                right += correct[stage, image]
                break
    return right / correct.shape[1], spent / correct.shape[1]


def test_simulated_cascade_equals_a_loop_for_every_setting_of_thresholds():
    rng = np.random.default_rng(3)
    correct = rng.random((4, 40)) < [[0.3], [0.5], [0.7], [0.8]]
    agreement = rng.integers(0, 11, (4, 40)) / 10
    cost = rng.random((4, 40)) + np.array([[0.1], [1], [2], [3]])
    passed_by = cost * 0.6
    for thresholds in itertools.product([0.0, 0.3, 0.7, 1.0, cascade.NEVER], repeat=3):
        point = cascade.simulate(correct, agreement, cost, passed_by, thresholds)
        accuracy, spent = slow_cascade(correct, agreement, cost, passed_by, thresholds)
        assert point.accuracy == pytest.approx(accuracy) and point.milliseconds == pytest.approx(spent)
        assert sum(point.answered) == pytest.approx(1)


def test_pareto_keeps_what_nothing_beats():
    def point(accuracy, milliseconds):
        return cascade.Point((), accuracy, milliseconds, ())

    points = [point(0.5, 1), point(0.4, 2), point(0.7, 3), point(0.7, 2.5), point(0.9, 9), point(0.6, 1)]
    assert [(p.accuracy, p.milliseconds) for p in cascade.pareto(points)] == [(0.6, 1), (0.7, 2.5), (0.9, 9)]
    coarse = cascade.pareto([*points, point(0.95, 12)], gain=0.15)
    assert [p.accuracy for p in coarse] == [0.6, 0.9, 0.95]


def test_curve_measures_on_images_that_did_not_choose_the_thresholds():
    """Even places say that stage 0 is always right; odd places, which are reported, that it never is."""
    correct = np.array([[1, 0] * 10, [1, 1] * 10], bool)
    agreement, cost = np.ones((2, 20)), np.array([[1.0] * 20, [5.0] * 20])
    points = cascade.curve(correct, agreement, cost, np.zeros((2, 20)), [1.0])
    assert [(p.accuracy, p.milliseconds) for p in points] == [(0.0, 1.0)]


def test_perf_accuracies_equal_a_brute_force_vote_on_the_same_features(built: str, images: Path, capsys):
    lines = run(capsys, "perf", built, "--stage", "all", "--time", "--display-freq", "1")
    assert sum(line.startswith("batch ") for line in lines) == 2
    result = json.loads((Path(built).parent / "run" / "perf-all.json").read_text())
    assert [row["stage"] for row in result["stages"]] == list(retriever.STAGES) and result["images"] == 9

    def load(split):
        paths = sorted((images / split).rglob("*.png"))
        return [pixels.read(path.read_bytes()) for path in paths], [path.parent.name for path in paths]

    index, queries = load("train"), load("test")
    for row, layer in zip(result["stages"], (None, "a", "d", "pool"), strict=True):
        vectors = []
        for pictures in (index[0], queries[0]):
            if layer is None:
                raw = retriever.pixel_vectors(pictures, 4)
            else:
                model = command.load(command.Staged, built).encoder
                encoder = encoders.build(model)
                part = keras.Model(encoder.model.inputs, encoder.model.get_layer(layer).output)
                raw = part(prepare_all(pictures, encoder.preprocess)).numpy()
                raw = raw.mean(axis=(1, 2)) if raw.ndim == 4 else raw
            vectors.append(raw / np.linalg.norm(raw, axis=1, keepdims=True))
        right = 0
        for query, name in zip(vectors[1], queries[1], strict=True):
            nearest = np.argsort(((vectors[0] - query) ** 2).sum(axis=1))[:3]
            right += cascade.vote([index[1][i] for i in nearest])[0] == name
        assert row["accuracy"] == pytest.approx(right / 9), row["stage"]
        assert row["alone_ms"] >= row["encode_ms"] > 0 and row["query_ms"] > 0
    page = (Path(built).parent / "run" / "perf-all.html").read_text()
    assert page.count("<svg") >= 10 and "#c0392b" in page and "#2f6db5" in page


def test_perf_of_one_stage_takes_num_batches_of_batch_size(built: str, capsys):
    argv = ["--stage", "third", "--num", "2", "--batch-size", "3", "--display-freq", "1", "--time"]
    lines = run(capsys, "perf", built, *argv)
    assert sum(line.startswith("batch ") for line in lines) == 2 and "of 6 images" in lines[-1]
    assert "query" in lines[-3] or any("query ms" in line for line in lines)


@pytest.mark.parametrize(
    ("thresholds", "answers"),
    [("{first: 2, second: 2, third: 2}", "origin"), ("{first: 0, second: 1, third: 1}", "first")],
)
def test_cascade_answers_as_the_stage_its_thresholds_point_to(
    built: str, capsys, thresholds: str, answers: str
):
    folder = Path(built).parent / "run"
    run(capsys, "perf", built, "--stage", answers)
    run(capsys, "perf", built, "--stage", "cascade", f"thresholds={thresholds}")
    alone, stepped = (json.loads((folder / f"perf-{s}.json").read_text()) for s in (answers, "cascade"))
    assert stepped["stages"][-1]["answered"][answers] == 1
    assert stepped["stages"][-1]["accuracy"] == alone["stages"][0]["accuracy"]


def test_cascade_takes_each_image_as_far_as_needed_and_no_further(built: str, images: Path, capsys):
    parsed = command.parse(["perf", built])
    with VectorDatabase(str(Path(built).parent / "run" / "vectors.db")) as database:
        found = retriever.Retriever(
            ImageTextModel(parsed.config.encoder), parsed.config.taps, 4, 3, "guie", database
        )
        found.open_collections(create=False)
        pixels = [pixels.read(p.read_bytes()) for p in sorted((images / "test").rglob("*.png"))]
        thresholds = {"first": 1.0, "second": 1.0, "third": 1.0}
        together = found.cascade(retriever.Asked(pixels, [""] * len(pixels)), thresholds)
        assert len({len(answers) for answers in together}) > 1  # some early, some late
        for picture, answers in zip(pixels, together, strict=True):
            alone = found.cascade(retriever.Asked([picture], [""]), thresholds)[0]
            assert [(a.stage, a.class_name) for a in alone] == [(a.stage, a.class_name) for a in answers]
            assert all(a.agreement < 1 for a in answers[:-1])
            assert answers[-1].agreement == 1 or answers[-1].stage == "origin"


def test_predict_shows_every_stage_and_an_indexed_image_finds_itself(built: str, images: Path, capsys):
    path = str(images / "train" / "red" / "3.png")
    lines = run(capsys, "predict", path, "--config", built, "--stage", "all")
    stages = [line.split()[0] for line in lines if line.split() and line.split()[0] in retriever.STAGES]
    assert stages == list(retriever.STAGES)
    assert all("tiny/red/3.png" in line and " 0.00" in line for line in lines if "neighbours:" in line)
    assert lines[-1].startswith("staged predict: 1 image(s)")


def test_an_interrupted_build_goes_on_and_a_rerun_adds_nothing(config: str, capsys, monkeypatch):
    real, calls = VectorDatabase.insert, itertools.count()

    def killed_at_the_seventh(self, *arguments):
        if next(calls) == 6:  # in the middle of the second batch's collections
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(VectorDatabase, "insert", killed_at_the_seventh)
    assert cli.main(["staged", "build", config]) == 130
    monkeypatch.setattr(VectorDatabase, "insert", real)
    assert "24 images (19 new or changed, 0 rejected), 24 in 4" in run(capsys, "build", config)[-1]
    assert "24 images (0 new or changed, 0 rejected), 24 in 4" in run(capsys, "build", config)[-1]


def test_a_changed_image_is_encoded_again_and_a_broken_one_is_named(built: str, images: Path, capsys):
    changed, broken = images / "train" / "red" / "0.png", images / "train" / "red" / "zz.png"
    before = changed.read_bytes()
    try:
        changed.write_bytes((images / "train" / "blue" / "0.png").read_bytes())
        broken.write_bytes(b"no image")
        assert "25 images (1 new or changed, 1 rejected), 24 in 4" in run(capsys, "build", built)[-1]
        assert "tiny/red/zz.png" in (Path(built).parent / "run" / "rejects.csv").read_text()
    finally:
        changed.write_bytes(before)
        broken.unlink(missing_ok=True)


def test_a_build_leaves_what_the_config_lists_and_nothing_else(built: str, images: Path, capsys):
    lines = run(capsys, "build", built, "index.0.cap_per_class=2")
    assert "6 images (0 new or changed, 0 rejected), 6 in 4 collections" in lines[-1]
    assert "72 rows removed" in lines[-2]  # 18 images, 4 stages
    with VectorDatabase(str(Path(built).parent / "run" / "vectors.db")) as database:
        for stage in retriever.STAGES:
            database.client.load_collection(f"guie_{stage}")
            assert database.count(f"guie_{stage}") == 6
    broken = images / "train" / "red" / "0.png"
    before = broken.read_bytes()
    try:
        run(capsys, "build", built)
        broken.write_bytes(b"no image")  # no longer what its rows say
        assert "24 images (0 new or changed, 1 rejected), 23 in 4" in run(capsys, "build", built)[-1]
    finally:
        broken.write_bytes(before)


def test_a_class_that_was_wrong_in_the_table_is_mended(config: str, images: Path, tmp_path: Path, capsys):
    table = tmp_path / "table.csv"
    argv = [
        "build",
        config,
        f"index=[{{layout: csv, name: tiny, root: {table}, options: {{images: {images}}}}}]",
    ]
    paths = [f"train/{name}/{i}.png" for name in COLOURS for i in range(2)]
    for first, new in (("red", 6), ("blue", 1)):
        rows = [(path, first if i == 0 else path.split("/")[1]) for i, path in enumerate(paths)]
        table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
        assert f"6 images ({new} new or changed, 0 rejected), 6 in 4" in run(capsys, *argv)[-1]


def test_sources_of_one_name_are_refused(built: str, capsys):
    two = "index=[{layout: folder, name: a, root: train}, {layout: folder, name: a, root: test}]"
    assert "2 sources are called 'a'" in run(capsys, "build", built, two, code=2)[-1]
    same = "queries=[{layout: folder, name: tiny, root: test}]"
    line = run(capsys, "perf", built, same, code=2)[-1]
    assert "both have a source 'tiny', of folder:train and of folder:test" in line
    assert "cap_per_class" in run(capsys, "build", built, "index.0.cap_per_class=0", code=2)[-1]


def test_bad_input_is_one_line(built: str, tmp_path: Path, capsys):
    no_image = tmp_path / "x.png"
    no_image.write_text("hello")
    for argv, expected in (
        (["perf", built, "--stage", "thrid"], "unknown stage 'thrid'; nearest: third"),
        (["predict", "nowhere.png", "--config", built], "nowhere.png does not exist"),
        (["predict", str(no_image), "--config", built], "x.png: not a"),
        (["predict", "--config", built], "expected the path of an image"),
        (["perf", built, "taps={second: b}"], "filled by another encoder: layer was 'a', is now 'b'"),
        (["perf", built, "pixels_px=5"], "pixels_px was 4, is now 5"),
        (["perf", built, f"run_dir={tmp_path / 'other'}"], "run `guie staged build` first"),
        (["perf", built, "queries=[]"], "queries: expected at least one source"),
        (["build", built, "pixels_px=200"], "pixels_px 1 … 104"),
        (["build", built, "thresholds={fourth: 1}"], "thresholds: expected first, second, third"),
        (["grow", built], "expected build, predict or perf"),
    ):
        lines = run(capsys, *argv, code=2)
        assert expected in lines[-1] and len(lines) == 1, lines


def test_with_a_text_tower_origin_is_zero_shot(tmp_path: Path, images: Path, capsys):
    config = str(tmp_path / "clip.yaml")
    Path(config).write_text(
        f"run_dir: {tmp_path / 'run'}\ndata_root: {images}\nencoder: {{name: clip_tiny}}\ntemplates: one\n"
        "index: [{layout: folder, name: tiny, root: train}]\n"
    )
    run(capsys, "build", config)
    path = images / "test" / "green" / "1.png"
    lines = run(capsys, "predict", str(path), "--config", config, "--stage", "origin")
    shown = next(line for line in lines if line.startswith("origin")).split()
    towers = DualEncoder(ImageTextModel(Encoder(name="clip_tiny")))
    image = prepare_all([pixels.read(path.read_bytes())], towers.preprocess)
    features = towers.image.model(image).numpy()
    texts = towers.encode_texts([f"a photo of a {name}." for name in COLOURS])
    cosine = (features / np.linalg.norm(features)) @ texts.T
    assert shown[1] == list(COLOURS)[int(cosine.argmax())]
    assert float(shown[3]) == pytest.approx(np.sqrt(2 - 2 * cosine.max()), abs=2e-3)


def test_zero_shot_rows_are_the_config_s_classes_and_text_tower(tmp_path: Path, images: Path, capsys):
    config = str(tmp_path / "clip.yaml")
    Path(config).write_text(
        f"run_dir: {tmp_path / 'run'}\ndata_root: {images}\nencoder: {{name: clip_tiny}}\ntemplates: one\n"
        "index: [{layout: folder, name: tiny, root: train}]\n"
    )
    run(capsys, "build", config)
    one = tmp_path / "one" / "red"
    one.mkdir(parents=True)
    (one / "0.png").write_bytes((images / "train" / "red" / "0.png").read_bytes())
    run(capsys, "build", config, f"index.0.root={one.parent}")
    with VectorDatabase(str(tmp_path / "run" / "vectors.db")) as database:
        database.client.load_collection("guie_origin")
        assert database.count("guie_origin") == 1
        assert set(database.digests("guie_origin", ["class/red", "class/blue"])) == {"class/red"}
    lines = gzip.decompress(tokenizers._open_clip_file().read_bytes()).split(b"\n")
    swapped = tmp_path / "swapped.gz"  # two of its merges
    swapped.write_bytes(gzip.compress(b"\n".join([lines[0], lines[2], lines[1], *lines[3:]])))
    for other in ("text_architecture={num_layers: 1}", f"vocabulary={swapped}"):
        for action in (["build"], ["predict", str(one / "0.png"), "--config"]):
            line = run(capsys, *action, config, other, code=2)[-1]
            assert "guie_origin" in line and "text_tower was" in line


def test_deeper_stages_beat_pixels_on_real_images(shared: Path, tmp_path: Path, capsys):
    config = str(Path(__file__).resolve().parents[2] / "configs" / "staged_cifar10.yaml")
    options = [
        f"data_root={shared / 'data'}", f"run_dir={tmp_path}", "index.0.cap_per_class=12", "queries.0.cap_per_class=4"
    ]  # fmt: skip
    run(capsys, "build", config, *options)
    run(capsys, "perf", config, *options)
    rows = json.loads((tmp_path / "perf-all.json").read_text())["stages"]
    accuracy = {row["stage"]: row["accuracy"] for row in rows}
    assert accuracy["origin"] > accuracy["first"] and accuracy["third"] > accuracy["first"]
