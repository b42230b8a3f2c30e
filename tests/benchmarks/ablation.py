"""The ablation of docs/ablation.md: one change a row, measured by `guie sweep`'s own folds.

python -m tests.benchmarks.ablation [TABLE … | page]     GUIE_DATA=…/shared/data; what is done is not trained again
runs/<config>/sweep/trials/ → docs/ablation.md

Each row is `guie sweep CONFIG sweep.trials=1 KEY=VALUE …` with the table's keys and the row's. Differences are to the
table's first row, query by query. Tables can be measured side by side; the page has the rows that are finished, and
keeps what stands before the first table, and a table of which no row is finished here.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config, files
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.quiet import import_quietly
from tests.benchmarks.ablation_rows import TABLES, Table

open_records = import_quietly("pipeline.data.batches").open_records  # as the commands: with the allocator's settings
fold_scores = import_quietly("pipeline.selection.fold_scores")

PAGE = Path("docs/ablation.md")
NOT_RUN = "<!-- not run: hours of trainings, by make ablation -->"  # tests/docs reads it
BASELINES = {fold_scores.RAW: "the encoder's raw features", fold_scores.PCA: "PCA-64"}
BASELINES[fold_scores.HALF_WHITENED] = "half-whitened PCA-64"


@dataclass(frozen=True)
class Line:
    title: str
    keys: str
    scores: dict[str, Any]  # as `fold_scores.scores`, ahead of the table's first row
    seconds: float | None


def measured(table: Table, train: bool) -> list[Line]:
    """The rows of one table and its baselines; rows that are not trained yet are left out where `train` is false."""
    first = load(table, ())
    if not train and not any(map(files.matching, first.in_run_dir(first.train.records))):
        return []
    records = open_records(first.in_run_dir(first.train.records))
    names = fold_scores.names(first.sweep, records)
    lines: list[Line] = []
    base: Any = None
    for number, (title, *keys) in enumerate(table.rows, start=1):
        try:
            run = load(table, keys)
            if not train and not finished(run, records, names):
                continue
            precisions, seconds = fold_scores.trained(run, records, names)
        except BadInput as error:
            raise SystemExit(f"{table.name}, {title}: {error}") from None
        base = base or precisions
        compared = {fold_scores.RAW: base, fold_scores.HALF_WHITENED: base}
        lines.append(Line(title, shlex.join(keys), fold_scores.scores(precisions, compared), seconds))
        if train:
            print(f"{table.name} {number}/{len(table.rows)}: {' | '.join(cells(lines[-1]))}", flush=True)
    if base is None:
        return []
    compared = {fold_scores.RAW: base, fold_scores.HALF_WHITENED: base}
    references = fold_scores.baselines(first, records, names)
    return lines + [
        Line(title, "", fold_scores.scores(references[name], compared), None) for name, title in BASELINES.items()
    ]


def load(table: Table, keys: tuple[str, ...] | list[str]) -> Run:
    return config.load(Run, Path(table.config), [*table.keys, *keys])


def finished(run: Run, records: Any, names: list[str]) -> bool:
    recipe = fold_scores.recipe(run, records)
    folders = [fold_scores.of_fold(run, recipe, fold, seed).run_dir for fold in names for seed in run.sweep.seeds]
    return all((Path(folder) / fold_scores.DONE).exists() for folder in folders)


def cells(line: Line) -> list[str]:
    found = [line.title, f"`{line.keys}`" if line.keys else ""]
    for kind in fold_scores.COMPARED:
        if kind not in line.scores:  # of whose folds the table has none
            found += ["", ""]
            continue
        for each, form in ((line.scores[kind], ".4f"), (line.scores[kind]["ahead"], "+.4f")):
            low, high = each["interval"]
            half = f" ±{(high - low) / 2:.4f}" if high > low else ""
            found.append(f"{each['mean']:{form}}{half}")
    return [*found, "" if line.seconds is None else f"{line.seconds:,.0f}"]


def page(tables: list[tuple[Table, list[Line]]]) -> str:
    """The page: its introduction, then each table."""
    first, *before = PAGE.read_text(encoding="utf-8").split("\n## ") if PAGE.exists() else ["# Ablation"]
    texts = [first.rstrip()]
    for table, lines in tables:
        if not lines:
            texts += [f"## {each.rstrip()}" for each in before if each.startswith(f"{table.title}\n")]
            continue
        header = ["change", "keys", "class", "− first row", "domain", "− first row", "s"]
        rows = [header, ["---"] * len(header), *map(cells, lines)]
        drawn = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        keys = shlex.join([table.config, "sweep.trials=1", *table.keys])
        texts.append(f"## {table.title}\n\n{table.said}\n\n{NOT_RUN}\n```\nguie sweep {keys} KEYS\n```\n\n{drawn}")
    return "\n\n".join(texts) + "\n"


def main(asked: list[str]) -> None:
    """Without `asked` every table is measured; `page` measures none."""
    if unknown := set(asked) - {"page", *(table.name for table in TABLES)}:
        raise SystemExit(f"expected tables among {', '.join(t.name for t in TABLES)}, got {', '.join(sorted(unknown))}")
    found = [(table, measured(table, table.name in asked or not asked)) for table in TABLES]
    files.write_text(PAGE, page(found))
    print(f"→ {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
