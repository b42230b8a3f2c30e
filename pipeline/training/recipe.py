"""What a training config asks for, held against what can be and what the run folder already holds. No TensorFlow."""

import dataclasses
from pathlib import Path

from pipeline import files
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.training import checkpoints


def check(run: Run) -> None:
    """Raises BadInput for the first value that lies outside what it may be."""
    train = run.train
    if not train.phases:
        raise BadInput("train.phases: expected at least one phase, got none")
    _expect("train.seed", train.seed, 0, 2**31 - 1)
    for key in ("log_every_steps", "checkpoint_every_steps", "checkpoints_kept"):
        _expect(f"train.{key}", getattr(train, key), 1)
    _expect("train.validate_every_epochs", train.validate_every_epochs, 0, above=True)
    _expect("train.optimizer.accumulate_steps", train.optimizer.accumulate_steps, 1)
    _expect("train.optimizer.ema", train.optimizer.ema, 0, 0.999_999_9)
    _expect("train.optimizer.clip_norm", train.optimizer.clip_norm, 0, above=True)
    _expect("train.loss.scale", train.loss.scale, 0, above=True)
    _expect("train.loss.subcenters", train.loss.subcenters, 1)
    _expect("embedder.dropout", run.embedder.dropout, 0, 0.999)
    for key in ("replicas", "rehearse"):
        _expect(f"devices.{key}", getattr(run.devices, key), 0)
    _expect("devices.rehearse_steps", run.devices.rehearse_steps, 1)
    for number, phase in enumerate(train.phases):
        where = f"train.phases.{number}"
        _expect(f"{where}.batch_size", phase.batch_size, 1)
        _expect(f"{where}.epochs", phase.epochs, 0, above=True)
        for key in (
            "learning_rate",
            "end_learning_rate",
            "warmup_epochs",
            "encoder_rate_factor",
            "layer_decay",
        ):
            _expect(f"{where}.{key}", getattr(phase, key), 0)
        _expect(f"{where}.augment.crop_scale_min", phase.augment.crop_scale_min, 0, 1, above=True)
        _expect(f"{where}.augment.crop_aspect_max", phase.augment.crop_aspect_max, 1)
        for key in ("color_jitter", "rand_augment", "cutout"):
            _expect(f"{where}.augment.{key}", getattr(phase.augment, key), 0, 1)


def _expect(
    key: str, value: float | None, least: float, most: float | None = None, above: bool = False
) -> None:
    """`above`: the least itself is out."""
    if value is None:
        return
    if not (value > least if above else value >= least) or (most is not None and value > most):
        wanted = f"{'above ' if above else ''}{least:g}"
        wanted += f" … {most:g}" if most is not None else "" if above else " or more"
        raise BadInput(f"{key}: expected {wanted}, got {value:g}")


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
