"""Zero-shot: the classifier is the slow definition's, nothing is done twice, bad images and configs are named."""

import csv
import importlib.util
import io
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import cli, console
from pipeline.config import ImageTextModel, load
from pipeline.data.preprocessing import Preprocess, prepare, resize_to_square
from pipeline.errors import BadInput
from pipeline.files import fingerprint
from pipeline.models.dual_encoder import class_embeddings
from pipeline.models.text import prompts
from pipeline.zero_shot import command, confusion
from tests.models.tiny_dual_encoder import clip_tiny

COLOURS = {"red": (220, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 230)}
CONFIG = """
run_dir: {0}/run
source: {{layout: folder, name: colours, root: {0}/images}}
templates: {0}/templates.txt
images_per_file: 4
batch_size: 3
models:
  - encoder: {{name: clip_tiny}}
    label: first
  - encoder: {{name: clip_tiny}}
    seed: 1
    label: second one
"""
TEMPLATES = ["a photo of {}.", "{}, painted", "the colour {}"]


def picture(colour: tuple[int, int, int], width: int, height: int) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(width).integers(-9, 10, (height, width, 3))
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class ColourEncoder:
    """A DualEncoder that knows colours: what it should answer is known without it."""

    trained = True
    preprocess = Preprocess(64, (0.5,) * 3, (0.5,) * 3)

    def __init__(self, model: ImageTextModel):
        self.text = type("Text", (), {"name": "colours"})
        self.identity = f"colours {model.seed}"
        self.calls = {"images": 0, "texts": 0}

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        self.calls["images"] += len(images)
        mean = images.astype(np.float32).mean(axis=(1, 2))
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def encode_texts(self, texts: list[str], batch_size: int) -> np.ndarray:
        self.calls["texts"] += len(texts)
        named = [next(c for name, c in COLOURS.items() if name in text) for text in texts]
        rows = np.array(named, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path):
    """Eleven images: one that cannot be read, two greens among the reds."""
    for name, colour in COLOURS.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(picture(colour, 40 + number, 50))
    (tmp_path / "images" / "red" / "wrong_1.png").write_bytes(picture(COLOURS["green"], 60, 40))
    (tmp_path / "images" / "blue" / "broken.png").write_bytes(b"not an image")
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    (tmp_path / "config.yaml").write_text(CONFIG.format(tmp_path))
    return tmp_path


@pytest.fixture
def encoders(monkeypatch):
    """The encoders that the command has made, in order."""
    made: list[ColourEncoder] = []

    def build(model):
        made.append(ColourEncoder(model))
        return made[-1]

    monkeypatch.setattr(command, "DualEncoder", build)
    return made


