"""Checkpoints: one safetensors file a step, whole or absent, written beside the training."""

import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.files import atomic_path, fingerprint
from pipeline.masked import shown
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
    """Of all keys that decide the weights; not of how often is logged or saved, nor of where files lie (`inputs`)."""
    kept = ("phases", "loss", "optimizer", "seed", "fold")
    train = {key: value for key, value in dataclasses.asdict(run.train).items() if key in kept}
    train["init_from"] = bool(run.train.init_from)
    for loss in (train["loss"], *(phase["loss"] for phase in train["phases"] if phase["loss"])):
        loss["sharded"] = False  # checkpoints hold the classes whole
    return fingerprint([train, inputs.without_paths(run.encoder), dataclasses.asdict(run.embedder)])


def state_of(run: Run) -> dict:
    """What the newest checkpoint of the run folder says of itself, {} without one; BadInput for another recipe's."""
    path = newest(folder_of(run.run_dir))
    if path is None or run.devices.rehearse:
        return {}
    state = read_state(path)
    if state["recipe"] != recipe_fingerprint(run):
        raise BadInput(
            f"{path} was trained by another recipe or is of another architecture than this config: choose another "
            f"run_dir (and train.init_from={path} to start from it), or remove {Path(run.run_dir) / 'checkpoints'}"
        )
    return state


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

    def __init__(self, folder: Path, kept: int, writes: bool = True):
        self.folder, self.kept, self.writes = folder, max(kept, 1), writes
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, variables: dict[str, Any], state: dict[str, Any]) -> None:
        """Copies the values now and returns; the file appears later, by rename."""
        self.wait()
        values = {name: np.array(variable) for name, variable in variables.items()}
        if not self.writes:
            return
        metadata = {"guie": json.dumps(shown({**state, "step": step}))}
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
