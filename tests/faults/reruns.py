"""What a rerun after an edit must be: a fresh run's results, or one line that refuses and loses nothing."""

import hashlib
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.edits import Kind
from tests.faults.world import Ended, Found, World, differing, digest, results, shown

SEED = os.environ.get("GUIE_SEED", "7")
COSTLY = ("records/*.tfrec", "checkpoints/*.safetensors", "export/saved_model/**/*", "submission.zip")


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

    def check(self, kinds: list[Kind], folder: Path, seed: str) -> str:
        """Edits, reruns, redoes; asserts the property. Returns `equal`, `refused` or `refused, as a fresh run is`."""
        world = self.started(kinds[0].start, folder)
        start, chance = results(world), random.Random(hashlib.sha256(seed.encode()).digest())
        try:
            for kind in kinds:
                kind.edit(world, chance)
            before, held, made = files(world.folder), checkpoints_of(world), costly(world)
            whole, ended = self.fresh(world)
            rerun = world.guie()
            apart = {part for kind in kinds for part in kind.apart}
            if ended.code != 0:  # the edit left nothing that could be run
                assert rerun.code == ended.code == 2, f"fresh: {ended.error}rerun: {rerun}"
                expect_one_line(rerun)
                return "refused, as a fresh run is"
            wanted = without(results(whole), apart)
            if len(kinds) == 1:
                expect_change(kinds[0], start, results(whole))
            if rerun.code == 0:
                assert without(results(world), apart) == wanted, "another result, silently: " + shown(
                    without(results(world), apart), wanted
                )
                if not all(kind.costs for kind in kinds) and len(kinds) == 1:
                    assert costly(world) == made, f"done again: {rerun.out}"
                return "equal"
            assert all(kind.costs for kind in kinds), rerun.error
            assert rerun.code == 2, rerun
            expect_one_line(rerun)
            lost = before - files(world.folder)
            assert not lost and checkpoints_of(world) == held, f"lost: {sorted(lost)}"
            redone = world.guie("--redo")
            assert redone.code == 0, f"{rerun.error}--redo: {redone.error}"
            assert without(results(world), apart) == wanted, f"{rerun.error}--redo: " + shown(
                without(results(world), apart), wanted
            )
            return "refused"
        finally:
            shutil.rmtree(folder)


def expect_one_line(ended: Ended) -> None:
    assert ended.error.count("\n") == 1 and ended.error.endswith("\n") and "Traceback" not in ended.error, ended.error


def expect_change(kind: Kind, start: Found, fresh: Found) -> None:
    """An edit without its effect would prove nothing."""
    assert (differing(start, fresh) or [""])[0] == kind.changes, shown(start, fresh)


def without(found: Found, parts: set[str]) -> Found:
    return {part: held for part, held in found.items() if part not in parts}


def files(folder: Path) -> set[str]:
    """All but marks and caches."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path) for path in paths if not any(part.startswith(".") for part in path.parts)}


def checkpoints_of(world: World) -> dict[str, str]:
    return {str(path.relative_to(world.run)): digest(path) for path in world.run.rglob("*.safetensors")}


def costly(world: World) -> dict[str, tuple[int, int]]:
    """Inode and time of what takes long to make."""
    paths = [path for pattern in COSTLY for path in world.run.glob(pattern) if path.is_file()]
    return {str(path.relative_to(world.run)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
