"""What a config asks for, checked whole before the first image is read: names, files, and keys that must go together.

What only the images or the devices tell (classes too small, a GPU that is not here) is said by the command that meets
it. A file that is there is opened for its first bytes alone. No TensorFlow.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from pipeline.config import Phase, Run, resolve_data_path, seeds_of
from pipeline.config.phase_keys import expect_phase, expect_phases, geometry, head_start, sees_features, trained_blocks
from pipeline.data import folds
from pipeline.data.sources import expect_data
from pipeline.errors import BadInput, missing
from pipeline.files import matching
from pipeline.models import catalogue
from pipeline.models.weights import files as weights
from pipeline.planning import estimates
from tfrecords.labels import SPLITS
from tfrecords.sources import find_layout

LARGEST_BYTES = 1_900_000_000  # of weights; a protobuf or flatbuffer holds at most 2 GiB
PACKAGES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "torchscript": ("torch",)}  # beside the project's own
EXTRAS = {"onnx": "onnx", "torchscript": "clip"}  # of setup.py, that hold them
UNKNOWN_BLOCKS = 10**6  # of an encoder that must be built to be known: `last N blocks` is then checked in training
OWN_SHARDS = re.compile(rf"{{run_dir}}/records/(?P<source>.+)-(?P<split>{'|'.join(SPLITS)})-[^/]+")

Check = Callable[[Run], None]
_anew: ContextVar[bool] = ContextVar("anew", default=False)  # what was begun counts for nothing: it may be removed


def before_run(run: Run, redo: bool = False) -> None:
    """For `guie run`, which does everything. Raises BadInput, one line of all that is wrong.

    What a run that has begun needs no more may be gone; with `redo` it is needed again.
    """
    token = _anew.set(redo)
    try:
        _expect(run, expect_sources, expect_encoder, expect_training, expect_own_shards, expect_scored, expect_formats)
    finally:
        _anew.reset(token)


def before_training(run: Run) -> None:
    """For `guie train`, which finds the records by itself."""
    _expect(run, expect_encoder, expect_training)


def before_records(run: Run) -> None:
    """For `guie tfrecords`."""
    _expect(run, expect_sources)


def expect_sources(run: Run) -> None:
    """Layouts, their options, roots; the names that `records.split.left_out` has; the table of merged classes."""
    names = [source.name for source in run.records.sources]
    if unknown := sorted(set(run.records.split.left_out) - set(names)):
        known = ", ".join(names) or "none"
        raise BadInput(f"records.split.left_out: no source {unknown[0]!r}; records.sources has {known}")
    built = not _anew.get() and (Path(run.run_dir) / "records" / "manifest.json").exists()
    for source in run.records.sources:
        layout = find_layout(source.layout)
        layout.options(source.options)
        if layout.rooted and not built and not (root := resolve_data_path(source.root, run.data_root)).exists():
            raise BadInput(f"source {source.name}: layout {source.layout}: {root} does not exist: is its root right?")
    if (merged := run.records.merge_classes) and not Path(merged).is_file():
        raise BadInput(f"records.merge_classes: expected a CSV file, {merged} does not exist")
    if (left_out := run.records.leave_out) and not Path(left_out).is_file():
        raise BadInput(f"records.leave_out: expected a CSV file, {left_out} does not exist")


def expect_encoder(run: Run) -> None:
    """The encoder at every size that is asked for, and its files."""
    entry = catalogue.expect(run.encoder)
    for phase in run.train.phases:
        size, overlap = geometry(run, phase)
        for each in (size, *run.embedder.sizes_px, *phase.keep.sizes_px):
            try:
                catalogue.expect(replace(run.encoder, image_size_px=each, patch_overlap_px=overlap))
            except BadInput as error:
                raise BadInput(f"phase {phase.name}: {error}") from None
    if _begun(run):  # the weights are in the checkpoint
        return
    if entry is None:
        weights.expect_keras(Path(run.encoder.name.removeprefix(catalogue.KERAS_FILE)), "encoder.name")
    elif run.encoder.weights != "none":
        weights.expect_source(run.encoder.weights, entry)


def expect_training(run: Run) -> None:
    """Phases, the fold, and what training reads beside the records of this run."""
    expect_phases(run)
    entry = None if run.encoder.name.startswith(catalogue.KERAS_FILE) else catalogue.find(run.encoder.name)
    blocks = UNKNOWN_BLOCKS
    if entry and entry.facts.transformer:
        blocks = {**entry.architecture, **run.encoder.architecture}["num_layers"]
    for number, phase in enumerate(run.train.phases):
        expect_phase(run, phase, _replicas(run))
        if not sees_features(phase) or run.devices.rehearse:
            catalogue.expect_square(run.encoder, f"phase {phase.name}, which trains on batches of images,")
        trained_blocks(phase, blocks)
        _expect_sources_of(run, phase)
        if blocks < UNKNOWN_BLOCKS and (init := head_start(run, number)) not in (None, "random"):
            width, wanted = estimates.encoder_costs(run.encoder, *geometry(run, phase)).width, run.embedder.loss_dim
            if width < wanted:
                came = f"{wanted}: {width} axes are all that {init} finds in features of {width} numbers"
                raise BadInput(f"embedder: expected a head of at most so many numbers, got {came}; or init=random")
    sources = _trained_sources(run)
    for part in folds.terms(run.train.fold) if run.train.fold else ():
        if sources and part.startswith("domain ") and part.removeprefix("domain ").strip() not in sources:
            raise BadInput(f"train.fold: expected one of the sources {', '.join(sources)}, got {run.train.fold!r}")
    if _begun(run):
        return
    if run.train.init_from:
        _expect_checkpoint(Path(run.train.init_from))
    for key in ("records", "validation"):
        for pattern in getattr(run.train, key):
            if not pattern.startswith("{run_dir}") and not matching(pattern):
                raise BadInput(f"train.{key}: no shard matches {pattern}")


def expect_own_shards(run: Run) -> None:
    """Shards of this run's records that are trained or scored on: their split must have a share, their source a name.

    Without sources the records are there already, or nowhere.
    """
    split, names = run.records.split, [source.name for source in run.records.sources]
    made = {name for name in SPLITS if getattr(split, name) > 0} | set(run.records.whole_splits.values())
    for key, pattern in (*_patterns(run, "train", ("records",)), *_patterns(run, "score", ("index", "queries"))):
        if not names:
            done = _begun(run) if key == "train.records" else _scored(run)
            if pattern.startswith("{run_dir}") and not done and not matching(run.in_run_dir([pattern])[0]):
                raise BadInput(f"{key}: no shard matches {pattern}, and records.sources is empty: nothing builds any")
            continue
        own = OWN_SHARDS.fullmatch(pattern)
        if own and own["split"] not in made:
            shares = ", ".join(f"{name} {getattr(split, name):g}" for name in SPLITS)
            empty = ", or score.index=[] to score nothing" if key.startswith("score") else ""
            raise BadInput(
                f"{key} names {own['split']} shards, but records.split ({shares}, left_out {split.left_out}) makes "
                f"none: give records.split.{own['split']} a share{empty}"
            )
        if own and not set("*?[") & set(own["source"]) and own["source"] not in names:
            raise BadInput(f"{key}: {pattern} is of no source; records.sources has {', '.join(names)}")


def expect_records(run: Run) -> None:
    """Once the records are built, and before hours of training: what is scored is there. Raises BadInput."""
    for key, pattern in _patterns(run, "score", ("index", "queries")):
        own = OWN_SHARDS.fullmatch(pattern)
        if own and not _scored(run) and not matching(run.in_run_dir([pattern])[0]):
            raise BadInput(
                f"{key}: no shard matches {pattern}: no class went to {own['split']}: raise records.split."
                f"{own['split']}, or score.index=[] to score nothing"
            )


def expect_scored(run: Run) -> None:
    """Folders, shards and public sets outside the run folder that are scored on."""
    if _scored(run):
        return
    for key, pattern in _patterns(run, "score", ("index", "queries")):
        if not pattern.startswith("{run_dir}"):
            try:
                expect_data(pattern)
            except BadInput as error:
                raise BadInput(f"{key}: {error}") from None


def expect_formats(run: Run) -> None:
    """Formats that the embedder can be written in, as far as is known without building it; their packages."""
    wanted = formats_beside(run)
    for name in wanted:
        lacking = [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
        if lacking:
            raise missing(f"export.formats: {name} needs", lacking[0], EXTRAS[name])
    limited = [name for name in wanted if name in ("onnx", "litert")]
    if limited and estimates.is_transformer(run.encoder):
        size = 4 * estimates.encoder_costs(run.encoder).parameters
        if size > LARGEST_BYTES:
            raise BadInput(
                f"export.formats: {limited[0]} holds at most {LARGEST_BYTES / 1e9:.1f} GB of weights, this encoder has "
                f"{size / 1e9:.1f}; saved_model and torchscript have no limit"
            )


def formats_beside(run: Run) -> list[str]:
    """The formats that are asked for beside the SavedModel; BadInput for what they cannot hold."""
    wanted = [name for name in run.export.formats if name != "saved_model"]
    if wanted and run.embedder.sizes_px:
        raise BadInput(
            "export.formats: embedder.sizes_px averages several sizes, for saved_model only; drop the others"
        )
    if run.encoder.fit == "aspect" and (wanted or run.export.crops > 1):
        what = "images keep their aspect, which saved_model can alone, and of an image as a whole"
        raise BadInput(f"export: encoder.fit is aspect: {what}: drop the other formats, and crops")
    squashing = [name for name in wanted if name in ("onnx", "torchscript")]  # LiteRT's images are square already
    if squashing and (fit := run.encoder.fit or "squash") != "squash":
        what = f"{' and '.join(squashing)} would squash images to a square, but encoder.fit is {fit}"
        raise BadInput(f"export.formats: {what}; for saved_model only: drop the others, or use fit=squash")
    return wanted


def _expect(run: Run, *checks: Check) -> None:
    wrong = []
    for check in checks:
        try:
            check(run)
        except BadInput as error:
            wrong.append(str(error))
    if wrong:
        raise BadInput("; and ".join(dict.fromkeys(wrong)))


def _expect_sources_of(run: Run, phase: Phase) -> None:
    """`domain_shares` has the sources, all but one that a fold holds out."""
    given, sources = set(phase.sampling.domain_shares), set(_trained_sources(run))
    held = {part.removeprefix("domain ").strip() for part in run.train.fold.split("+")}
    if given and sources and (odd := (given - sources) | (sources - given - held)):
        raise BadInput(
            f"phase {phase.name}: sampling.domain_shares: expected a share of every source "
            f"({', '.join(sorted(sources))}) and of no other, they differ in {', '.join(sorted(odd))}"
        )


def _trained_sources(run: Run) -> Sequence[str]:
    """The sources of the records that are trained on; empty where only those records tell."""
    if any(pattern != "{run_dir}/records/*-train-*.tfrec" for pattern in run.train.records):
        return ()
    return [source.name for source in run.records.trained_sources]


def _expect_checkpoint(path: Path) -> None:
    held = weights.SafeTensors(path) if path.is_file() else None
    if held is None or not any(name.startswith("embedder/") for name in held):
        came = "does not exist" if held is None else "holds no embedder"
        raise BadInput(f"train.init_from: expected a checkpoint of guie, {path} {came}")


def _patterns(run: Run, section: str, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, pattern) of some lists of patterns."""
    for key in keys:
        for pattern in getattr(getattr(run, section), key):
            yield f"{section}.{key}", pattern


def _replicas(run: Run) -> int:
    """As far as the config says; 1 where only the devices tell."""
    if run.devices.kind == "tpu":
        return 1
    return max(run.devices.replicas, 1) * max(len(run.devices.hosts), 1)


def _scored(run: Run) -> bool:
    return not _anew.get() and (Path(run.run_dir) / "metrics.json").exists()


def _begun(run: Run) -> bool:
    """Whether training has begun, of each seed: what it began with is in the checkpoint, and may be gone since."""
    folders = [Path(each.run_dir) / "checkpoints" for each in seeds_of(run)]
    return not _anew.get() and all(next(folder.glob("step-*"), None) for folder in folders)
