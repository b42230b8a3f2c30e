"""What a rerun after an edit must be: a fresh run's results, or one line that refuses and loses nothing."""

import hashlib
import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.edits import Kind
from tests.faults.world import Ended, Found, World, differing, digest, results, shown

SEED = os.environ.get("GUIE_SEED", "7")
WRITTEN = ("config.yaml", "model_card.md")  # by every run
KEPT = ".safetensors"  # no byte of a checkpoint changes where a rerun is refused
COSTLY = ("records/*.tfrec", "checkpoints/*.safetensors", "export/saved_model/**/*", "submission.zip")


def eighth(kinds: Iterable[str]) -> list:
    """All kinds as parameters; seven of eight for `make faults` and `make test-all` alone."""
    return [pytest.param(name, marks=[pytest.mark.slow] if number % 8 else []) for number, name in enumerate(kinds)]


@dataclass
class Reruns:
    """A world, whose copies are edited; fresh runs are kept by the state they were made of."""

    world: World
    fresh_runs: dict[str, tuple[World, Ended]] = field(default_factory=dict)

    def fresh(self, world: World) -> tuple[World, Ended]:
        state = world.state()
        if state not in self.fresh_runs:
            alone = world.copied(self.world.folder.parent / "fresh" / state, without_run=True)
            alone.set("run_dir", "{world}/run")
            self.fresh_runs[state] = alone, alone.guie()
        return self.fresh_runs[state]

    def started(self, start: dict[str, Any], folder: Path) -> World:
        """A copy of a world with a whole run of the config with those keys; its marks know the copy's times."""
        world = World(self.world.folder)
        for key, value in start.items():
            world.set(key, value)
        whole, ended = self.fresh(world)
        assert ended.code == 0, ended.error
        copy = whole.copied(folder)
        settled = copy.guie()
        assert settled.code == 0 and results(copy) == results(whole), settled.error + shown(
            results(copy), results(whole)
        )
        return copy

    def check(self, kind: Kind, folder: Path, seed: str) -> None:
        """One edit of a whole run."""
        world = self.started(kind.start, folder)
        start = results(world)
        kind.edit(world, _chance(seed))
        whole, ended = self.fresh(world)
        assert ended.code == 0, ended.error
        expect_change(kind, start, results(whole))
        self.rerun(world, [kind])

    def check_in_turn(self, steps: list[list[Kind]], folder: Path, seed: str) -> None:
        """Several edits at once, a rerun, several others, …; none of a kind with a start of its own."""
        world, chance = self.started({}, folder), _chance(seed)
        for kinds in steps:
            for kind in kinds:
                kind.edit(world, chance)
            self.rerun(world, kinds)

    def rerun(self, world: World, kinds: list[Kind]) -> None:
        """Reruns and redoes what was edited; asserts the property."""
        apart, costs = {part for kind in kinds for part in kind.apart}, any(kind.costs for kind in kinds)
        whole, ended = self.fresh(world)
        before, made, said = contents(world), costly(world), unfinished(world)
        rerun = world.guie()
        if ended.code != 0:  # the edits left nothing that could be run
            assert rerun.code == ended.code == 2, f"fresh: {ended.error}rerun: {rerun}"
            expect_one_line(rerun)
            return
        wanted = without(results(whole), apart)
        if rerun.code == 0:
            expect_equal(world, wanted, apart, "another result, silently")
            assert said or contents(world) == before, f"guie status said that all is done: {rerun.out}"
            assert costs or costly(world) == made, f"done again: {rerun.out}"
            return
        assert rerun.code == 2 and costs, rerun
        expect_one_line(rerun)
        assert said, f"guie status said that all is done: {rerun.error}"
        after = contents(world)
        changed = {name for name, held in before.items() if after.get(name) != held}
        lost = [name for name in changed if name not in after or name.endswith(KEPT)]
        assert not lost, f"lost: {lost}"
        redone = world.guie("--redo")
        assert redone.code == 0, f"{rerun.error}--redo: {redone.error}"
        expect_equal(world, wanted, apart, f"{rerun.error}--redo")


def expect_equal(world: World, wanted: Found, apart: set[str], what: str) -> None:
    found = without(results(world), apart)
    assert found == wanted, f"{what}: {shown(found, wanted)}"
    assert not (left := unfinished(world)), f"{what}: guie status after it: {left}"


def unfinished(world: World) -> list[str]:
    """The stages that `guie status` does not call done."""
    status = world.guie(command="status")
    assert status.code == 0 and not status.error, status
    rows = status.out[status.out.index("\nstage ") + 1 :].splitlines()[1:]
    return [row for row in rows if re.split(r"\s{2,}", row)[1] != "done"]


def expect_one_line(ended: Ended) -> None:
    assert ended.error.count("\n") == 1 and ended.error.endswith("\n") and "Traceback" not in ended.error, ended.error


def expect_change(kind: Kind, start: Found, fresh: Found) -> None:
    """An edit without its effect would prove nothing."""
    assert (differing(start, fresh) or [""])[0] == kind.changes, shown(start, fresh)


def without(found: Found, parts: set[str]) -> Found:
    return {part: held for part, held in found.items() if part not in parts}


def contents(world: World) -> dict[str, str]:
    """Every file's digest; without marks, other hidden files, and what each run writes."""
    paths = [path.relative_to(world.folder) for path in world.folder.rglob("*") if path.is_file()]
    shown = [path for path in paths if path.name not in WRITTEN and not any(part[0] == "." for part in path.parts)]
    return {path.as_posix(): digest(world.folder / path) for path in shown}


def costly(world: World) -> dict[str, tuple[int, int]]:
    """Inode and time of what takes long to make."""
    paths = [path for pattern in COSTLY for path in world.run.glob(pattern) if path.is_file()]
    return {str(path.relative_to(world.run)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def _chance(seed: str) -> random.Random:
    return random.Random(hashlib.sha256(seed.encode()).digest())
