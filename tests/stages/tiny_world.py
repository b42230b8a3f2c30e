"""Images, a network and a config of which `guie run` makes a whole run folder in seconds."""

import copy
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import yaml

from pipeline import cli
from tests.faults.world import VALUES, draw_tree, save_network

CONFIG = copy.deepcopy(VALUES)
CONFIG["records"] |= {"sources": [{"layout": "folder", "name": "own", "root": "images"}], "images_per_shard": 8}


@dataclass(frozen=True)
class World:
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    def guie(self, command: str, *more: str) -> int:
        keras.config.set_dtype_policy("float32")  # as a new process
        return cli.main([command, str(self.config), *more])

    def copied(self, folder: Path) -> "World":
        """Another world of the same images and run, with new times of changes."""
        shutil.copytree(self.folder, folder)
        copied = World(folder)
        copied.write_config()
        return copied

    def write_config(self) -> None:
        self.config.write_text(yaml.safe_dump(CONFIG).replace("{world}", str(self.folder)))

    def hashes(self, pattern: str) -> dict[str, str]:
        files = [path for path in self.run.glob(pattern) if path.is_file() and ".build" not in path.parts]
        return {str(path.relative_to(self.run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made(folder: Path) -> World:
    world = World(folder)
    draw_tree(folder, {"images": 8}, seed=0)
    save_network(folder / "tiny.keras", 1)
    world.write_config()
    return world
