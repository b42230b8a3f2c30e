"""What each stage that is redone without asking depends on, for its mark; see `marks`. No TensorFlow.

Records and checkpoints cost more: `tfrecords.build` and `training.checkpoints` say what they depend on.
"""

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pipeline.attached import tensorflow_build
from pipeline.config import Run, to_yaml
from pipeline.data import sources
from pipeline.files import fingerprint
from pipeline.marks import Digest, Files, Input, Stage, flat
from pipeline.training import checkpoints, inputs

PACKAGES = ("pipeline", "tfrecords", "export")
REPORTED = ("metrics.json", "metrics.jsonl", "contact_sheet.jpg")


def contact_sheet(run: Run) -> Stage:
    folder = Path(run.run_dir)
    named = [(name, folder / "records" / name) for name in ("labels.json", "manifest.json")]
    return Stage("contact_sheet", folder, {}, {**_code(), "records": Files(named)})


def export(run: Run) -> Stage:
    newest = checkpoints.newest(checkpoints.folder_of(run.run_dir))
    trained: dict[str, Input] = {"the newest checkpoint": Files.below(newest)} if newest else {}
    keys = {
        **flat(inputs.without_paths(run.encoder), "encoder"),
        **flat(run.embedder, "embedder"),
        **flat(run.export, "export"),
    }
    return Stage("export", Path(run.run_dir), keys, {**_code(), **trained, **inputs.of_weights(run)})


def score(run: Run) -> Stage:
    """Its references start where the training starts, and are fitted on what it is trained on."""
    folder = Path(run.run_dir)
    keys = {**inputs.recipe(run), **flat(run.score, "score"), "records.split.left_out": run.records.split.left_out}
    if "pml_arcface" in run.score.references:  # a row that had to be left out is computed once it can be
        keys["pytorch-metric-learning is installed"] = find_spec("pytorch_metric_learning") is not None
    read = {"submission.zip": Files.below(folder / "submission.zip"), **inputs.of(run), **_scored(run)}
    return Stage("score", folder, keys, {**_code(), **read})


def score_of_seeds(run: Run, runs: Sequence[Run]) -> Stage:
    read: dict[str, Input] = {}
    for seed, each in zip(run.seeds, runs, strict=True):
        named = [(name, Path(each.run_dir) / name) for name in ("metrics.json", "precisions.npz")]
        read[f"the score of seed {seed}"] = Files(named)
    keys = {"seeds": run.seeds, "records.split.left_out": run.records.split.left_out}
    return Stage("score", Path(run.run_dir), keys, {**_code(), **read})


def report(run: Run) -> Stage:
    folder = Path(run.run_dir)
    shown: dict[str, Input] = {name: Files.below(folder / name) for name in REPORTED}
    return Stage(
        "report", folder, {}, {**_code(), "the config": Digest(fingerprint(to_yaml(run))), **shown, **_scored(run)}
    )


def _scored(run: Run) -> dict[str, Input]:
    """Key of the config → the images that are scored."""
    specs = {"score.index": run.in_run_dir(run.score.index), "score.queries": run.in_run_dir(run.score.queries)}
    return {
        key if len(given) == 1 else f"{key}.{number}": sources.files_of(spec)
        for key, given in specs.items()
        for number, spec in enumerate(given)
    }


def _code() -> dict[str, Input]:
    return {"guie's code or TensorFlow": Digest(_code_digest())}


@cache
def _code_digest() -> str:
    """Of guie's own files and of the libraries' versions: what either changes is made again where that is cheap."""
    root = Path(__file__).parents[2]
    named = [
        (path.relative_to(root).as_posix(), path)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ]
    return Files(named, beside=f"{tensorflow_build()}, Keras {metadata.version('keras')}").content()
