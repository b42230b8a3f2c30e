"""COMMAND soup: finished runs of one architecture → a run folder with the mean of their weights.

guie soup RUN_DIR RUN_DIR … --out DIR [--greedy]
<run_dir>/config.yaml, <run_dir>/checkpoints/ → DIR/config.yaml, DIR/checkpoints/step-*.safetensors

Uniform: the mean of all. Greedy: runs join by falling mP@5 on the validation records of the first one's config, each
where the mean's mP@5 does not fall. Means are of use where the runs started from the same weights, the head's too. A
head's PCA is no mean of theirs: it is fitted anew, to the training records of the first one's config.

Source: Wortsman et al., Model soups, ICML 2022.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from pipeline import config, files
from pipeline.config import Run
from pipeline.console import table
from pipeline.data import folds
from pipeline.data.batches import RecordSet, damage_is_bad_input, open_records
from pipeline.data.records import open_any
from pipeline.errors import BadInput
from pipeline.models import embedder as embedders
from pipeline.models.weights.variables import weights_digest
from pipeline.retrieval import intervals
from pipeline.retrieval.precisions import precisions
from pipeline.training import checkpoints, devices, inputs, phases
from pipeline.training.feature_cache import Encodings

# Keys of `encoder` that change no served number, or that a checkpoint says itself.
OF_TRAINING = ("stochastic_depth", "checkpointing", "image_size_px", "patch_overlap_px")


@dataclass(frozen=True)
class Options:
    runs: tuple[Path, ...]
    out: Path
    greedy: bool = False


@dataclass(frozen=True)
class Ingredient:
    """A finished run."""

    run: Run  # as run, `run_dir` where it lies now
    checkpoint: Path
    state: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.run_dir

    @property
    def alike(self) -> dict[str, Any]:
        """What all runs of a soup share beside the shapes of their variables: else these mean other things in each."""
        encoder = dataclasses.asdict(self.run.encoder)
        return {
            **{f"encoder.{key}": value for key, value in encoder.items() if key not in OF_TRAINING},
            **{key: self.state.get(key) for key in ("image_size_px", "patch_overlap_px")},
            "embedder.sizes_px": self.run.embedder.sizes_px,
            "train.fold": self.run.train.fold,  # what one holds out the others have trained on
        }


@damage_is_bad_input()
def main(options: Options) -> None:
    """Writes the soup of the runs, and prints its mP@5 beside theirs where there are validation records.

    Raises BadInput: fewer than two runs, or one twice; a run without a checkpoint, unfinished or of another
    architecture; `out` is one of them or holds other checkpoints; greedy without validation records.
    """
    folder = checkpoints.folder_of(options.out)
    places = [path.resolve() for path in options.runs]
    if len(set(places)) < max(2, len(places)):
        raise BadInput(f"expected two or more different RUN_DIR, got {', '.join(map(str, options.runs))}")
    if options.out.resolve() in places:
        raise BadInput(f"--out: {options.out} is one of the runs: choose another folder")
    ingredients = [open_ingredient(path) for path in options.runs]
    run = soup_config(ingredients[0].run, options.out)
    digests = [files.file_sha256(each.checkpoint) for each in ingredients]
    scored_on = [run.train.validation, run.train.fold] if options.greedy else []
    asked = files.fingerprint([digests, options.greedy, scored_on])
    if there := checkpoints.newest(folder):
        if checkpoints.read_state(there).get("soup", {}).get("asked") == asked:
            print(f"soup: done already, {there}")
            return
        raise BadInput(f"--out: {folder} holds other checkpoints than this soup's: choose another folder, or remove it")
    names = expect_alike(ingredients)
    records = validation_records(run)
    if records is None and options.greedy:
        raise BadInput(
            f"--greedy needs validation records, none match {', '.join(run.train.validation) or 'an empty list'} "
            f"(train.validation of {ingredients[0].name}): leave --greedy out, or build them with `guie tfrecords`"
        )
    print(f"soup: reads {len(ingredients)} checkpoints, writes {options.out}", flush=True)
    files.write_text(options.out / "config.yaml", config.to_yaml(run))
    oven = Oven(ingredients[0]) if records is not None or run.embedder.trained_dim else None
    if records is None or oven is None:
        members = ingredients
        print(f"soup: not scored, no validation records match {', '.join(run.train.validation) or 'an empty list'}")
    else:
        members = choose(ingredients, names, lambda values: oven.score(values, records), options.greedy)
    values = average([each.checkpoint for each in members], names)
    if oven and run.embedder.trained_dim:
        values = oven.with_own_pca(values)
    state = {
        **ingredients[0].state,
        "recipe": inputs.recipe(run),
        "metrics": [],
        "soup": {"asked": asked, "runs": [each.name for each in members]},
    }
    writer = checkpoints.Writer(folder, kept=1)
    writer.save(state["step"], values, state)
    writer.wait()
    print(f"soup: {checkpoints.newest(folder)}, of {len(members)} runs; `guie export {options.out}/config.yaml`")


def open_ingredient(folder: Path) -> Ingredient:
    """The run in `folder`, which may have moved since; BadInput: no checkpoint, no config, training not finished."""
    path = checkpoints.newest(checkpoints.folder_of(folder))
    if path is None:
        raise BadInput(f"expected a finished run, {folder} holds no checkpoint: run `guie train` first")
    state = checkpoints.read_state(path)
    as_run = folder / "config.yaml"
    if not state.get("finished"):
        raise BadInput(f"expected a finished run, {folder} stands at step {state['step']:,}: `guie train {as_run}`")
    return Ingredient(replace(config.load(Run, as_run), run_dir=str(folder)), path, state)


def soup_config(first: Run, out: Path) -> Run:
    """The first run's config in the soup's folder; its records stay where they are and are not built again."""
    placed = first.in_run_dir
    train = replace(first.train, records=placed(first.train.records), validation=placed(first.train.validation))
    train = replace(train, features_dir=placed([train.features_dir])[0])
    score = replace(first.score, index=placed(first.score.index), queries=placed(first.score.queries))
    records = replace(first.records, sources=[])
    name = out.resolve().name
    return replace(first, name=name, run_dir=str(out), seeds=[], records=records, train=train, score=score)


def expect_alike(ingredients: Sequence[Ingredient]) -> list[str]:
    """The names of the embedder's variables; BadInput names the first in which a run differs from the first run."""
    first = ingredients[0]
    wanted = _variables(first.checkpoint)
    for other in ingredients[1:]:
        found = _variables(other.checkpoint)
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                came = f"{found.get(name, 'absent')} in {other.name}, {wanted.get(name, 'absent')} in {first.name}"
                raise BadInput(f"expected runs of one architecture: {name} is {came}")
        for key, value in first.alike.items():
            if (came := other.alike[key]) != value:
                raise BadInput(
                    f"expected runs alike in {key}: it is {came!r} in {other.name}, {value!r} in {first.name}"
                )
    whole = [name for name, what in wanted.items() if not what.startswith("F")]
    held = [_read(each.checkpoint, whole) for each in ingredients]
    for name in whole:  # such as positions: a mean of them is none
        for other, tensors in zip(ingredients, held, strict=True):
            if not np.array_equal(tensors[name], held[0][name]):
                raise BadInput(
                    f"{name} holds whole numbers, others in {other.name} than in {first.name}: no mean of them"
                )
    return list(wanted)


