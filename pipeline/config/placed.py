"""Runs that stand below another run's folder."""

from dataclasses import replace
from pathlib import Path

from pipeline.config.schema import Run
from pipeline.errors import BadInput


def below(run: Run, folder: str) -> Run:
    """The run in `folder` of its own run folder, on the same records and features.

    Paths lead out of that folder by `..`, so that the recipe stays the same where the run folder is moved.
    """
    up = "/..".join(["{run_dir}", *[""] * len(Path(folder).parts)])

    def shared(patterns: list[str]) -> list[str]:
        return [pattern.replace("{run_dir}", up) for pattern in patterns]

    train = replace(
        run.train,
        records=shared(run.train.records),
        validation=shared(run.train.validation),
        features_dir=shared([run.train.features_dir])[0],
    )
    score = replace(run.score, index=shared(run.score.index), queries=shared(run.score.queries))
    return replace(run, run_dir=run.run_dir + f"/{folder}", seeds=[], train=train, score=score)


def seeds_of(run: Run) -> list[Run]:
    """The run of each seed, in a folder of its own; without seeds the run. BadInput for a seed that stands twice."""
    if len(set(run.seeds)) < len(run.seeds):
        raise BadInput(f"seeds: expected each once, got {run.seeds}")
    return [_of_seed(run, seed) for seed in run.seeds] or [run]


def _of_seed(run: Run, seed: int) -> Run:
    """On the records and features of the whole."""
    placed = below(run, f"seed-{seed}")
    return replace(placed, name=run.name + f", seed {seed}", train=replace(placed.train, seed=seed))
