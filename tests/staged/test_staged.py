"""`guie staged build` and `predict`: builds resume and mend, images find their neighbours, the cascade stops early."""

import gzip
import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.config import Encoder, ImageTextModel, load
from pipeline.data.preprocessing import prepare_all
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.text import tokenizers
from pipeline.staged.config import STAGES, Staged
from pipeline.staged.retriever import Retriever, queried_stages
from pipeline.staged.stages import Batch, StagedEncoder
from pipeline.staged.vector_database import VectorDatabase
from tests.staged.conftest import COLOURS
from tfrecords import pixels

pytest.importorskip("milvus_lite", reason="needs the extra vectordb")
# Imported here, not within a test: pymilvus resets logging, and absl's handler then closes a stderr that is no longer
# the current one, which is pytest's.
pytest.importorskip("pymilvus", reason="needs the extra vectordb")


def test_cascade_takes_each_image_as_far_as_needed_and_no_further(built: str, images: Path):
    config = load(Staged, built)
    with VectorDatabase(str(Path(built).parent / "run" / "vectors.db")) as database:
        encoder = StagedEncoder(ImageTextModel(config.encoder), config.taps, pixels_px=4)
        retriever = Retriever(encoder, database, "guie", neighbours=3)
        retriever.open_collections(create=False)
        pictures = [pixels.read(path.read_bytes()) for path in sorted((images / "test").rglob("*.png"))]
        thresholds = {"first": 1.0, "second": 1.0, "third": 1.0}
        together = retriever.cascade(Batch(pictures, [""] * len(pictures)), thresholds)
        assert len({len(answers) for answers in together}) > 1  # some early, some late
        for picture, answers in zip(pictures, together, strict=True):
            alone = retriever.cascade(Batch([picture], [""]), thresholds)[0]
            assert [(a.stage, a.class_name) for a in alone] == [(a.stage, a.class_name) for a in answers]
            assert all(a.agreement < 1 for a in answers[:-1])
            assert answers[-1].agreement == 1 or answers[-1].stage == "origin"


def test_a_threshold_above_1_skips_a_stage(built: str, images: Path):
    assert queried_stages("cascade", {"first": 2, "third": 1.01}) == ("second", "origin")
    assert queried_stages("cascade", {}) == queried_stages("all", {"first": 2}) == STAGES
    assert queried_stages("third", {"third": 2}) == ("third",)


def test_an_indexed_image_is_not_its_own_neighbour(built: str, images: Path):
    config = load(Staged, built)
    with VectorDatabase(str(Path(built).parent / "run" / "vectors.db")) as database:
        encoder = StagedEncoder(ImageTextModel(config.encoder), config.taps, pixels_px=4)
        retriever = Retriever(encoder, database, "guie", neighbours=3)
        retriever.open_collections(create=False)
        picture = pixels.read((images / "train" / "red" / "3.png").read_bytes())
        for stage in STAGES:
            mine, another = retriever.answer(stage, Batch([picture] * 2, ["tiny/red/3.png", "photo.png"]))
            assert len(mine.neighbours) == len(another.neighbours) == 3
            assert another.neighbours[0].key == "tiny/red/3.png"
            assert [hit.key for hit in mine.neighbours[:2]] == [hit.key for hit in another.neighbours[1:]]


@pytest.mark.faults("stale results")
def test_an_encoder_of_the_same_name_with_other_weights_is_refused(
    built: str, encoder_file: Path, images: Path, tmp_path: Path, run
):
    path = tmp_path / "encoder.keras"
    model = keras.models.load_model(encoder_file)
    model.save(path)
    argv = [built, f"encoder.name=keras_file:{path}", f"run_dir={tmp_path / 'other'}"]
    run("build", *argv)
    model.get_layer("b").bias.assign_add([1e-3] + [0.0] * 5)
    model.save(path)
    line = run("perf", *argv, code=2)[-1]
    assert "guie_second" in line and "filled by another encoder: weights was" in line


def test_predict_shows_every_stage_and_an_indexed_image_finds_itself(built: str, images: Path, run):
    path = str(images / "train" / "red" / "3.png")
    lines = run("predict", path, "--config", built, "--stage", "all")
    stages = [line.split()[0] for line in lines if line.split() and line.split()[0] in STAGES]
    assert stages == list(STAGES)
    found = [line for line in lines if "neighbours:" in line]
    assert len(found) == 4 and all("tiny/red/3.png" in line and " 0.00" in line for line in found)
    assert lines[-1].startswith("staged predict: 1 image(s)")