def average(paths: Sequence[Path], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The mean of each variable over the checkpoints, summed in float64, of the dtype that it has there.

    One that is not of floats is taken from the first checkpoint.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(safe_open(path, framework="numpy")) for path in paths]
        return {name: _mean([file.get_tensor(name) for file in held]) for name in names}  # one variable at a time


def choose(
    ingredients: Sequence[Ingredient], names: Sequence[str], score: Callable[[dict], np.ndarray], greedy: bool
) -> list[Ingredient]:
    """The runs of the soup, all or, by `score` (variables → each query's precision, float [Q]), the greedy ones.

    Prints what each scores.
    """

    def of(members: Sequence[Ingredient]) -> np.ndarray:
        return score(average([each.checkpoint for each in members], names))

    alone = {each.name: of([each]) for each in ingredients}
    members = list(ingredients)
    if greedy:
        first, *others = sorted(ingredients, key=lambda each: -alone[each.name].mean())
        members, best = [first], alone[first.name]
        print(f"soup: {first.name}, mP@5 {_mean_text(best)}, is the best alone", flush=True)
        for each in others:
            tried = of([*members, each])
            joins = tried.mean() >= best.mean()
            said = "joins" if joins else "is left out"
            print(f"soup: with {each.name}, mP@5 {_mean_text(tried)}: {said}", flush=True)
            if joins:
                members, best = [*members, each], tried
    else:
        best = of(members)
    rows = [(each.name, _mean_text(alone[each.name]), "yes" if each in members else "no") for each in ingredients]
    print(table(["run", "mP@5", "in the soup"], [*rows, ("soup", _mean_text(best), "")]), flush=True)
    return members


