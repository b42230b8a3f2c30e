"""Hashes of every image of a side: of its bytes, of its pixels, and perceptual ones, kept on disk.

`hashes/<side>/<NNNNN>.npz` holds those of CHUNK images and says what files it was made of. A chunk of the same files is
not made again, so a run that was killed goes on, and a second benchmark costs only its own images.
"""

import hashlib
import json
import re
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import marks
from pipeline.console import Progress
from pipeline.errors import reason
from pipeline.files import fingerprint, read_arrays, write_arrays
from pipeline.guards import machine
from pipeline.leaks.sides import Side
from tfrecords import perceptual, pixels
from tfrecords.listing.items import as_text
from tfrecords.processes import in_processes
from tfrecords.sources import Item

FORMAT = 1  # raise it with any change of a hash
CHUNK = 512  # images of a file, and of a worker's task
DIGEST_BYTES = 16
HASHES = {
    "content": DIGEST_BYTES,  # of the file's bytes
    "pixels": DIGEST_BYTES,  # of size and values of the decoded pixels
    "upright": perceptual.BYTES,  # perceptual; 0 where the picture is flat
    "mirrored": perceptual.BYTES,  # of the mirror image
}


class Task(NamedTuple):
    number: int
    items: list[Item]


class Hashes(NamedTuple):
    """Of a side's N images, in order; all 0 where one cannot be read."""

    content: np.ndarray  # uint8 [N, 16]
    pixels: np.ndarray  # uint8 [N, 16]
    upright: np.ndarray  # uint8 [N, 32]
    mirrored: np.ndarray  # uint8 [N, 32]
    rejects: dict[int, str]  # row → why it cannot be read


def hash_side(side: Side, folder: Path, workers: int, what: str) -> Hashes:
    """Makes the chunks that `folder` does not hold yet, in parallel, and reads all.

    Raises BadInput: something killed a worker. OSError: the disk is full, memory is short.
    """
    rows = range(0, len(side.items), CHUNK)
    tasks = [Task(number, side.items[start : start + CHUNK]) for number, start in enumerate(rows)]
    for path in folder.glob("*.npz"):
        if re.fullmatch(r"\d+\.npz", path.name) and int(path.stem) >= len(tasks):
            path.unlink()  # of a longer list
    todo = [task for task in tasks if read(folder, task) is None]
    missing = sum(len(task.items) for task in todo)
    if missing < len(side.items):
        print(f"leaks: {what}: {len(side.items) - missing:,} of {len(side.items):,} images are hashed", flush=True)
    progress = Progress(f"leaks: {what}", len(side.items), "images", done=len(side.items) - missing)
    if todo:  # else no process is started
        with closing(in_processes(partial(make, folder), todo, workers)) as made:
            for task, _ in made:
                progress.add(len(task.items))
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in HASHES}
    rejects: dict[int, str] = {}
    for task in tasks:
        found = read(folder, task) or _hashed(task)  # the files changed meanwhile
        for name, values in arrays.items():
            values.append(found[name])
        rejects |= {task.number * CHUNK + int(row): why for row, why in json.loads(str(found["rejects"])).items()}
    empty = {name: np.zeros((0, width), np.uint8) for name, width in HASHES.items()}
    return Hashes(**{name: np.concatenate([empty[name], *arrays[name]]) for name in HASHES}, rejects=rejects)


def read(folder: Path, task: Task) -> dict[str, np.ndarray] | None:
    """A chunk's arrays; None where it is not there, damaged, or of other files."""
    found = read_arrays(_path(folder, task))
    if found is None or set(found) != {*HASHES, "of", "rejects"}:
        return None
    whole = all(found[name].shape == (len(task.items), width) for name, width in HASHES.items())
    return found if whole and str(found["of"]) == _of(task) else None


def make(folder: Path, task: Task) -> None:
    """Hashes a chunk in a worker, and writes it whole."""
    write_arrays(_path(folder, task), _hashed(task))


def _path(folder: Path, task: Task) -> Path:
    return folder / f"{task.number:05d}.npz"


def _hashed(task: Task) -> dict[str, np.ndarray]:
    of = _of(task)  # before the images are read
    found = {name: np.zeros((len(task.items), width), np.uint8) for name, width in HASHES.items()}
    rejects: dict[int, str] = {}
    for row, item in enumerate(task.items):
        try:
            data = item.read()
            image = pixels.read(data)
        except (OSError, ValueError) as error:
            if machine.refuses(error):
                raise  # the image may be whole
            rejects[row] = as_text(getattr(error, "strerror", None) or reason(error, most=1000))
            continue
        grey = perceptual.thumbnail(image)
        found["content"][row] = _digest(data)
        found["pixels"][row] = _digest(repr(image.shape).encode(), image.tobytes())
        found["upright"][row] = perceptual.perceptual_hash(grey)
        found["mirrored"][row] = perceptual.perceptual_hash(grey[:, ::-1])
    return {**found, "of": np.array(of), "rejects": np.array(json.dumps(rejects))}


def _of(task: Task) -> str:
    """What a chunk was made of: its images, and the stats of the files behind them."""
    return fingerprint([FORMAT, [item.key for item in task.items], marks.stat_digest(i.file for i in task.items)])


def _digest(*parts: bytes) -> np.ndarray:
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        hasher.update(part)
    return np.frombuffer(hasher.digest(), np.uint8)
