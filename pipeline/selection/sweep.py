"""COMMAND sweep: a config and a space of its keys → the recipe that scores best on folds of the training records.

guie sweep CONFIG [KEY=VALUE …]
<run_dir>/records/*-train-*.tfrec → <run_dir>/sweep/: table.csv, best.yaml, study.db, trials/, baselines/

The first trial is the config as it is; `sweep.trials=1` measures it alone. Optuna's TPE chooses the others from
`sweep.space`. The best is that with the highest mean of both numbers of `fold_scores`; the table shows each, so that
a reader may choose otherwise.

The same command goes on where it was stopped. A study belongs to the recipe, the records, the folds and the space; of
several in one run folder the files are those of the last one asked for. Equal recipes are trained once for all.

Source of TPE: Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from pipeline import config, files
from pipeline.config import Run, packaged
from pipeline.config.loading import set_key
from pipeline.config.phase_keys import expect_phases
from pipeline.data.batches import RecordSet, damage_is_bad_input, open_records
from pipeline.errors import BadInput, reason
from pipeline.guards.masked import for_screen, shown, without_passwords
from pipeline.selection import fold_scores, sweep_table
from pipeline.selection.sweep_table import Row

SECTIONS = ("embedder", "encoder", "train")  # whose keys decide what is trained
# Keys of `train` that the sweep itself sets, or that decide no score.
OF_THE_SWEEP = ("seed", "fold", "records", "validation", "features_dir", "validate_every_epochs")
TITLES = {fold_scores.RAW: "raw features", fold_scores.PCA: "PCA-{}", fold_scores.HALF_WHITENED: "half-whitened PCA-{}"}
AS_IT_IS = "the config as it is"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]


@dataclass(frozen=True)
class Options:
    config: Run
    path: Path  # the file that it was read from, with the overrides
    overrides: tuple[str, ...] = ()


@damage_is_bad_input()
def main(options: Options) -> None:
    """Measures the trials that are missing, prints the table and writes it beside the best config.

    Raises BadInput: a key of the space that does not exist or of which no value can be; no records, phases or folds.
    What the other recipes raise prunes their trial.
    """
    run = options.config
    expect_phases(run)
    space = open_space(options)
    if not run.sweep.seeds or len(set(run.sweep.seeds)) < len(run.sweep.seeds):
        raise BadInput(f"sweep.seeds: expected one or more, each once, got {run.sweep.seeds}")
    if run.devices.hosts or run.devices.rehearse:
        raise BadInput("expected devices.hosts and devices.rehearse to be unset: a sweep trains on one host")
    records = open_records(run.in_run_dir(run.train.records))
    folds = fold_scores.names(run.sweep, records)
    folder = Path(run.run_dir) / "sweep"
    said = f"{len(folds)} folds ({', '.join(folds)}) × {len(run.sweep.seeds)} seed(s)"
    print(f"sweep: {len(records):,} images, {said} → {folder}", flush=True)
    references = fold_scores.baselines(run, records, folds)

    def measure(tried: Run) -> dict[str, Any]:
        precisions, seconds = fold_scores.trained(tried, records, folds)
        found = fold_scores.scores(precisions, references)
        return {"scores": found, "seconds": seconds, "recipe": fold_scores.recipe(tried, records)}

    study = open_study(run, records, folder)
    search(study, space, options, measure)
    rows = trial_rows(study)
    best = max((row for row in rows if row.scores), key=lambda row: row.both)
    for name, precisions in references.items():
        title = TITLES[name].format(run.embedder.embedding_dim)
        rows.append(Row("baseline", title, scores=fold_scores.scores(precisions, references)))
    rows.sort(key=lambda row: row.both, reverse=True)
    print(sweep_table.drawn(rows))
    files.write_csv(folder / "table.csv", *sweep_table.as_csv(rows))
    files.write_text(folder / "best.yaml", best_config(options, best))
    print(f"sweep: the best is {best.title} → {folder}/table.csv, {folder}/best.yaml")


def open_space(options: Options) -> Space:
    """`sweep.space` as Optuna has it; BadInput for a key that is none, or of which no value goes with the config."""
    space = {key: distribution(key, values) for key, values in options.config.sweep.space.items()}
    for key, each in space.items():
        section, _, rest = key.partition(".")
        if section not in SECTIONS or (section == "train" and rest.split(".")[0] in OF_THE_SWEEP):
            raise BadInput(f"sweep.space: expected keys of {', '.join(SECTIONS)} that decide the training, got {key}")
        values = each.choices if isinstance(each, CategoricalDistribution) else (each.low, each.high)
        refused = []
        for value in values:
            try:
                config.load(Run, options.path, [*options.overrides, *overrides_of({key: value})])
                break
            except BadInput as error:
                refused.append(error)
        else:
            raise BadInput(f"sweep.space: {key}: {refused[0]}")
    return space


def distribution(key: str, values: Any) -> Distribution:
    """One entry of `sweep.space`. Choices are texts as on the command line, for Optuna keeps no lists or mappings.

    >>> distribution("train.loss.name", ["arcface", "supcon"])
    CategoricalDistribution(choices=('"arcface"', '"supcon"'))
    >>> distribution("train.phases.0.epochs", {"low": 1, "high": 9})
    IntDistribution(high=9, log=False, low=1, step=1)
    """
    if isinstance(values, list) and values:
        return CategoricalDistribution(list(dict.fromkeys(map(_text, values))))
    if isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        low, high, log = values["low"], values["high"], values.get("log", False)
        if type(low) in (int, float) and type(high) in (int, float) and isinstance(log, bool):
            made = IntDistribution if type(low) is type(high) is int else FloatDistribution
            try:
                return made(low, high, log=log)
            except ValueError as error:
                raise BadInput(f"sweep.space: {key}: {reason(error)}") from None
    raise BadInput(f"sweep.space: {key}: expected a list of values or {{low:, high:, log: true}}, got {values!r}")


def overrides_of(params: dict[str, Any]) -> tuple[str, ...]:
    """KEY=VALUE of what Optuna chose, in the order of the keys: a section before a key in it.

    >>> overrides_of({"train.phases.0.learning_rate": 0.0068240784, "train.loss": '{"name": "supcon"}'})
    ('train.loss={"name": "supcon"}', 'train.phases.0.learning_rate=0.006824')
    """

    def text(value: Any) -> str:
        return value if isinstance(value, str) else _text(float(f"{value:.4g}") if isinstance(value, float) else value)

    return tuple(f"{key}={text(params[key])}" for key in sorted(params))


def open_study(run: Run, records: RecordSet, folder: Path) -> optuna.Study:
    """The study of this config in study.db; trials that a kill left unfinished are queued again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    decides = [
        asdict(each) for each in (run.encoder, run.embedder, run.train, run.devices, replace(run.sweep, trials=1))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').resolve()}",
        study_name=files.fingerprint([decides, records.digest]),
        direction="maximize",
        load_if_exists=True,
    )
    for stale in study.get_trials(states=[TrialState.RUNNING]):
        study.enqueue_trial(stale.params)
        study.tell(stale.number, state=TrialState.FAIL)
    return study


