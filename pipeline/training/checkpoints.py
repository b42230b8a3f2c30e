"""Checkpoints: one safetensors file a step, whole or absent, written beside the training."""

import json
import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crc32c
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline import files, marks
from pipeline.config import Run
from pipeline.errors import BadInput, reason
from pipeline.files import atomic_path, fingerprint
from pipeline.guards import machine
from pipeline.guards.masked import shown
from pipeline.training import inputs

if TYPE_CHECKING:
    from pipeline.models.embedder import Embedder

_NAME = re.compile(r"step-(\d{9})\.safetensors")


def folder_of(run_dir: str | Path) -> Path:
    return Path(run_dir) / "checkpoints"


def newest(folder: Path, read: bool = False) -> Path | None:
    """The checkpoint of the latest step that is whole, or None where there is none at all.

    Whole is what its header says, and its length; with `read` its checksum too, for which all of it is read. Raises
    BadInput: there are checkpoints, and none is whole.
    """
    return _found(folder, read)[0]


def newest_mended(folder: Path) -> Path | None:
    """As `newest` with `read`; sets damaged ones above it aside, as `damaged-step-…`: their steps are trained again."""
    path, damaged = _found(folder, read=True)
    for other, why in damaged:
        aside = other.with_name(f"damaged-{other.name}")
        with suppress(FileNotFoundError):  # another host was first
            other.rename(aside)
        print(f"warning: {other} {why}: set aside as {aside.name}; goes on from {path and path.name}", flush=True)
    return path


def _saved(folder: Path) -> list[Path]:
    """All checkpoints, damaged ones too, by step; a file of another name is somebody's own."""
    return sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))


def _found(folder: Path, read: bool) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest whole checkpoint; the damaged ones above it, and what is wrong with each."""
    damaged: list[tuple[Path, str]] = []
    for path in reversed(_saved(folder)):
        if not (why := _damage(path, read)):
            return path, damaged
        damaged.append((path, why))
    if damaged:
        path, why = damaged[0]
        raise BadInput(
            f"{path} {why}, and no whole checkpoint is left beside it: put a copy back, or remove {folder} to train "
            "anew"
        )
    return None, []


def _damage(path: Path, read: bool) -> str:
    """What is wrong with a checkpoint's file; "" where nothing is. Raises OSError where the machine refuses."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            json.loads(metadata["guie"])
            if read and "crc32c" in metadata:  # one of before there was a checksum has none
                values = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
                if _checksum(metadata["guie"], values) != metadata["crc32c"]:
                    return "is damaged (its checksum is another)"
    except FileNotFoundError:
        return "is gone"
    except (SafetensorError, KeyError, ValueError) as error:  # an OSError is the machine's: the file may be whole
        if machine.line(error):
            raise
        return f"is not a whole checkpoint of guie ({reason(error)})"
    return ""


def _checksum(state: str, values: Iterable[tuple[str, np.ndarray]]) -> str:
    """CRC-32C of the state and of every tensor's name, type, shape and bytes; `values` in the order of their names."""
    crc = crc32c.crc32c(state.encode())
    for name, value in values:
        crc = crc32c.crc32c(f"{name} {value.dtype.str} {value.shape}\n".encode(), crc)
        crc = crc32c.crc32c(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def expect_finite(values: Iterable[tuple[str, np.ndarray]], what: str, mend: str) -> None:
    """Raises BadInput where a tensor of floats holds a NaN or an infinity."""
    for name, value in values:
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise BadInput(f"{what}: the weights are not finite ({name}): {mend}")


def read_state(path: Path) -> dict[str, Any]:
    """The JSON that `Writer.save` was given; BadInput for what is no checkpoint of guie."""
    if not path.is_file():
        raise BadInput(f"expected a checkpoint, {path} does not exist")
    if why := _damage(path, read=False):
        raise BadInput(f"{path} {why}: remove it to start before it")
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["guie"])


def recipe_fingerprint(run: Run) -> str:
    """16 hex digits of `inputs.recipe`."""
    return fingerprint(inputs.recipe(run))


def recipe_changes(state: dict[str, Any], run: Run) -> list[str]:
    """The keys of the recipe that a checkpoint was trained with other values of, each as a few words."""
    held = state.get("recipe")
    if not isinstance(held, dict):
        return ["it was saved by another version of guie"]
    return marks.changed_keys(held, inputs.recipe(run))


def whole(run: Run) -> Path | None:
    """As `newest_mended`, but the last checkpoint is not read where its bytes are known to be those that were saved."""
    folder = folder_of(run.run_dir)
    path = newest(folder)
    return path if path is None or _is_known(run, path) else newest_mended(folder)


def state_of(run: Run) -> dict:
    """What the newest whole checkpoint of the run folder says of itself, {} without one; BadInput for another recipe's.

    Damaged ones are set aside, see `whole`.
    """
    if run.devices.rehearse or (path := whole(run)) is None:
        return {}
    state = read_state(path)
    if why := recipe_changes(state, run):
        raise BadInput(
            f"{path} was trained by another recipe or is of another architecture than this config: {marks.said(why)}; "
            f"{marks.MEND} (train.init_from={path} starts from it)"
        )
    return state


def stale(run: Run) -> list[str]:
    """Why the newest checkpoint is not of this recipe and these files; empty also where there is none."""
    path = newest(folder_of(run.run_dir))
    if path is None:
        return []
    state = read_state(path)
    return recipe_changes(state, run) or [f"{name} changed" for name in inputs.changed(state, run)]


def reasons(run: Run) -> list[str]:
    """Why the training is not done; empty where the newest checkpoint ends it and is not stale. Writes nothing."""
    path = newest(folder_of(run.run_dir))
    if path is None:
        return [marks.NEVER]
    if why := stale(run):
        return why
    if not read_state(path).get("finished"):
        return [f"not finished: {path.name} is within the training"]
    return [] if _is_known(run, path, renew=False) else [f"{path.name} is not what was saved, or was not marked"]


