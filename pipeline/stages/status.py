"""COMMAND status: what of a run folder is done, what is stale and why, what is missing.

guie status RUN [KEY=VALUE …]
<run_dir>/ → a table on the screen; nothing is made, TensorFlow is not loaded
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import marks
from pipeline.config import Run, seeds_of
from pipeline.console import table
from pipeline.errors import BadInput
from pipeline.quiet import import_quietly
from pipeline.stages import depends
from pipeline.training import checkpoints

DONE, STALE, MISSING = "done", "stale", "missing"


class Row(NamedTuple):
    stage: str
    state: str
    why: str


def main(run: Run) -> None:
    """Raises BadInput where there is no run folder."""
    folder = Path(run.run_dir)
    if not folder.is_dir():
        raise BadInput(f"expected a run folder, {folder} does not exist: `guie run` makes it")
    rows = table_rows(run)
    print(f"status: {folder}")
    print(table(Row._fields, rows, left=len(Row._fields)))


def table_rows(run: Run) -> list[Row]:
    """A row a stage, in the order in which `guie run` takes them; a seed's stages after its name."""
    rows: list[Row] = []
    if run.records.sources and not of_another_run(run):
        rows.append(row("records", lambda: import_quietly("tfrecords.build").reasons(run)))
        rows.append(row("contact sheet", of(depends.contact_sheet, run), rows[-1:]))
    records, ends = rows[:1], []
    for each in seeds_of(run):
        seed = f"{Path(each.run_dir).name} " if run.seeds else ""
        rows.append(row(f"{seed}train", partial(checkpoints.reasons, each), records))
        rows.append(row(f"{seed}export", of(depends.export, each), rows[-1:]))
        if run.score.index:
            rows.append(row(f"{seed}score", of(depends.score, each), rows[-1:]))
            ends.append(rows[-1])
            rows.append(row(f"{seed}report", of(depends.report, each), rows[-1:]))
    if run.score.index and run.seeds:
        rows.append(row("score", of(depends.score_of_seeds, run, seeds_of(run)), ends))
        rows.append(row("report", of(depends.report, run), rows[-1:]))
    return rows


def of_another_run(run: Run) -> bool:
    """Whether the training's records lead out of the run folder, as a seed's: the folder above builds them."""
    return any(pattern.startswith("{run_dir}/..") for pattern in run.train.records)


def of(stage: Callable[..., marks.Stage], *given: Any) -> Callable[[], list[str]]:
    """Why the stage that `stage(*given)` describes is not done; nothing is written."""
    return lambda: stage(*given).reasons(renew=False)


def row(stage: str, reasons: Callable[[], list[str]], before: list[Row] | None = None) -> Row:
    """A stage's row; a stage whose own files are whole is stale where one before it is not done."""
    try:
        why = reasons()
    except BadInput as error:  # what it is made of is gone, or damaged
        why = [str(error)]
    if why == [marks.NEVER]:
        return Row(stage, MISSING, "")
    late = [each.stage for each in before or [] if each.state != DONE]
    if why or late:
        return Row(stage, STALE, marks.said(why or [f"{late[0]} is not done"]))
    return Row(stage, DONE, "")
