"""Runs other programs; a failure of theirs is one line."""

import subprocess
from collections.abc import Mapping, Sequence

from pipeline.errors import BadInput


def run(command: Sequence[str], failure: str, env: Mapping[str, str] | None = None) -> None:
    """Runs a program and keeps its output back. Raises BadInput: it failed; names the last error that it printed."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise BadInput(f"{failure}: {errors[-1]}")