@pytest.mark.faults("kill")
def test_an_interrupted_build_goes_on_and_a_rerun_adds_nothing(config: str, run, monkeypatch):
    real, calls = VectorDatabase.insert, itertools.count()

    def killed_at_the_seventh(self, *arguments):
        if next(calls) == 6:  # in the middle of the second batch's collections
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(VectorDatabase, "insert", killed_at_the_seventh)
    run("build", config, code=130)
    monkeypatch.setattr(VectorDatabase, "insert", real)
    assert "24 images (19 new or changed, 0 rejected), 24 in 4" in run("build", config)[-1]
    assert "24 images (0 new or changed, 0 rejected), 24 in 4" in run("build", config)[-1]


@pytest.mark.faults("stale results")
def test_a_changed_image_is_encoded_again_and_a_broken_one_is_named(built: str, images: Path, run):
    changed, broken = images / "train" / "red" / "0.png", images / "train" / "red" / "zz.png"
    before = changed.read_bytes()
    try:
        changed.write_bytes((images / "train" / "blue" / "0.png").read_bytes())
        broken.write_bytes(b"no image")
        assert "25 images (1 new or changed, 1 rejected), 24 in 4" in run("build", built)[-1]
        assert "tiny/red/zz.png" in (Path(built).parent / "run" / "rejects.csv").read_text()
    finally:
        changed.write_bytes(before)
        broken.unlink(missing_ok=True)


def test_a_build_leaves_what_the_config_lists_and_nothing_else(built: str, images: Path, run):
    lines = run("build", built, "index.0.cap_per_class=2")
    assert "6 images (0 new or changed, 0 rejected), 6 in 4 collections" in lines[-1]
    assert "72 rows removed" in lines[-2]  # 18 images, 4 stages
    with VectorDatabase(str(Path(built).parent / "run" / "vectors.db")) as database:
        for stage in STAGES:
            database.client.load_collection(f"guie_{stage}")
            assert database.count(f"guie_{stage}") == 6
    broken = images / "train" / "red" / "0.png"
    before = broken.read_bytes()
    try:
        run("build", built)
        broken.write_bytes(b"no image")  # no longer what its rows say
        assert "24 images (0 new or changed, 1 rejected), 23 in 4" in run("build", built)[-1]
    finally:
        broken.write_bytes(before)


def test_a_class_that_was_wrong_in_the_table_is_mended(config: str, images: Path, tmp_path: Path, run):
    table = tmp_path / "table.csv"
    argv = ["build", config, f"index=[{{layout: csv, name: tiny, root: {table}, options: {{images: {images}}}}}]"]
    paths = [f"train/{name}/{i}.png" for name in COLOURS for i in range(2)]
    for first, new in (("red", 6), ("blue", 1)):
        rows = [(path, first if i == 0 else path.split("/")[1]) for i, path in enumerate(paths)]
        table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
        assert f"6 images ({new} new or changed, 0 rejected), 6 in 4" in run(*argv)[-1]


def test_sources_of_one_name_are_refused(built: str, run):
    two = "index=[{layout: folder, name: a, root: train}, {layout: folder, name: a, root: test}]"
    assert "2 sources are called 'a'" in run("build", built, two, code=2)[-1]
    same = "queries=[{layout: folder, name: tiny, root: test}]"
    line = run("perf", built, same, code=2)[-1]
    assert "both have a source 'tiny', of folder:train and of folder:test" in line
    assert "cap_per_class" in run("build", built, "index.0.cap_per_class=0", code=2)[-1]


