"""Search: neighbours by brute force, within the likeliest classes, cached by content; label maps; one-line errors."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline.config import Source
from pipeline.data.preprocessing import Preprocess, prepare_all
from pipeline.data.sources import check_shared_names
from pipeline.errors import BadInput
from pipeline.retrieval.vectors import class_means
from pipeline.similar import classifiers, search
from pipeline.similar.embedder import Stored, embed_images
from tfrecords.sources import Item


def stored(vectors, classes, prefix="i") -> Stored:
    images = [Item(f"{prefix}{i}", name, lambda: b"") for i, name in enumerate(classes)]
    return Stored(images, np.array(vectors, np.float32), [None] * len(images), [])


def test_neighbours_stay_within_the_likeliest_classes_and_leave_the_image_itself_out():
    index = stored([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]], "abbca")
    queries = stored([[0.9, 0]], "?", prefix="q")
    everywhere = search.neighbours(index, queries, 3)[0]
    assert everywhere.rows == [1, 0, 2] and everywhere.distances == pytest.approx([0.1, 0.9, 1.1])
    within = search.LikelyClasses(np.array([[0, 2]]), np.array([0, 1, 1, 2, 0]), ["A", "B", "C"])
    only = search.neighbours(index, queries, 3, within)[0]
    assert only.rows == [0, 3, 4] and only.classes == ["A", "C"]
    itself = search.neighbours(index, index, 2)
    assert [found.rows for found in itself] == [[1, 2], [0, 2], [1, 3], [2, 4], [3, 2]]
    few = search.LikelyClasses(np.array([[2]]), np.array([0, 1, 1, 2, 0]), ["A", "B", "C"])
    assert search.neighbours(index, queries, 3, few)[0].rows == [3]


def test_an_indexed_query_does_not_match_itself_and_another_one_matches_all_of_its_class():
    index = stored([[0, 0], [1, 0], [2, 0]], "aab")
    scores = search.score(index, index, search.neighbours(index, index, 5))
    # a finds the other a, of one match; b has no match
    assert scores["mAP@1"] == scores["mAP@5"] == pytest.approx(2 / 3)
    query = stored([[3, 0]], "a", prefix="q")
    scores = search.score(index, query, search.neighbours(index, query, 5))
    # b, a, a of two matches: (1/2 + 2/3) / 2
    assert scores["mAP@1"] == 0 and scores["mAP@3"] == pytest.approx(7 / 12)
    assert (scores["queries"], scores["index"]) == (1, 3)
    lone = stored([[0, 0], [1, 0]], "ab")
    with pytest.raises(BadInput, match="no query has an image of its class"):
        search.score(lone, lone, search.neighbours(lone, lone, 5))


def test_label_maps_in_both_forms_and_what_is_wrong_with_others(tmp_path: Path):
    synsets = tmp_path / "LOC_synset_mapping.txt"
    synsets.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n\nplain name\n")
    assert classifiers.label_map(synsets, 3) == ["tench, Tinca tinca", "goldfish", "plain name"]
    table = tmp_path / "map.csv"
    table.write_text('\ufeffindex,name\n1,"b, c"\n0,a\n')
    assert classifiers.label_map(table, 2) == ["a", "b, c"]
    with pytest.raises(BadInput, match="names 2 classes, the classifier has 21,843 outputs"):
        classifiers.label_map(table, 21843)
    for text, message in (("index,name\n0,a\n0,b\n", "line 3"), ("index,name\n0,a\n2,b\n", "some are missing")):
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


class MeanColour:
    """In place of an `Embedder`: a picture's vector is its mean colour."""

    def __init__(self, name: str):
        self.made_by, self.batches = name, []

    def features(self, pictures):
        self.batches.append(len(pictures))
        return np.stack([picture.mean(axis=(0, 1)) for picture in pictures]).astype(np.float32)

    def finish(self, features):
        return features * 2


