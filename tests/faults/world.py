"""A tiny world that `guie run` reads and writes: images, files of weights, shards, a config; and what a run left in it.

Everything runs in this process by the real `main`: one whole run takes about a second.
"""

import contextlib
import copy
import gc
import hashlib
import io
import json
import shutil
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml
from PIL import Image
from safetensors import safe_open
from tensorflow.core.protobuf import saved_model_pb2

from pipeline import cli
from pipeline.models import backbones, catalogue
from pipeline.training import checkpoints

CLASSES = {"own": 8, "more": 6}
IMAGES = 5  # of a class; its last class has two
VIT = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
VALUES = {
    "name": "edited",
    "run_dir": "{world}/run",
    "data_root": "{world}",
    "records": {
        "sources": [{"layout": "folder", "name": name, "root": f"images/{name}"} for name in CLASSES],
        "split": {"by": "class", "train": 0.5, "validation": 0.25, "test": 0.25},
        "images_per_shard": 16,
        "image_size_px": 24,
        "workers": 1,
    },
    "encoder": {"name": "keras_file:{world}/tiny.keras", "image_size_px": 16, "mean": [0.5] * 3, "std": [0.25] * 3},
    "embedder": {"embedding_dim": 8},
    "train": {
        "log_every_steps": 2,
        "checkpoint_every_steps": 2,
        "phases": [{"name": "head", "trainable": "head", "epochs": 1, "batch_size": 8}],
    },
    "score": {"references": ["raw_pixels"]},
}
Found = dict[str, dict[str, Any]]  # part of the results → name → what stands there


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    error: str


@dataclass
class World:
    """A folder, and the config whose `{world}` is that folder."""

    folder: Path
    values: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(VALUES))

    @property
    def run(self) -> Path:
        return Path(self.placed(self.values["run_dir"]))

    def placed(self, text: str) -> str:
        return text.replace("{world}", str(self.folder))

    def set(self, key: str, value: Any) -> None:
        """Sets a dotted key of the config."""
        *sections, last = key.split(".")
        place: Any = self.values
        for name in sections:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        place[int(last) if isinstance(place, list) else last] = value

    def copied(self, folder: Path, without_run: bool = False) -> "World":
        """The same in another folder, with all times of files."""
        left_out = [self.run.name] if without_run else []
        shutil.copytree(self.folder, folder, ignore=lambda at, _: left_out if Path(at) == self.folder else [])
        return World(folder, copy.deepcopy(self.values))

    def state(self) -> str:
        """What a fresh run depends on, wherever it lies."""
        found = hashlib.sha256(yaml.safe_dump(self.values).encode())
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_relative_to(self.run) and path != self.folder / "config.yaml":
                found.update(path.relative_to(self.folder).as_posix().encode() + digest(path).encode())
        return found.hexdigest()[:16]

    def guie(self, *more: str, command: str = "run") -> Ended:
        config = self.folder / "config.yaml"
        config.write_text(self.placed(yaml.safe_dump(self.values)))
        keras.config.set_dtype_policy("float32")  # as a new process
        out, error = io.StringIO(), io.StringIO()
        gc.freeze()  # else most of the time goes into looking through what TensorFlow keeps
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = cli.main([command, str(config), *more])
        return Ended(code, out.getvalue(), error.getvalue())


def made(folder: Path) -> World:
    """Images, a second tree of the same names, encoders' files, images to score, shards, a checkpoint to start from."""
    world = World(folder)
    for number, tree in enumerate((".", "other")):
        draw_tree(folder / tree / "images", CLASSES, seed=number)
        draw_tree(folder / tree / "scored", {"index": 3, "queries": 3}, seed=2)
    draw_tree(folder / "spare", {"third": 4}, seed=3)
    for number, name in enumerate(("tiny", "tinier")):
        save_network(folder / f"{name}.keras", number)
        save_vit(folder / f"{name}.weights.h5", number)
    (folder / "merges.csv").write_text("source,class,into_source,into_class\nmore,c1,own,c1\n")
    for root, name in (("{world}", "shards"), ("{world}/other", "other/shards")):
        elsewhere = World(folder)
        elsewhere.values |= {"data_root": root, "run_dir": "{world}/made"}
        assert elsewhere.guie(command="tfrecords").code == 0
        (folder / "made/records").rename(folder / name)
        shutil.rmtree(folder / name / ".build")
    elsewhere = World(folder)
    elsewhere.values |= {"run_dir": "{world}/made"}
    assert elsewhere.guie().code == 0
    shutil.copy(checkpoints.newest(folder / "made/checkpoints"), folder / "start.safetensors")
    shutil.rmtree(folder / "made")
    return world


