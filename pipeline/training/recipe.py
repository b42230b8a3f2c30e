"""What a training config asks for, held against what can be and what the run folder already holds. No TensorFlow."""

import dataclasses
from pathlib import Path

from pipeline import files
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.training import checkpoints


def check(run: Run) -> None:
    """Raises BadInput where there is nothing to train; ranges are checked when the config is loaded."""
    if not run.train.phases:
        raise BadInput("train.phases: expected at least one phase, got none")


def fingerprint(run: Run) -> str:
    """Of all that decides the weights; not of how often is logged or saved."""
    kept = ("phases", "loss", "optimizer", "seed", "init_from", "records")
    train = {key: value for key, value in dataclasses.asdict(run.train).items() if key in kept}
    train["loss"]["sharded"] = False  # checkpoints hold the classes whole
    return files.fingerprint([train, dataclasses.asdict(run.encoder), dataclasses.asdict(run.embedder)])


def state_of(run: Run) -> dict:
    """What the newest checkpoint of the run folder says of itself; empty where there is none.

    Raises:
        BadInput: another recipe was trained there.
    """
    path = checkpoints.newest(checkpoints.folder_of(run.run_dir))
    if path is None or run.devices.rehearse:
        return {}
    state = checkpoints.read_state(path)
    if state["recipe"] != fingerprint(run):
        raise BadInput(
            f"{path} was trained by another recipe or is of another architecture than this config: choose another "
            f"run_dir (and train.init_from={path} to start from it), or remove {Path(run.run_dir) / 'checkpoints'}"
        )
    return state
