"""`guie status`: done, stale and why, missing."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from pipeline import cli
from tests.faults.world import draw
from tests.stages.tiny_world import World

STAGES = ["records", "contact sheet", "train", "export", "score", "report"]


def states(world: World, capsys, *words: str) -> dict[str, tuple[str, str]]:
    capsys.readouterr()
    assert cli.main(["status", *(words or [str(world.run)])]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith("stage "))
    places = [lines[header].index(name) for name in ("stage", "state", "why")] + [None]
    cut = [[line[first:last].strip() for first, last in itertools.pairwise(places)] for line in lines]
    return {name: (state, why) for name, state, why in cut[header + 1 :]}


def test_a_whole_run_is_done(world, capsys):
    assert states(world, capsys) == dict.fromkeys(STAGES, ("done", ""))
    assert states(world, capsys, str(world.config)) == dict.fromkeys(STAGES, ("done", ""))


def test_it_makes_nothing_and_loads_no_tensorflow(world):
    for path in [*world.folder.rglob("*")]:
        path.touch()  # other times, the same bytes: a run would note them
    before = contents(world)
    code = "import sys; from pipeline import cli; sys.exit(cli.main(sys.argv[1:]) or 'tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "status", str(world.run)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert contents(world) == before and "comparing" not in ended.stdout and "stale" not in ended.stdout


def contents(world: World) -> dict:
    """Every file, marks and hidden ones too: its time and its bytes."""
    paths = [path for path in world.folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in paths}


def test_what_is_stale_is_told_with_its_reason_and_what_comes_after_it(world, capsys):
    draw(world.folder / "images/c0/0.jpg", np.random.default_rng(9))
    found = states(world, capsys)
    assert found["records"] == ("stale", "1 images changed since the records were built, the first: c0/0.jpg")
    assert found["train"] == ("stale", "records is not done") and found["report"][0] == "stale"
    assert states(world, capsys, str(world.config), "train.seed=3")["train"] == ("stale", "train.seed was 0, is 3")


@pytest.mark.parametrize(
    ("lost", "stage", "expected"),
    [
        ("submission.zip", "export", ("stale", "submission.zip is missing")),
        ("metrics.json", "score", ("stale", "metrics.json is missing")),
        ("contact_sheet.jpg", "contact sheet", ("stale", "contact_sheet.jpg is missing")),
    ],
)
def test_what_is_gone_makes_its_stage_stale_and_no_stage_before_it(world, capsys, lost, stage, expected):
    (world.run / lost).unlink()
    found = states(world, capsys)
    assert found[stage] == expected
    assert all(found[before] == ("done", "") for before in STAGES[: STAGES.index(stage)])


def test_a_run_that_is_half_done_names_what_is_missing(world, capsys, tmp_path):
    place = f"run_dir={tmp_path}/half"
    assert world.guie("tfrecords", place) == 0
    found = states(world, capsys, str(world.config), place)
    assert found["records"] == ("done", "")
    assert {found[name][0] for name in STAGES[1:]} == {"missing"}


@pytest.mark.slow
def test_seeds_have_rows_of_their_own(world, capsys, tmp_path):
    place = [str(world.config), f"run_dir={tmp_path}/seeded", "seeds=[0,2]"]
    assert world.guie("run", *place[1:]) == 0
    found = states(world, capsys, *place)
    each = [f"seed-{seed} {stage}" for seed in (0, 2) for stage in STAGES[2:]]
    assert found == dict.fromkeys(["records", "contact sheet", *each, "score", "report"], ("done", ""))
    alone = states(world, capsys, str(tmp_path / "seeded/seed-0"))
    assert alone == dict.fromkeys(STAGES[2:], ("done", ""))  # its records are the whole's
    (tmp_path / "seeded/seed-2/precisions.npz").unlink()
    found = states(world, capsys, *place)
    assert found["seed-2 score"][0] == found["score"][0] == "stale" and found["seed-0 report"][0] == "done"


@pytest.mark.parametrize("named", ["nowhere", ""])
def test_a_folder_that_is_no_run_ends_in_one_line(tmp_path, named, capsys):
    assert cli.main(["status", str(tmp_path / named)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected" in error