def validation_records(run: Run) -> RecordSet | None:
    """What the run validates on, as `training_data.open_data` finds it; None where there is nothing."""
    if run.train.fold:
        return folds.split(run.train.fold, open_records(run.in_run_dir(run.train.records))).held
    return open_any(run.in_run_dir(run.train.validation))


class Oven:
    """The embedder of the runs, and its encoder's features of records."""

    def __init__(self, first: Ingredient):
        self.run = first.run
        if self.run.embedder.batch_norm and any(phase.trainable != "head" for phase in self.run.train.phases):
            why = "batch norm's statistics are of one encoder, and these runs trained one each"
            raise BadInput(
                f"{first.name}: embedder.batch_norm: {why}: soups of it are of runs that train the head alone"
            )
        self.found = devices.connect(self.run.devices)
        with self.found.strategy.scope():
            sizes = first.state.get("image_size_px"), first.state.get("patch_overlap_px")
            self.embedder = embedders.build(self.run, *sizes, fill=False)
        self.variables = self.embedder.variables
        checkpoints.restore(first.checkpoint, self.variables)  # refuses one of a config that has changed
        self.encodings = Encodings(self.run, self.found, self.embedder)
        self.features: dict[tuple[str, str], np.ndarray] = {}  # by the encoder's weights: a frozen one runs once

    def of(self, records: RecordSet, what: str) -> np.ndarray:
        """float32 [N, width], with the weights that are in place."""
        made_by = weights_digest(self.embedder.encoder.model.weights)
        self.features = {key: each for key, each in self.features.items() if key[0] == made_by}
        if (made_by, what) not in self.features:
            self.features[made_by, what] = self.encodings.of(records, what)
        return self.features[made_by, what]

    @cached_property
    def training_records(self) -> RecordSet:
        records = open_records(self.run.in_run_dir(self.run.train.records))
        return folds.split(self.run.train.fold, records).left if self.run.train.fold else records

    def with_own_pca(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The variables, and the embedder's, with a PCA fitted to the training records."""
        for name, variable in self.variables.items():
            variable.assign(values[name])
        if self.embedder.parts.pca is not None:
            phases.fit_pca(self.run, self.embedder, self, self.training_records)
        return {name: np.array(variable) for name, variable in self.variables.items()}

    def score(self, values: dict[str, np.ndarray], records: RecordSet) -> np.ndarray:
        """Precision@5 of the records, float64 [N], each a query among all others; as training validates."""
        self.with_own_pca(values)
        return precisions((self.embedder.head(self.of(records, "validation")).numpy(), records.labels))


def _mean_text(precisions: np.ndarray) -> str:
    return intervals.text(float(precisions.mean()), intervals.interval(precisions))


def _variables(path: Path) -> dict[str, str]:
    """The embedder's variables in a checkpoint: name → dtype and shape, such as "F32 [64, 8]"."""
    with safe_open(path, framework="numpy") as file:
        held = {name: file.get_slice(name) for name in file.keys() if name.startswith("embedder/")}  # noqa: SIM118
        return {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in held.items()}


def _read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in names}


def _mean(tensors: list[np.ndarray]) -> np.ndarray:
    first = tensors[0]
    if not np.issubdtype(first.dtype, np.floating):
        return first
    return np.mean(tensors, axis=0, dtype=np.float64).astype(first.dtype)