def search(study: optuna.Study, space: Space, options: Options, measure: Callable[[Run], dict[str, Any]]) -> None:
    """Measures the config as it is, then what the sampler asks for, until the study has `sweep.trials`."""
    trials = options.config.sweep.trials if space else 1

    def ended() -> int:
        return len(study.get_trials(deepcopy=False, states=ENDED))

    if done := ended():
        print(f"sweep: {min(done, trials)} of {trials} trials are done already", flush=True)
    else:
        found = measure(options.config)
        params = own_params(options.config, space)
        study.add_trial(
            optuna.create_trial(
                params=params,
                distributions={key: space[key] for key in params},
                value=found["scores"]["both"],
                user_attrs={**found, "own": True},
            )
        )
        print(f"sweep: trial 1 of {trials}: {_line(found)}; {AS_IT_IS}", flush=True)
    while (done := ended()) < trials:
        # By the number of trials: a sweep that was stopped asks for the same ones as one that was not.
        study.sampler = optuna.samplers.TPESampler(seed=done)
        trial = study.ask({**space})
        overrides = overrides_of(trial.params)
        try:
            found = measure(config.load(Run, options.path, [*options.overrides, *overrides]))
        except BadInput as error:
            trial.set_user_attr("pruned", for_screen(str(error)))
            study.tell(trial, state=TrialState.PRUNED)
            said = f"pruned: {error}"
        else:
            for name, value in found.items():
                trial.set_user_attr(name, value)
            study.tell(trial, found["scores"]["both"])
            said = _line(found)
        print(f"sweep: trial {done + 1} of {trials}: {said}; {' '.join(overrides)}", flush=True)


def own_params(run: Run, space: Space) -> dict[str, Any]:
    """The config's own values, as the space has them; without keys whose value the space lacks."""
    whole = shown(asdict(run))  # as the choices are
    found: dict[str, Any] = {}
    for key, each in space.items():
        value = _at(whole, key)
        if isinstance(each, CategoricalDistribution):
            same = [text for text in each.choices if json.loads(str(text)) == value]
            found |= {key: same[0]} if same else {}
        elif type(value) in (int, float) and each.low <= value <= each.high:
            whole_only = isinstance(each, IntDistribution)
            if not whole_only or value == int(value):
                found[key] = int(value) if whole_only else float(value)
    return found


def _at(node: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        if isinstance(node, list):
            node = dict(enumerate(node)).get(int(part))
        else:
            node = node.get(part) if isinstance(node, dict) else None
    return node


def trial_rows(study: optuna.Study) -> list[Row]:
    """A row for each recipe that was measured and each choice that was pruned, in the order of the trials."""
    found: dict[str, Row] = {}
    for trial in study.get_trials(deepcopy=False, states=ENDED):
        kept = trial.user_attrs
        overrides = overrides_of(trial.params)
        if "pruned" in kept:
            row = Row("pruned", " ".join(overrides), overrides, pruned=kept["pruned"])
        elif "own" in kept:
            row = Row("own", AS_IT_IS, (), kept["scores"], kept["seconds"])
        else:
            row = Row("trial", " ".join(overrides), overrides, kept["scores"], kept["seconds"])
        found.setdefault(kept.get("recipe", row.title), row)
    return list(found.values())


def best_config(options: Options, best: Row) -> str:
    """The config's own keys with the overrides of the command and of the best trial, as YAML.

    Its run folder is the sweep's: the records and the features are there.
    """
    run, given = options.config, OmegaConf.load(packaged.find(options.path))
    place = [f"name={_text(run.name)}", f"run_dir={_text(run.run_dir)}"]
    for each in [*options.overrides, *best.overrides, *place]:
        key, _, text = each.partition("=")
        set_key(given, key, text)
    head = f"# The best of `guie sweep {options.path}`: {best.title}; {sweep_table.said(best.scores or {})}\n"
    return head + without_passwords(OmegaConf.to_yaml(given))


def _text(value: Any) -> str:
    """A value of the YAML as a command line has it: JSON is YAML."""
    return json.dumps(shown(value), ensure_ascii=False)


def _line(found: dict[str, Any]) -> str:
    return f"{sweep_table.said(found['scores'])}, {found['seconds']:,.0f} s"
