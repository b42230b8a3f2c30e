"""Kinds of edits between two `guie run`: what an edit is, and the hands that make it."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.world import World, draw

Edit = Callable[[World, random.Random], None]


@dataclass(frozen=True)
class Kind:
    """An edit, and what is known of it.

    `changes`: the first part of a fresh run's results that the edit changes, down the chain; "" where it changes what
    was made, which a rerun must mend. `start`: keys of the config before the edit. `costs`: False where neither shards
    nor checkpoints nor the export may be made again. `apart`: parts that are of the run that made them.
    """

    edit: Edit
    changes: str = ""
    start: dict[str, Any] = field(default_factory=dict)
    costs: bool = True
    apart: tuple[str, ...] = ()


def sets(key: str, value: Any) -> Edit:
    return lambda world, _: world.set(key, value)


def appends(key: str, value: Any) -> Edit:
    def edit(world: World, _: random.Random) -> None:
        *sections, last = key.split(".")
        held = world.values
        for name in sections:
            held = held[name]
        world.set(key, [*held[last], value])

    return edit


def some(world: World, pattern: str, chance: random.Random) -> list[Path]:
    """One of the files or folders below the world's folder; none where an earlier edit took them."""
    found = sorted(world.folder.glob(pattern))
    return [chance.choice(found)] if found else []


def removes(pattern: str) -> Edit:
    def edit(world: World, chance: random.Random) -> None:
        for path in some(world, pattern, chance):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def rewrites(pattern: str, change: Callable[[bytes], bytes], keeps_time: bool = False) -> Edit:
    """Writes a file in place: the same inode, other bytes."""

    def edit(world: World, chance: random.Random) -> None:
        for path in some(world, pattern, chance):
            before = path.stat()
            path.write_bytes(change(path.read_bytes()))
            if keeps_time:
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return edit


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """One bit of the byte in the middle."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def reworded(key: str, value: Any) -> Callable[[bytes], bytes]:
    """A value of a JSON file."""
    return lambda content: json.dumps({**json.loads(content), key: value}, indent=2).encode()


def copies(source: str, target: str, keeps_time: bool = False) -> Edit:
    """A file's bytes, or a folder's files, over others of the same names, in place."""

    def edit(world: World, _: random.Random) -> None:
        pairs = [(world.folder / source, world.folder / target)]
        if pairs[0][0].is_dir():
            pairs = [(path, pairs[0][1] / path.name) for path in sorted(pairs[0][0].iterdir()) if path.is_file()]
        for path, onto in pairs:
            before = onto.stat() if onto.exists() else path.stat()
            onto.write_bytes(path.read_bytes())
            if keeps_time:
                os.utime(onto, ns=(before.st_atime_ns, before.st_mtime_ns))

    return edit


def draws(name: str) -> Edit:
    """A new image below a folder that may be new, too."""
    return lambda world, chance: draw(world.folder / name, np.random.default_rng(chance.randrange(2**32)))


def redraws(pattern: str, keeps_time: bool = False) -> Edit:
    """Another picture in the place of an image: the same name and size in bytes."""

    def edit(world: World, chance: random.Random) -> None:
        for path in some(world, pattern, chance):
            before = path.stat()
            other = path.with_name("other.jpg")
            draw(other, np.random.default_rng(chance.randrange(2**32)), quality=60)
            path.write_bytes(other.read_bytes().ljust(before.st_size, b"\0"))
            other.unlink()
            if keeps_time:
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert path.stat().st_size == before.st_size

    return edit


def moves(pattern: str, place: Callable[[Path], Path]) -> Edit:
    def edit(world: World, chance: random.Random) -> None:
        for path in some(world, pattern, chance):
            place(path).parent.mkdir(parents=True, exist_ok=True)
            path.rename(place(path))

    return edit


def touches(pattern: str) -> Edit:
    """Other times, the same bytes."""

    def edit(world: World, chance: random.Random) -> None:
        for path in some(world, pattern, chance):
            os.utime(path)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(world: World, chance: random.Random) -> None:
        for each in edits:
            each(world, chance)

    return edit