def draw_tree(folder: Path, classes: dict[str, int], seed: int) -> None:
    """JPEGs of 32 px below `folder`/<set>/c<n>/, each class of one colour and much noise."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        for number in range(count):
            colour = rng.integers(112, 144, 3)
            for each in range(2 if number == count - 1 else IMAGES):
                draw(folder / name / f"c{number}" / f"{each}.jpg", rng, colour)


def draw(path: Path, rng: np.random.Generator, colour: Any = 128, quality: int = 95) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(rng.normal(colour, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=quality)


def save_network(path: Path, seed: int) -> None:
    inputs = keras.Input((None, None, 3))
    start = keras.initializers.GlorotUniform(seed)
    x = keras.layers.Conv2D(8, 4, strides=4, activation="relu", kernel_initializer=start)(inputs)
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(path)


def save_vit(path: Path, seed: int) -> None:
    """Weights of `VIT` as KerasHub names them."""
    keras.utils.set_random_seed(seed)
    entry = catalogue.find("clip_vit_b_32", VIT)
    backbone = backbones.make(entry, entry.image_size_px)
    backbones.hub_variables(entry, backbone)  # sets the ids of positions
    backbone.save_weights(path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def results(world: World) -> Found:
    """What a run made, by part, down the chain; nothing of where it lies, when it ran and how fast."""
    run = world.run

    def text(path: Path) -> list[str]:
        return path.read_text().replace(str(run), "{run_dir}").replace(str(world.folder), "{world}").splitlines()

    records = {path.name: digest(path) for path in run.glob("records/*") if path.is_file()}
    metrics = json.loads((run / "metrics.json").read_text())
    cards = {name: text(run / name) for name in named(run, "export/model_card.md")}
    return {
        "records": records,
        "weights": weights(run),
        "losses": {"rows": losses(run)},
        "export": exported(run),
        "score": {key: value for key, value in metrics.items() if key not in ("asked", "embedder")},
        "sheet": {"contact_sheet.jpg": digest(run / "contact_sheet.jpg")},
        "config": {"config.yaml": text(run / "config.yaml")},
        "report": {
            "report.html": without_stages(text(run / "report.html")),
            **{name: [line for line in card if not line.startswith("- s")] for name, card in cards.items()},  # digests
        },
    }


def without_stages(page: list[str]) -> list[str]:
    """A report without what its stages took: that is of the run that made them."""
    first = next((at for at, line in enumerate(page) if line == '<section id="stages">'), len(page))
    last = next((at for at, line in enumerate(page) if at > first and line == "</section>"), len(page))
    return [line for line in page[:first] + page[last:] if 'href="#stages"' not in line]


def named(run: Path, name: str) -> list[str]:
    """A file of the run and those of its seeds, where they are."""
    return sorted(path.relative_to(run).as_posix() for path in [*run.glob(name), *run.glob(f"seed-*/{name}")])


def weights(run: Path) -> dict[str, str]:
    """The newest checkpoints' tensors, of the run and of its seeds."""
    found = {}
    for name in named(run, "checkpoints"):
        newest = checkpoints.newest(run / name)
        found[name] = newest and newest.name
        if newest is None:
            continue
        with safe_open(newest, framework="numpy") as file:
            for tensor in file.keys():  # noqa: SIM118, it is no dict
                content = file.get_tensor(tensor)
                found[f"{name} {tensor}"] = hashlib.sha256(content.tobytes()).hexdigest()[:16]
    return found


def losses(run: Path) -> list[tuple]:
    lines = [line for name in named(run, "metrics.jsonl") for line in (run / name).read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    return [(row["phase"], row["step"], row["loss"], row.get("validation/mP@5")) for row in rows]


def exported(run: Path) -> dict[str, Any]:
    """Which files there are, and what they hold that does not differ from one export to the next."""
    found: dict[str, Any] = {}
    for name in named(run, "export"):
        folder, saved = (run / name).parent, run / name / "saved_model"
        held = {path.relative_to(saved).as_posix(): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
        with zipfile.ZipFile(folder / "submission.zip") as archive:
            zipped = {each.filename: archive.read(each) for each in archive.infolist() if not each.is_dir()}
        facts = json.loads((folder / "export/fingerprint.json").read_text())
        visible = [path.relative_to(folder).as_posix() for path in folder.glob("export/**/*") if path.is_file()]
        found[name] = {
            "files": sorted(each for each in visible if "/." not in each),
            "the zip is the folder": zipped == held,
            "variables": {each: hashlib.sha256(held[each]).hexdigest() for each in held if each.startswith("v")},
            "ops": ops(held.get("saved_model.pb", b"")),
            "facts": {key: facts.get(key) for key in ("weights_sha256", "embedding_dim", "preprocess", "formats")},
        }
    return found


def ops(graph: bytes) -> Counter:
    """Ops of a SavedModel, counted: names of functions differ between two exports of the same."""
    found = saved_model_pb2.SavedModel.FromString(graph)
    library = [each.node_def for meta in found.meta_graphs for each in meta.graph_def.library.function]
    nodes = [*(meta.graph_def.node for meta in found.meta_graphs), *library]
    return Counter(node.op for each in nodes for node in each)


def differing(one: Found, other: Found) -> list[str]:
    """The parts that differ, in the order of the chain."""
    return [part for part in one if one[part] != other[part]]


def shown(one: Found, other: Found) -> str:
    """What differs, for the line of a test that fails."""
    lines = []
    for part in differing(one, other):
        names = [name for name in one[part] | other[part] if one[part].get(name) != other[part].get(name)]
        for name in names[:3]:
            pair = one[part].get(name), other[part].get(name)
            if all(isinstance(each, list) for each in pair):
                pair = next(lines for lines in zip_longest(*pair) if lines[0] != lines[1])
            elif all(isinstance(each, dict) for each in pair):
                pair = tuple({key: each[key] for key in each if pair[0].get(key) != pair[1].get(key)} for each in pair)
            lines.append(f"{part}, {name}: {str(pair[0])[:200]} | {str(pair[1])[:200]}")
    return "\n".join(lines)
