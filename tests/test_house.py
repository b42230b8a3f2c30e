"""The house keeps its shape: floors, no circle, rooms of a readable size, files under about 300 lines."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [path for room in ("pipeline", "tfrecords", "export") for path in (ROOT / room).rglob("*.py")]


def test_no_import_runs_back_up_and_there_is_no_circle():
    """The floors stand in pyproject.toml."""
    command = str(Path(sys.executable).with_name("lint-imports"))
    done = subprocess.run([command, "--no-logo"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "2 kept, 0 broken" in done.stdout, done.stdout


def test_a_room_holds_about_a_dozen_files():
    """tfrecords/sources has a file a public layout, so it may hold more."""
    sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in SOURCES if path.name != "__init__.py")
    assert not {room: count for room, count in sizes.items() if count > 14 and room != "tfrecords/sources"}


def test_a_file_says_what_it_is_for_and_stays_readable():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert path.name == "__init__.py" or text.startswith('"""'), f"{path}: no docstring"
        assert len(text.splitlines()) <= 360, path


def test_kaggle_is_no_package():
    assert not (ROOT / "kaggle/__init__.py").exists()  # it would shadow the package kaggle