def mark_whole(run: Run) -> None:
    """Marks the checkpoint that ended the training: its bytes are known from now on, and are not read to be sure."""
    path = newest(folder_of(run.run_dir))
    if path is not None and not _is_known(run, path):
        stage = _stage(run)
        stage.finish(stage.begun([path.relative_to(run.run_dir).as_posix()]))


def _stage(run: Run) -> marks.Stage:
    """What the training is made of stands in its checkpoints; the mark tells of the last one's bytes."""
    return marks.Stage("train", Path(run.run_dir))


def _is_known(run: Run, path: Path, renew: bool = True) -> bool:
    """Whether the mark says that this checkpoint was saved so."""
    then = _stage(run).read() or {}
    return path.relative_to(run.run_dir).as_posix() in then.get("made", ()) and not _stage(run).reasons(renew)


def remove(run: Run) -> None:
    """Removes what a training left in the run folder. Each checkpoint holds its own mark: any order is safe."""
    folder = Path(run.run_dir)
    for path in _saved(folder_of(run.run_dir)):
        path.unlink()
    for name in ("metrics.jsonl", "precisions.npy", "tensorboard"):
        files.remove(folder / name)


def restore(path: Path, variables: dict[str, Any]) -> None:
    """Assigns every variable (name → Keras variable, or what has `shape` and `assign`) from the checkpoint.

    The file may hold more. Raises BadInput where it lacks a variable or has another shape; then none is assigned.
    """
    read_state(path)
    with safe_open(path, framework="numpy") as file:
        held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, it is no dict
        wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
        missing = sorted(wanted.keys() - held.keys())
        differing = [name for name, shape in wanted.items() if held.get(name, shape) != shape]
        wrong = [f"{name} is {held[name]} there, {wanted[name]} in this config" for name in differing]
        if missing:
            wrong = [f"it lacks {len(missing)} of {len(wanted)} variables ({', '.join(missing[:3])} …)"]
        if wrong:
            mend = "choose another run_dir, or the config it was trained with"
            raise BadInput(f"{path} is of another architecture: {wrong[0]}; {mend}")
        for name, variable in variables.items():
            variable.assign(file.get_tensor(name))


def expect_pca(config: Run, path: Path, state: dict[str, Any]) -> None:
    """Raises BadInput where the head ends in a PCA that is of earlier weights than the checkpoint's others."""
    if config.embedder.trained_dim and not state.get("pca_fitted"):
        why = (
            f"{path} was saved within a phase, where no PCA of its {config.embedder.trained_dim} numbers is fitted yet"
        )
        raise BadInput(f"{why}: end the phase with `guie train`")


def load_trained(config: Run) -> "Embedder":
    """The embedder of the run folder's newest whole checkpoint; averaged weights where the run keeps them.

    Raises BadInput: no checkpoint, one of another architecture, one whose PCA is not fitted to its weights, or weights
    that are not finite.
    """
    from pipeline.models import embedder as embedders  # TensorFlow: who only asks what is done needs none of it

    folder = folder_of(config.run_dir)
    path = newest_mended(folder)
    if path is None:
        raise BadInput(f"expected a checkpoint in {folder}, found none: run `guie train` first")
    state = read_state(path)
    expect_pca(config, path, state)
    embedder = embedders.build(config, state.get("image_size_px"), state.get("patch_overlap_px"), fill=False)
    restore(path, embedder.variables)
    if state.get("phase_step"):  # within a phase the averages stand beside the weights, as the optimizer names them
        prefix = f"optimizer/{config.train.optimizer.name}/"
        averages = {f"{prefix}{v.path.replace('/', '_')}_average": v for v in embedder.model.variables}
        with safe_open(path, framework="numpy") as file:
            held = set(file.keys())
        restore(path, {name: v for name, v in averages.items() if name in held})
    weights = ((name, np.asarray(variable)) for name, variable in embedder.variables.items())
    mend = "nothing is exported; remove it to go on from the one before, at a lower learning rate or margin"
    expect_finite(weights, str(path), mend)
    return embedder


class Writer:
    """Writes checkpoints in a thread, one at a time; keeps the newest `kept`.

    Weights that are not finite are not written. A failure to write, that too, surfaces at the next `save` or `wait`. Of
    several hosts all must call `save`, as values may be spread over them, and one `writes`.
    """

    def __init__(self, folder: Path, kept: int, writes: bool = True, mark: dict[str, Any] | None = None):
        self.folder, self.kept, self.writes = folder, max(kept, 1), writes
        self.mark = mark or {}  # `recipe` and `inputs`, which every checkpoint holds
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, variables: dict[str, Any], state: dict[str, Any]) -> None:
        """Copies the values now and returns; the file appears later, by rename."""
        self.wait()
        values = {name: np.array(variable) for name, variable in variables.items()}
        if not self.writes:
            return
        text = json.dumps(shown({**self.mark, **state, "step": step}))
        self._thread = threading.Thread(target=self._write, args=(step, values, text))
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, step: int, values: dict[str, np.ndarray], state: str) -> None:
        try:
            path, ordered = self.folder / f"step-{step:09d}.safetensors", sorted(values.items())
            mend = "it is not saved, the checkpoint before it is kept: lower the learning rate or the margin"
            expect_finite(ordered, f"step {step}", mend)
            with atomic_path(path) as temporary:
                save_file(values, temporary, metadata={"guie": state, "crc32c": _checksum(state, ordered)})
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # whole even after a power cut
            for old in _saved(self.folder)[: -self.kept]:
                old.unlink()
        except BaseException as failure:
            self._failure = failure
