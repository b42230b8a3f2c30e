"""The competition's environment: TensorFlow 2.6.4 or PyTorch 1.11.0 under Python 3.9; made once and kept."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from export import subprocesses
from pipeline.errors import BadInput
from pipeline.files import atomic_path

REQUIREMENTS = {
    # With newer keras, protobuf or numpy TensorFlow 2.6.4 does not import.
    "tensorflow": ["tensorflow-cpu==2.6.4", "protobuf<3.21", "numpy<1.20", "keras==2.6.0"],
    "torch": ["torch==1.11.0", "numpy<1.24"],
}
PYTHON = "3.9"


def folder_of(kind: str) -> Path:
    """The folder of the environment for "tensorflow" or "torch"; in GUIE_CACHE where that is set."""
    cache = os.environ.get("GUIE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "guie"
    return Path(cache) / f"scorer-{kind}"


def python_of(kind: str) -> Path:
    """The interpreter of the scorer's environment; makes the environment where it is missing.

    Raises BadInput: no Python 3.9 on this machine, or the packages cannot be installed.
    """
    folder, wanted = folder_of(kind), "\n".join(REQUIREMENTS[kind])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second check waits for the first one's environment
        mark = folder / "requirements.txt"
        if not (mark.is_file() and mark.read_text() == wanted):
            print(f"check: makes the scorer's environment in {folder}: {' '.join(REQUIREMENTS[kind])}", flush=True)
            with atomic_path(folder) as temporary:
                _make(temporary, REQUIREMENTS[kind])
                (temporary / "requirements.txt").write_text(wanted)
    return folder / "bin" / "python"


def _make(folder: Path, requirements: list[str]) -> None:
    python = find_python()
    uv = shutil.which("uv")
    if python:
        _run([str(python), "-m", "venv", str(folder)], "python -m venv")
    elif uv:
        _run([uv, "venv", "--quiet", "--seed", "--python", PYTHON, str(folder)], "uv venv")
    else:
        raise BadInput(
            f"--scorer kaggle needs Python {PYTHON} (TensorFlow 2.6.4 runs under none newer); none on PATH "
            "nor in ~/.pyenv: install it, name it in GUIE_PYTHON39, or install uv, which can fetch one"
        )
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, *requirements], "pip install")


def find_python(version: str = PYTHON) -> Path | None:
    """A Python of this version that starts (a pyenv shim may not): GUIE_PYTHON39, python3.9 on PATH, or pyenv's."""
    candidates = [os.environ.get(f"GUIE_PYTHON{version.replace('.', '')}"), shutil.which(f"python{version}")]
    candidates += [str(path) for path in Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python")]
    for candidate in filter(None, candidates):
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if answer.stdout.strip() == version:
            return Path(candidate)
    return None


def _run(command: list[str], what: str) -> None:
    subprocesses.run(command, f"the scorer's environment could not be made: {what}")