def test_bad_input_is_one_line(built: str, tmp_path: Path, run):
    no_image = tmp_path / "x.png"
    no_image.write_text("hello")
    for argv, expected in (
        (["perf", built, "--stage", "thrid"], "got 'thrid'; nearest: third"),
        (["predict", "nowhere.png", "--config", built], "nowhere.png does not exist"),
        (["predict", str(no_image), "--config", built], "x.png: not a"),
        (["predict", "--config", built], "expected the path of an image"),
        (["perf", built, "taps={second: b}"], "filled by another encoder: layer was 'a', is now 'b'"),
        (["perf", built, "pixels_px=5"], "pixels_px was 4, is now 5"),
        (["perf", built, f"run_dir={tmp_path / 'other'}"], "run `guie staged build` first"),
        (["perf", built, "queries=[]"], "queries: expected at least one source"),
        (["build", built, "pixels_px=200"], "pixels_px: expected 1 … 104, got 200"),
        (["build", built, "thresholds={fourth: 1}"], "thresholds: expected first, second, third"),
        (["grow", built], "expected build, predict or perf"),
    ):
        lines = run(*argv, code=2)
        assert expected in lines[-1] and len(lines) == 1, lines


@pytest.mark.slow
def test_with_a_text_tower_origin_is_zero_shot(tmp_path: Path, images: Path, run):
    config = str(tmp_path / "clip.yaml")
    Path(config).write_text(
        f"run_dir: {tmp_path / 'run'}\ndata_root: {images}\nencoder: {{name: clip_tiny}}\ntemplates: one\n"
        "index: [{layout: folder, name: tiny, root: train}]\n"
    )
    run("build", config)
    path = images / "test" / "green" / "1.png"
    lines = run("predict", str(path), "--config", config, "--stage", "origin")
    shown = next(line for line in lines if line.startswith("origin")).split()
    model = DualEncoder(ImageTextModel(Encoder(name="clip_tiny")))
    image = prepare_all([pixels.read(path.read_bytes())], model.preprocess)
    features = model.image.model(image).numpy()
    texts = model.encode_texts([f"a photo of a {name}." for name in COLOURS])
    cosine = (features / np.linalg.norm(features)) @ texts.T
    assert shown[1] == list(COLOURS)[int(cosine.argmax())] and shown[2] == "100%"  # the nearest class alone
    assert float(shown[3]) == pytest.approx(np.sqrt(2 - 2 * cosine.max()), abs=2e-3)


@pytest.mark.slow
def test_zero_shot_rows_are_the_config_s_classes_and_text_tower(tmp_path: Path, images: Path, run):
    config = str(tmp_path / "clip.yaml")
    Path(config).write_text(
        f"run_dir: {tmp_path / 'run'}\ndata_root: {images}\nencoder: {{name: clip_tiny}}\ntemplates: one\n"
        "index: [{layout: folder, name: tiny, root: train}]\n"
    )
    run("build", config)
    one = tmp_path / "one" / "red"
    one.mkdir(parents=True)
    (one / "0.png").write_bytes((images / "train" / "red" / "0.png").read_bytes())
    run("build", config, f"index.0.root={one.parent}")
    with VectorDatabase(str(tmp_path / "run" / "vectors.db")) as database:
        database.client.load_collection("guie_origin")
        assert database.count("guie_origin") == 1
        assert set(database.digests("guie_origin", ["class/red", "class/blue"])) == {"class/red"}
    theirs = tokenizers._open_clip_file()
    run("build", config, f"vocabulary={theirs}", f"index.0.root={one.parent}")  # the same vocabulary, named
    header, first, second, *merges = gzip.decompress(theirs.read_bytes()).split(b"\n")
    swapped = tmp_path / theirs.name
    swapped.write_bytes(gzip.compress(b"\n".join([header, second, first, *merges])))
    for other in ("text_architecture={num_layers: 1}", f"vocabulary={swapped}"):
        for action in (["build"], ["predict", str(one / "0.png"), "--config"]):
            line = run(*action, config, other, code=2)[-1]
            assert "guie_origin" in line and "text_tower was" in line


@pytest.mark.slow
def test_deeper_stages_beat_pixels_on_real_images(shared: Path, tmp_path: Path, run):
    config = str(Path(__file__).resolve().parents[2] / "configs" / "staged_cifar10.yaml")
    options = [
        f"data_root={shared / 'data'}", f"run_dir={tmp_path}", "index.0.cap_per_class=12", "queries.0.cap_per_class=4"
    ]  # fmt: skip
    run("build", config, *options)
    run("perf", config, *options)
    rows = json.loads((tmp_path / "perf-all.json").read_text())["stages"]
    accuracy = {row["stage"]: row["accuracy"] for row in rows}
    assert accuracy["origin"] > accuracy["first"] and accuracy["third"] > accuracy["first"]