class LeftHalf:
    """In place of a `Detector`: the left half of every picture that is wider than one pixel."""

    made_by = "left half"

    def find_box(self, image):
        height, width = image.shape[:2]
        return (0, 0, width // 2, height) if width > 1 else None


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """A picture, red 10 on the left and 30 on the right; a broken file; a picture of one pixel, red 20."""
    wide = np.zeros((4, 6, 3), np.uint8)
    wide[:, :3, 0], wide[:, 3:, 0] = 10, 30
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.new("RGB", (1, 1), (20, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    return [Item(name, "c", (tmp_path / name).read_bytes) for name in ("a.png", "bad.png", "b.png")]


def test_features_are_computed_once_by_content_and_model_and_finished_anew(items: list[Item], tmp_path: Path):
    model = MeanColour("model")
    for _ in range(2):
        found = embed_images(items, model, None, tmp_path, 2, "test")
        assert [item.key for item in found.images] == ["a.png", "b.png"] and found.boxes == [None, None]
        assert [key for key, _ in found.rejects] == ["bad.png"] and found.vectors[:, 0].tolist() == [40, 40]
    assert model.batches == [2]
    another = MeanColour("another model")
    embed_images(items, another, None, tmp_path, 2, "test")
    Image.new("RGB", (1, 1), (50, 0, 0)).save(tmp_path / "b.png")
    assert embed_images(items, model, None, tmp_path, 2, "test").vectors[1, 0] == 100
    assert another.batches == [2] and model.batches == [2, 1]


def test_cropped_images_are_embedded_by_their_box_apart_from_whole_ones(items: list[Item], tmp_path: Path):
    model = MeanColour("model")
    whole = embed_images(items, model, None, tmp_path, 2, "test")
    for _ in range(2):
        cropped = embed_images(items, model, LeftHalf(), tmp_path, 2, "test")
        assert cropped.boxes == [(0, 0, 3, 4), None] and cropped.vectors[:, 0].tolist() == [20, 40]
    assert whole.vectors[:, 0].tolist() == [40, 40] and model.batches == [2, 2]


def test_a_query_is_not_itself_because_a_file_of_another_set_has_its_name(config_file: str, models: Path, run):
    same = "queries=[{layout: folder, name: tiny, root: test}]"
    line = run("search", config_file, same, code=2)[-1]
    assert "both have a source 'tiny', of folder:train and of folder:test" in line and "rename one" in line
    two = "index=[{layout: folder, name: a, root: train}, {layout: folder, name: a, root: test}]"
    assert "2 sources are called 'a'" in run("search", config_file, two, code=2)[-1]
    split = [Source("cub200", "birds", "CUB", None, {"split": each}) for each in ("train", "all")]
    check_shared_names(split[:1], split[1:])  # a set's keys are of the whole set


def test_drawn_images_need_no_data_root(config_file: str, run):
    drawn = "{layout: drawn, name: d, options: {classes: 2, images_per_class: 3}}"
    lines = run("search", config_file, "data_root=''", f"index=[{drawn}]", "queries=[]", "pictures=1")
    assert "6 queries among 6 images" in lines[-2]


def test_search_writes_what_brute_force_finds_and_a_picture_a_query(
    config_file: str, models: Path, images: Path, tmp_path: Path, run
):
    lines = run("search", config_file)
    encoder = keras.models.load_model(models / "encoder.keras")

    def vectors(split):
        paths = sorted((images / split).rglob("*.png"))
        pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
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
    config_file: str, models: Path, images: Path, tmp_path: Path, run
):
    with_labels = [
        "method=classify", f"classifier.name=keras_file:{models / 'classifier.keras'}", "classifier.mean=[0,0,0]",
        "classifier.std=[1,1,1]", f"classifier.labels={models / 'labels.csv'}",
    ]  # fmt: skip
    picture = str(images / "test" / "red" / "0.png")
    lines = run("search", config_file, picture, *with_labels)
    assert any(line.startswith(picture) and "colour red" in line for line in lines)
    with (tmp_path / "run" / "neighbours.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 5 and {row["within"] for row in found} == {"colour red"}
    run("search", config_file, "method=classify", "classifier.top_classes=1")
    with (tmp_path / "run" / "neighbours.csv").open() as file:
        assert all(row["class"] == row["within"] for row in csv.DictReader(file))
    run("search", config_file)
    everywhere = json.loads((tmp_path / "run" / "metrics.json").read_text())["mAP@5"]
    run("search", config_file, "method=classify", "classifier.top_classes=4")  # of 4: no restriction
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["mAP@5"] == pytest.approx(everywhere)


@pytest.mark.faults("stale results")
def test_another_classifier_of_the_same_name_classifies_anew(config_file: str, models: Path, tmp_path: Path, run):
    path = tmp_path / "classifier.keras"
    options = ["method=classify", f"classifier.name=keras_file:{path}", f"classifier.labels={models / 'labels.csv'}",
               "classifier.mean=[0,0,0]", "classifier.std=[1,1,1]", "index.0.cap_per_class=3"]  # fmt: skip
    classifier = keras.models.load_model(models / "classifier.keras")
    within = []
    for _ in range(2):
        classifier.save(path)
        run("search", config_file, *options)
        with (tmp_path / "run" / "neighbours.csv").open() as file:
            within.append({row["query"]: row["within"] for row in csv.DictReader(file)})
        classifier.set_weights([-classifier.get_weights()[0]])
    shared = within[0].keys() & within[1].keys()
    assert shared and all(within[0][query] != within[1][query] for query in shared)


def test_search_with_a_detector_shows_its_boxes(config_file: str, detector_folder: Path, tmp_path: Path, run):
    cropped = [f"crop.detector={detector_folder}", "crop.min_score=0.01", "crop.centre_share=1.0"]
    few = ["index.0.cap_per_class=2", "queries.0.cap_per_class=1", "pictures=4"]
    plain = run("search", config_file, *few)[-2]
    assert run("search", config_file, *cropped, *few)[-2].split(" of ")[1] == plain.split(" of ")[1]
    shown = [np.asarray(Image.open(path)) for path in (tmp_path / "run" / "pictures").glob("*.png")]
    assert any((picture == (0xF5, 0xC5, 0x18)).all(axis=2).any() for picture in shown)


def test_bad_input_is_one_line(config_file: str, models: Path, tmp_path: Path, run):
    no_image = tmp_path / "x.png"
    no_image.write_text("hello")
    classify = ["method=classify", f"classifier.name=keras_file:{models / 'classifier.keras'}"]
    means = ["classifier.mean=[0,0,0]", "classifier.std=[1,1,1]"]
    for argv, expected in (
        (["search", config_file, "nowhere.png"], "nowhere.png does not exist"),
        (["search", config_file, str(no_image)], "x.png: not a"),
        (["search", config_file, "method=magic"], "method: expected embedder, features or classify, got 'magic'"),
        (["search", config_file, "method=embedder"], "run `guie similar train` first"),
        (["search", config_file, "index=[]"], "index: expected at least one source"),
        (["search", config_file, *classify], "classifier.mean"),
        (["search", config_file, *classify, *means], "label map"),
        (["search", config_file, "method=classify", "classifier.name=x"], "classifier.name: expected class_means"),
        (["search", config_file, "crop.detector=no_such"], "crop.detector 'no_such'"),
        (["train", config_file, "triplets.mining=easy"], "triplets.mining: expected semihard or hard, got 'easy'"),
        (["train", config_file, "triplets.sets=[]"], "triplets.sets: expected at least one set"),
        (["grow", config_file], "expected train or search"),
        (["search"], "expected a CONFIG"),
    ):
        lines = run(*argv, code=2)
        assert expected in lines[-1] and len(lines) == 1, lines