def run(folder: Path, *arguments: str, step: str = "") -> int:
    return cli.main(["zero-shot", *([step] if step else []), str(folder / "config.yaml"), *arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_tables_and_pictures_are_what_the_images_say(folder, encoders, capsys):
    assert run(folder) == 0
    result = json.loads((folder / "run" / "zero_shot.json").read_text())
    assert [row["model"] for row in result["models"]] == ["first", "second one"]
    for row in result["models"]:
        assert (row["images"], row["rejected"], row["classes"]) == (10, 1, 3)
        assert row["top-1"] == 0.9 and row["top-5"] == 1.0
    classes = rows_of(folder / "run" / "classes-second_one.csv")
    assert [(row["class"], row["images"], row["top-1"]) for row in classes] == [
        ("blue", "3", "1.0000"),
        ("green", "3", "1.0000"),
        ("red", "4", "0.7500"),
    ]
    assert (classes[2]["most taken for"], classes[2]["times"]) == ("green", "1")
    assert [Path(row["key"]).name for row in rows_of(folder / "run" / "rejects.csv")] == ["broken.png"]
    with Image.open(folder / "run" / "confusion-first.png") as image:
        assert image.width > 300
    lines = capsys.readouterr().out.splitlines()
    assert any("90.00%" in line and line.startswith("first") for line in lines)
    assert lines[-1] == f"zero-shot: 2 model(s), 10 images: {folder / 'run' / 'zero_shot.json'}"


def test_what_is_done_is_not_done_again(folder, encoders):
    assert run(folder) == 0
    first = json.loads((folder / "run" / "zero_shot.json").read_text())
    assert encoders[0].calls == {"images": 10, "texts": 9}
    parts = {path: path.stat().st_mtime_ns for path in (folder / "run" / "images").glob("*/*")}
    assert len(parts) == 3  # ten images, four a part
    lost = sorted(parts)[1]
    shutil.rmtree(lost)  # as a kill between two parts leaves it
    assert run(folder, step="evaluate") == 2
    assert run(folder) == 0
    remade = {path for path, date in parts.items() if path.stat().st_mtime_ns != date}
    assert remade == {lost} and set((folder / "run" / "images").glob("*/*")) == set(parts)
    assert encoders[-1].calls == {"images": 0, "texts": 0}
    second = json.loads((folder / "run" / "zero_shot.json").read_text())
    for row, before in zip(second["models"], first["models"], strict=True):
        assert row["images/s"] is None and before["images/s"] > 0 and row["top-1"] == before["top-1"]


@pytest.mark.faults("stale results")
def test_other_images_of_the_same_names_are_other_images_and_a_changed_one_alone_is_computed(folder, encoders):
    assert run(folder) == 0
    shutil.copytree(folder / "images", folder / "others")
    for number, path in enumerate((folder / "others").glob("red/*.png")):
        path.write_bytes(picture(COLOURS["blue"], 30 + number, 50))
    assert run(folder, f"source.root={folder / 'others'}") == 0
    changed = json.loads((folder / "run" / "zero_shot.json").read_text())["models"][0]
    assert (changed["images"], changed["top-1"]) == (10, 0.6)  # all reds are blue now
    assert encoders[-1].calls == {"images": 4, "texts": 0}

    assert run(folder, step="evaluate") == 0  # the first images are still there
    before = set((folder / "run" / "images").glob("*/*"))
    path = folder / "images" / "red" / "wrong_1.png"
    date = path.stat().st_mtime_ns
    path.write_bytes(picture(COLOURS["red"], 61, 40))
    os.utime(path, ns=(date, date))  # the bytes tell, not the date
    assert run(folder, step="evaluate") == 2
    assert run(folder) == 0
    (added,) = set((folder / "run" / "images").glob("*/*")) - before
    assert len(np.load(added / "images.npy")) == 1
    assert json.loads((folder / "run" / "zero_shot.json").read_text())["models"][0]["top-1"] == 1.0
    assert encoders[-1].calls == {"images": 1, "texts": 0}


def test_rejected_images_are_tried_again(folder, encoders):
    whole, path = picture(COLOURS["blue"], 44, 50), folder / "images" / "blue" / "broken.png"
    path.write_bytes(bytes(len(whole)))
    assert run(folder) == 0
    path.write_bytes(whole)
    assert run(folder, step="evaluate") == 2
    assert run(folder) == 0
    row = json.loads((folder / "run" / "zero_shot.json").read_text())["models"][1]
    assert (row["images"], row["rejected"]) == (11, 0)
    assert rows_of(folder / "run" / "rejects.csv") == []
    assert encoders[-1].calls == {"images": 1, "texts": 0}


def test_models_of_one_size_share_their_images_and_another_size_has_its_own(folder, encoders):
    assert run(folder, "models.1.encoder.image_size_px=48", step="data-prep") == 0
    sides = {np.load(path).shape[1:] for path in (folder / "run" / "images").rglob("images.npy")}
    assert sides == {(64, 64, 3), (48, 48, 3)}
    assert len(list((folder / "run" / "images").iterdir())) == 2
    assert run(folder) == 0
    assert run(folder, "fit=squash") == 0
    assert len(list((folder / "run" / "images").iterdir())) == 3
    assert encoders[-1].calls == {"images": 10, "texts": 0}  # other pixels, other predictions


def test_predictions_are_those_of_the_encoder_s_own_scaling(folder, encoders, monkeypatch):
    assert run(folder) == 0
    monkeypatch.setattr(ColourEncoder, "preprocess", Preprocess(64, (0.4,) * 3, (0.5,) * 3))
    assert run(folder) == 0
    assert encoders[-1].calls == {"images": 10, "texts": 0}


def test_accuracy_so_far_stands_in_the_progress_note(folder, encoders, monkeypatch):
    notes = []

    class Recorded(console.Progress):
        def add(self, count: int, note: str = "") -> None:
            notes.append((count, note))

    monkeypatch.setattr(console, "Progress", Recorded)
    assert run(folder) == 0
    parts = [(4, "top-1 so far 100.0%"), (4, "top-1 so far 100.0%"), (2, "top-1 so far 90.0%")]
    assert notes == parts * 2  # of two models; the wrong one is the last image


def test_images_none_of_which_can_be_read_are_one_line(folder, encoders, capsys):
    for path in (folder / "images").rglob("*.png"):
        path.write_bytes(b"not an image")
    assert run(folder) == 2
    assert "none of the 11 images could be read" in capsys.readouterr().err
    assert len(rows_of(folder / "run" / "rejects.csv")) == 11


def test_drawn_images_need_no_data_root(folder, encoders):
    drawn = "source={layout: drawn, name: d, root: '', options: {classes: 2, images_per_class: 2}}"
    assert run(folder, drawn, "data_root=''", step="data-prep") == 0


def test_steps_run_alone_and_evaluate_asks_for_data_prep(folder, encoders, capsys):
    assert run(folder, step="evaluate") == 2
    assert "data-prep" in capsys.readouterr().err
    assert run(folder, step="data-prep") == 0
    assert not encoders and not (folder / "run" / "zero_shot.json").exists()
    assert run(folder, step="evaluate") == 0
    assert (folder / "run" / "zero_shot.json").exists()


def test_first_images_are_a_part_and_hashed_order_spreads_them(folder, encoders):
    assert run(folder, "first=4") == 0
    listed = rows_of(folder / "run" / "classes-first.csv")
    assert [row["images"] for row in listed] == ["3", "0", "0"]  # blue's four, one of them broken
    assert run(folder, "first=6", "order=hashed") == 0
    hashed = rows_of(folder / "run" / "classes-first.csv")
    assert sum(int(row["images"]) for row in hashed) in (5, 6)
    assert sum(int(row["images"]) > 0 for row in hashed) >= 2
    assert listed[1]["top-1"] == ""  # a class without images has no accuracy


def test_other_templates_and_names_make_other_class_embeddings(folder, encoders):
    assert run(folder) == 0
    assert run(folder, "templates=one") == 0
    assert encoders[-1].calls == {"images": 10, "texts": 3}
    (folder / "names.csv").write_text("name,class\ndark red,red\nsky blue,blue\nlight green,green\n")
    assert run(folder, f"class_names={folder / 'names.csv'}") == 0
    assert encoders[-1].calls == {"images": 10, "texts": 9}
    assert [row["name"] for row in rows_of(folder / "run" / "classes-first.csv")] == [
        "sky blue",
        "light green",
        "dark red",
    ]


def test_classifier_is_the_slow_definition(folder):
    """A real encoder, the cache and batches against one image and one prompt at a time."""
    config = load(command.ZeroShot, folder / "config.yaml", [f"run_dir={folder / 'run'}", "step=all"])
    task = command.list_task(config)
    images = command.data_prep(config, task.items)[0]
    encoder = clip_tiny()
    fast = class_embeddings(encoder, task.names, TEMPLATES, folder / "kept", 4)
    kept = class_embeddings(encoder, task.names, TEMPLATES, folder / "kept", 4)
    assert (fast == kept).all()
    slow = []
    for name in task.names:
        total = np.zeros(64)
        for template in TEMPLATES:
            vector = encoder.text.model(encoder.text.tokenize([template.replace("{}", name)])).numpy()[0]
            total += vector / np.sqrt((vector**2).sum())
        slow.append(total / np.sqrt((total**2).sum()))
    np.testing.assert_allclose(fast, slow, atol=1e-5)
    vectors = encoder.encode_images(images.cache.get(images.found.keys)["images"])
    assert len(vectors) == 10
    for item, row in zip([item for item in task.items if "broken" not in item.key], vectors, strict=True):
        with Image.open(io.BytesIO(item.read())) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = np.asarray(image.crop((left, top, left + side, top + side)))
        vector = encoder.image.model(prepare(tf.constant(square), encoder.preprocess)[None]).numpy()[0]
        # Cached pixels are whole numbers.
        np.testing.assert_allclose(row, vector / np.linalg.norm(vector), atol=2e-2)


def test_resizing_keeps_the_central_square_or_all_of_it():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    preprocess = Preprocess(8, (0.5,) * 3, (0.5,) * 3)
    assert resize_to_square(image, replace(preprocess, fit="crop"))[:, 2:-2].min() > 190
    squashed = resize_to_square(image, preprocess)
    assert squashed[:, 0].max() < 20 and squashed[:, 4].min() > 180 and squashed.dtype == np.uint8


def test_confusion_counts_each_pair():
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 5, 200), random.integers(0, 4, 200)
    slow = [[sum((labels == t) & (predicted == p)) for p in range(5)] for t in range(5)]
    counts = confusion.matrix(labels, predicted, 5)
    assert counts.tolist() == slow
    assert confusion.most_confused(np.array([[5, 1, 2], [0, 9, 0], [3, 3, 0]])) == [2, None, 0]


@pytest.mark.parametrize("classes", [2, 50, 61, 1000])
def test_confusion_picture_shows_its_darkest_cells_where_they_are(classes):
    counts = np.zeros((classes, classes), np.int64)
    counts[0, classes - 1] = 7
    image = np.asarray(confusion.picture(counts, [f"class {n}" for n in range(classes)], "title"))
    cell = max(1, confusion.PICTURE_PX // classes)
    dark = (image == np.array([16, 52, 110])).all(axis=2)
    dark[:, -(90 - 20) :] = False  # the scale beside the matrix
    assert dark.sum() == cell * cell


def test_eighty_templates_are_those_of_the_paper():
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("needs open_clip's list, the extra clip")
    listed = Path(package.origin).with_name("zero_shot_metadata.py").read_text().split("SIMPLE_IMAGENET_TEMPLATES")[0]
    theirs = [line.split("f'")[1].split("'")[0].replace("{c}", "{}") for line in listed.splitlines() if "f'" in line]
    assert prompts.templates("80") == theirs and len(set(theirs)) == 80


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "empty"), ("a photo\n", "exactly one"), ("{} and {}\n", "exactly one"), (None, "does not exist")],
)
def test_unusable_templates_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t").write_text(content)
    with pytest.raises(BadInput, match=message):
        prompts.templates(str(tmp_path / "t"))


