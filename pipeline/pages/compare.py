"""COMMAND  finished runs → how far each is ahead of the first, as a table and as a page.

guie compare RUN RUN [RUN …] [--out compare.html]
<run_dir>/metrics.json, precisions.npz, scored/, config.yaml of each → a table on the screen; compare.html, one file

Where two runs scored the same queries, their difference is taken query by query, and the page shows those that changed
most, with their neighbours in both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console, files
from pipeline.errors import BadInput
from pipeline.evaluation import scored
from pipeline.evaluation.precisions import WHOLE
from pipeline.evaluation.score_table import Table
from pipeline.guards.masked import for_screen
from pipeline.pages import atlas, compared, neighbours, verdict
from pipeline.pages.compared import Side
from pipeline.pages.render import count, render
from pipeline.retrieval import intervals

THUMBNAIL_PX, QUALITY = 112, 78
MOST_CHANGED = 16  # queries of a page, over all runs
NOT_PAIRED = "*"
PAIRED_NOTE = "±: half the width of the 95 % interval; a difference is taken query by query"
NOT_PAIRED_NOTE = f"{NOT_PAIRED} not the same queries: the runs' intervals are taken as independent, which settles less"


@dataclass(frozen=True)
class Options:
    runs: tuple[Path, ...]
    out: Path | None = None


def main(options: Options) -> None:
    """Raises BadInput: fewer than two runs, one that was not scored, or whose files are damaged."""
    if len(options.runs) < 2:
        raise BadInput(f"expected two runs or more to compare, got {len(options.runs)}")
    names = compared.names(list(options.runs))
    sides = [compared.open_run(folder, name) for folder, name in zip(options.runs, names, strict=True)]
    header, rows = table(sides)
    print(console.table(header, rows))
    for note in notes(sides, rows):
        print(note)
    if options.out:
        text = page(sides)
        files.write_text(options.out, text)
        print(f"compare: {options.out}, {len(text.encode()) / 1e6:.1f} MB")
    for other in sides[1:]:
        print(f"compare: {sentence(sides[0], other)}")


def table(sides: list[Side]) -> Table:
    """A row a domain and the whole: every run's mP@5, and each one's difference to the first."""
    first, others = sides[0], sides[1:]
    header = ["mP@5", *(side.name for side in sides), *(f"{side.name} − {first.name}" for side in others)]
    rows = []
    for group, name in compared.groups(sides).items():
        scores = [compared.of_group(side, group) for side in sides]
        row = [intervals.text(each["mP@5"], each.get("interval")) if each else "–" for each in scores]
        rows.append([name, *row, *(_difference(first, other, group) for other in others)])
    return header, rows


def notes(sides: list[Side], rows: list[list[str]]) -> list[str]:
    """What the table's signs mean, and what it does not show."""
    cells = [cell for row in rows for cell in row[1 + len(sides) :]]
    found = [PAIRED_NOTE] * any(cell != "–" and not cell.endswith(NOT_PAIRED) for cell in cells)
    found += [NOT_PAIRED_NOTE] * any(cell.endswith(NOT_PAIRED) for cell in cells)
    sizes = {
        tuple((name, each.get("index")) for name, each in sorted(side.result["domains"].items())) for side in sides
    }
    found += ["the indexes differ, too: a larger one is harder"] * (len(sizes) > 1)
    found += [
        f"the scores of {side.name} are of an earlier config ({for_screen(side.outdated)}): `guie run` scores again"
        for side in sides
        if side.outdated
    ]
    if seeded := [side.name for side in sides if side.result.get("seeds")]:
        found.append(f"of the seeds of {', '.join(seeded)} the mean of each query is compared")
    return found


def sentence(first: Side, other: Side) -> str:
    """The whole, in words."""
    groups = list(compared.groups([first, other]))
    group = WHOLE if WHOLE in groups else groups[0]
    ahead = compared.difference(first, other, group)
    if ahead is None:
        return f"{other.name} and {first.name} have no score in common"
    if ahead.paired and not any(ahead.bounds):
        return f"{other.name} and {first.name} scored every query alike"
    by = intervals.text(abs(ahead.mean), ahead.bounds, ".3f")
    if ahead.word == verdict.OPEN:
        signed = intervals.text(ahead.mean, ahead.bounds, "+.3f")
        return f"whether {other.name} is better than {first.name} is not settled: {signed}"
    return f"{other.name} is {ahead.word} than {first.name} by {by}"


def page(sides: list[Side]) -> str:
    """compare.html."""
    header, rows = table(sides)
    first, others = sides[0], sides[1:]
    most = max(2, MOST_CHANGED // (2 * len(others)))
    return render(
        "compare.html",
        title=f"guie compare: {', '.join(side.name for side in sides)}",
        sentences=[sentence(first, other) + "." for other in others],
        scores=(header, rows),
        notes=[_capital(note) for note in notes(sides, rows)],
        folders=[[side.name, str(side.folder)] for side in sides],
        names=[side.name for side in sides],
        keys=compared.keys_that_differ(sides),
        configs=all(side.config for side in sides),
        changes=[_changes(first, other, most) for other in others],
    )


def _difference(first: Side, other: Side, group: str) -> str:
    ahead = compared.difference(first, other, group)
    if ahead is None:
        return "–"
    text = f"{intervals.text(ahead.mean, ahead.bounds, '+.3f')} {ahead.word}"
    return text if ahead.paired else f"{text} {NOT_PAIRED}"


def _changes(first: Side, other: Side, most: int) -> dict[str, Any]:
    """What the template shows of the queries that changed; `why`: why there are none."""
    gained, lost, change = compared.changed(first, other, most)
    found: dict[str, Any] = {"name": other.name, "first": first.name, "why": "", "gained": [], "lost": []}
    if not len(change):
        kept = first.images is not None and other.images is not None
        found["why"] = "They scored other queries." if kept else "One of them keeps no scored vectors: run it again."
        return found
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    same = len(change) - better - worse
    found["counts"] = f"{count(better)} queries gained, {count(worse)} lost, {count(same)} stayed as they were."
    if not (chosen := [*gained, *lost]):
        return found
    seen = [(side.name, _pictured(side, chosen)) for side in (first, other)]
    rows = [
        {
            "change": f"{change[at]:+.2f}",
            "query": seen[0][1].query(number, "query"),
            "sides": [(name, shown.neighbours(number)) for name, shown in seen],
        }
        for number, at in enumerate(chosen)
    ]
    return {**found, "gained": rows[: len(gained)], "lost": rows[len(gained) :]}


def _pictured(side: Side, chosen: list[int]) -> atlas.Pictured:
    """Some queries of a run with their neighbours."""
    assert side.images is not None
    inspected = neighbours.inspect(side.images, chosen=np.array(chosen))
    return atlas.Pictured(inspected, _listed(side), range(len(chosen)), THUMBNAIL_PX)


def _listed(side: Side) -> atlas.Images:
    """The images that a run scored, as far as they can be found."""
    run = side.config
    if run is None:
        return {}
    try:
        return scored.images(*run.scored_data)
    except BadInput as error:
        print(f"compare: without the pictures of {side.name}: {for_screen(str(error))}")
        return {}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
