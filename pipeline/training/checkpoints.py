"""Checkpoints: one safetensors file a step, whole or absent, written beside the training."""

import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline import files, marks
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.files import atomic_path, fingerprint
from pipeline.training import inputs

if TYPE_CHECKING:
    from pipeline.models.embedder import Embedder

_NAME = re.compile(r"step-(\d{9})\.safetensors")


def folder_of(run_dir: str | Path) -> Path:
    return Path(run_dir) / "checkpoints"


def newest(folder: Path) -> Path | None:
    """The checkpoint of the latest step, or None. Only whole files bear the name."""
    found = sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))
    return found[-1] if found else None


def read_state(path: Path) -> dict[str, Any]:
    """The JSON that `Writer.save` was given; BadInput for what is no checkpoint of guie."""
    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {})["guie"])
    except FileNotFoundError:
        raise BadInput(f"expected a checkpoint, {path} does not exist") from None
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise BadInput(f"{path} is not a whole checkpoint of guie ({error}): remove it to start before it") from None


def recipe_fingerprint(run: Run) -> str:
    """16 hex digits of `inputs.recipe`."""
    return fingerprint(inputs.recipe(run))


def recipe_changes(state: dict[str, Any], run: Run) -> list[str]:
    """The keys of the recipe that a checkpoint was trained with other values of, each as a few words."""
    held = state.get("recipe")
    if not isinstance(held, dict):
        return ["it was saved by another version of guie"]
    return marks.changed_keys(held, inputs.recipe(run))


def state_of(run: Run) -> dict:
    """What the newest checkpoint of the run folder says of itself, {} without one; BadInput for another recipe's."""
    path = newest(folder_of(run.run_dir))
    if path is None or run.devices.rehearse:
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
    """Why the training is not done; empty where the newest checkpoint ends it and is not stale."""
    path = newest(folder_of(run.run_dir))
    if path is None:
        return [marks.NEVER]
    if why := stale(run) or damage(run):
        return why
    return [] if read_state(path).get("finished") else [f"not finished: {path.name} is within the training"]


def expect_whole(run: Run) -> None:
    """Raises BadInput where the checkpoint that ended the training is not what was saved."""
    if why := damage(run):
        raise BadInput(f"{run.run_dir}: {marks.said(why)} since it was saved; {marks.MEND}")


def mark_whole(run: Run) -> None:
    """Marks the checkpoint that ended the training: its bytes are known from now on."""
    path = newest(folder_of(run.run_dir))
    if path is not None:
        stage = _stage(run)
        stage.finish(stage.begun([path.relative_to(run.run_dir).as_posix()]))


def _stage(run: Run) -> marks.Stage:
    """What the training is made of stands in its checkpoints; the mark tells of the last one's bytes."""
    return marks.Stage("train", Path(run.run_dir))


def damage(run: Run) -> list[str]:
    """What is wrong with the bytes of the checkpoint that ended the training; of any other nothing is known."""
    path, mark = newest(folder_of(run.run_dir)), _stage(run).read()
    if path is None or not mark or path.relative_to(run.run_dir).as_posix() not in mark.get("made", ()):
        return []
    return _stage(run).reasons()


def remove(run: Run) -> None:
    """Removes what a training left in the run folder. Each checkpoint holds its own mark: any order is safe."""
    folder = Path(run.run_dir)
    for path in sorted(folder_of(run.run_dir).glob("step-*.safetensors")):
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

    Raises BadInput: no checkpoint, one of another architecture, or one whose PCA is not fitted to its weights.
    """
    from pipeline.models import embedder as embedders  # TensorFlow: who only asks what is done needs none of it

    folder = folder_of(config.run_dir)
    path = newest(folder)
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
    return embedder


class Writer:
    """Writes checkpoints in a thread, one at a time; keeps the newest `kept`.

    A failure to write surfaces at the next `save` or `wait`. Of several hosts all must call `save`, as values may be
    spread over them, and one `writes`.
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
        metadata = {"guie": json.dumps({**self.mark, **state, "step": step})}
        self._thread = threading.Thread(target=self._write, args=(step, values, metadata))
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, step: int, values: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        try:
            with atomic_path(self.folder / f"step-{step:09d}.safetensors") as temporary:
                save_file(values, temporary, metadata=metadata)
            for path in sorted(self.folder.glob("step-*.safetensors"))[: -self.kept]:
                path.unlink()
        except BaseException as failure:
            self._failure = failure