@pytest.mark.parametrize("content", ["one\ntwo\n", "class,name\na,x\n", "class,name\na,x\nb,y\nc,\n"])
def test_class_names_that_do_not_fit_are_named(tmp_path, content):
    (tmp_path / "n").write_text(content)
    with pytest.raises(BadInput, match="name"):
        prompts.class_names(tmp_path / "n", ["a", "b", "c"])


def test_class_names_come_by_line_or_by_class(tmp_path):
    (tmp_path / "n").write_text("\ufeffeins\nzwei, drei\n\n")
    assert prompts.class_names(tmp_path / "n", ["a", "b"]) == ["eins", "zwei, drei"]
    (tmp_path / "n").write_text('class,name\nb,"zwei, drei"\na,eins\n')
    assert prompts.class_names(tmp_path / "n", ["a", "b"]) == ["eins", "zwei, drei"]


@pytest.mark.parametrize(
    "override",
    ["step=both", "order=random", "fit=pad", "batch_size=0", "first=-1", "models=[]", "models.1.label=first",
     "templates=/none", "source.layout=foldr", "source.root=/none/here", "models.0.encoder.name=clip_tinny"],
)  # fmt: skip
def test_unusable_configs_end_with_code_2(folder, override, capsys):
    assert run(folder, override) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["zero_shot_cub200", "zero_shot_imagenet"])
def test_configs_of_the_project_load(name):
    config = load(command.ZeroShot, Path(__file__).parents[2] / "configs" / f"{name}.yaml", [])
    models = [asdict(replace(model, label="")) for model in config.models]
    assert len({fingerprint(model) for model in models}) == len(models)


@pytest.mark.parametrize(("name", "layout", "options"), [
    ("zero_shot_cub200", "CUB_200_2011", "test"), ("zero_shot_imagenet", "imagenet", "val")
])  # fmt: skip
def test_public_layouts_are_listed_with_names_to_be_spoken(shared, name, layout, options):
    path = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    config = load(command.ZeroShot, path, [f"data_root={shared / 'data'}", "first=10"])
    task = command.list_task(config)
    assert len(task.items) == 10 and len(task.names) in (50, 100)
    assert not any("_" in each or "," in each or each[0].isdigit() for each in task.names)
