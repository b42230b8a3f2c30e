"""Runs that stand below another run's folder."""

from dataclasses import replace
from pathlib import Path

from pipeline.config.schema import Run


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
