"""What each stage that is redone without asking depends on, for its mark; see `marks`. No TensorFlow.

Records and checkpoints cost more: `tfrecords.build` and `training.checkpoints` say what they depend on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pipeline.attached import tensorflow_build
from pipeline.config import Run, seeds_of, to_yaml
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.files import fingerprint
from pipeline.guards import stage_log
from pipeline.marks import NEVER, Digest, Files, Input, Stage, changed_keys, flat
from pipeline.training import checkpoints, inputs

PACKAGES = ("pipeline", "tfrecords", "export")
OF_RECORDS = ("labels.json", "manifest.json", "rejects.csv", "duplicates.csv")
REPORTED = ("metrics.json", "metrics.jsonl", "contact_sheet.jpg", "scored", stage_log.NAME)


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


def score(run: Run, scored: Mapping[str, Input] | None = None) -> Stage:
    """Its references start where the training starts, and are fitted on what it is trained on.

    `scored`: of `_scored`, where the images are listed already. They count by what they hold and what their set is
    called, wherever they lie.
    """
    folder = Path(run.run_dir)
    keys = {**inputs.recipe(run), **flat(run.score, "score"), "records.split.left_out": run.records.split.left_out}
    for key, given in (("score.index", run.score.index), ("score.queries", run.score.queries)):
        keys[key] = [sources.name_of(spec) for spec in run.in_run_dir(given)]
    if "pml_arcface" in run.score.references:  # a row that had to be left out is computed once it can be
        keys["pytorch-metric-learning is installed"] = find_spec("pytorch_metric_learning") is not None
    read = {
        "submission.zip": Files.below(folder / "submission.zip"),
        **inputs.of(run),
        **(_scored(run) if scored is None else scored),
    }
    return Stage("score", folder, keys, {**_code(), **read})


def score_of_seeds(run: Run, runs: Sequence[Run]) -> Stage:
    read: dict[str, Input] = {}
    for seed, each in zip(run.seeds, runs, strict=True):
        named = [(name, Path(each.run_dir) / name) for name in ("metrics.json", "precisions.npz")]
        read[f"the score of seed {seed}"] = Files(named)
    keys = {"seeds": run.seeds, "records.split.left_out": run.records.split.left_out}
    return Stage("score", Path(run.run_dir), keys, {**_code(), **read})


def outdated_score(run: Run, scored: Mapping[str, Input] | None = None) -> list[str]:
    """Why the scores in the run folder are not of the model and the data that are there now; marks stay as they are.

    Empty where they are, and where `guie run` did not score: nothing tells what such scores are of. `scored`: as in
    `score`.
    """
    runs = seeds_of(run)
    scored = _scored(run) if scored is None else scored
    stages = [score(each, scored) for each in runs] + ([score_of_seeds(run, runs)] if run.seeds else [])
    try:
        why = [each for stage in stages for each in stage.reasons(renew=False)]
    except BadInput as error:  # what it was scored with is damaged
        return [str(error)]
    return [each for each in why if each != NEVER]


def keys_since_score(run: Run) -> list[str]:
    """What of the config is not what the scores in the run folder are of, or that they are half written.

    By keys alone: no image and no weights are read, and what else they are of may have changed.
    """
    found: list[str] = []
    for each in seeds_of(run):
        stage = score(each, {})
        if then := stage.read():
            found += [] if then.get("finished") else ["its scoring was not finished"]
            found += changed_keys(then.get("keys") or {}, stage.keys)
    return list(dict.fromkeys(found))


def report(run: Run) -> Stage:
    folder, scored = Path(run.run_dir), _scored(run)
    of_files: dict[str, Input] = {
        name: Files.below(folder / name) for name in [*REPORTED, *(f"records/{name}" for name in OF_RECORDS)]
    }
    of_config = {
        "the config": Digest(fingerprint(to_yaml(run))),
        "what the scores are of": Digest("; ".join(outdated_score(run, scored))),
    }
    return Stage("report", folder, {}, {**_code(), **of_config, **of_files, **scored})


def _scored(run: Run) -> dict[str, Input]:
    """Key of the config → the images that are scored; they may go once they are."""
    specs = dict(zip(("score.index", "score.queries"), run.scored_data, strict=True))
    return {
        key if len(given) == 1 else f"{key}.{number}": replace(sources.files_of(spec), may_go=True)
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
