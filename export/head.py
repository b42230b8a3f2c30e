"""The head alone: uploaded in place of the submission where the encoder is a Kaggle model with its own weights.

<run_dir>/checkpoints/step-….safetensors → head.safetensors (a few hundred kB) → the whole embedder again
"""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.files import atomic_path
from pipeline.training import checkpoints

# The head's variables, as `pipeline.models.embedder` names them; batch norm's and PCA's only where it has them.
VARIABLES = tuple(
    f"embedder/{layer}/{name}"
    for layer, names in {
        "batch_norm": ("mean", "variance"),
        "embedding": ("kernel", "bias"),
        "pca": ("kernel", "bias"),
    }.items()
    for name in names
)


def write(config: Run, path: Path) -> None:
    """Copies the head out of the newest checkpoint. Needs no TensorFlow.

    Raises BadInput: no checkpoint, or one within a phase of a head with PCA; or the run trained its encoder too, or
    took it from another run: the head alone would not restore the embedder.
    """
    trained = [phase.name for phase in config.train.phases if phase.trainable != "head"]
    if trained or config.train.init_from:
        origin = f"train.init_from took the encoder from {config.train.init_from}"
        why = f"phase {trained[0]!r} trains the encoder too" if trained else origin
        raise BadInput(f"submit.encoder_model uploads the head alone, but {why}: leave submit.encoder_model out")
    newest = checkpoints.newest(Path(config.run_dir) / "checkpoints")
    if newest is None:
        raise BadInput(f"expected a checkpoint in {config.run_dir}/checkpoints: run `guie train` first")
    state = checkpoints.read_state(newest)
    checkpoints.expect_pca(config, newest, state)
    with safe_open(newest, framework="numpy") as file:
        names = [name for name in file.keys() if name in VARIABLES]  # noqa: SIM118, it is no dict
        head = {name: np.ascontiguousarray(file.get_tensor(name)) for name in names}
    with atomic_path(path) as temporary:
        save_file(head, temporary, metadata={"guie": json.dumps(state)})


def attach(config: Run, path: Path):
    """Puts the head of `path` on the config's encoder: a `pipeline.models.embedder.Embedder`.

    Raises BadInput: no such file, or a head of another width.
    """
    from pipeline.models import embedder  # TensorFlow, only here

    state = checkpoints.read_state(path)
    built = embedder.build(config, state.get("image_size_px"), state.get("patch_overlap_px"))
    variables = {name: value for name, value in built.variables.items() if name in VARIABLES}
    checkpoints.restore(path, variables)
    return built
