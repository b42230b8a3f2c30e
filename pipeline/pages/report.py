"""COMMAND  a run folder → one HTML page that needs nothing beside it.

guie report CONFIG [KEY=VALUE …]
<run_dir>/metrics.json, metrics.jsonl, contact_sheet.jpg → <run_dir>/report.html
"""

import json
from pathlib import Path
from typing import Any

from pipeline import config, files, marks
from pipeline.config import Run
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.evaluation import score_table
from pipeline.guards.masked import for_screen, shown
from pipeline.pages import charts
from pipeline.pages.pictures import Figure, data_url, thumbnail
from pipeline.pages.render import render
from pipeline.stages import depends
from tfrecords.sources import Item

THUMBNAIL_PX = 160
OUTDATED = "These scores are of an earlier model or of other data"


def main(run: Run) -> None:
    """Raises BadInput where the run has no metrics.json yet."""
    folder = Path(run.run_dir)
    result = files.read_json(folder / "metrics.json")
    sheet = folder / "contact_sheet.jpg"
    stage = depends.report(run)
    if stage.is_done():
        print(f"report: done already, {folder / 'report.html'}")
        return
    mark = stage.begin(["report.html"])
    notes = score_table.notes(result)
    if why := depends.outdated_score(run):
        notes = [*notes, f"{OUTDATED} ({for_screen(marks.said(why))}): `guie run` scores again, see `guie status`."]
    try:
        items, missing = _scored_items(run), ""
    except BadInput as error:  # the scored images are gone since: the numbers stand without them
        items, missing = {}, for_screen(str(error))
    page = render(
        "report.html",
        title=f"{shown(run.name)}: {score_table.headline(result)}",
        unseen=result.get("classes_trained_on") == 0,
        notes=notes,
        scores=score_table.header_and_rows(result),
        differences=score_table.differences(result),
        seeds=list(result.get("seeds", {})),
        curves=[] if run.seeds else _curves(folder / "metrics.jsonl"),  # each seed has its own
        missing=missing,
        examples=[] if missing else [_example(items, each) for each in result.get("examples", [])],
        contact_sheet=data_url(sheet.read_bytes() if sheet.exists() else None),
        config=config.to_yaml(run),
    )
    files.write_text(folder / "report.html", page)
    stage.finish(mark)
    print(f"report: {folder / 'report.html'}")


def _curves(path: Path) -> list[str]:
    """Loss and validation mP@5 with its 95 % intervals over steps, as charts."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    loss = [(row["step"], row["loss"]) for row in rows]
    validated = [row for row in rows if "validation/mP@5" in row]
    drawn = [charts.scatter("Training loss", {"loss": loss}, "step", "loss", ["loss"])]
    if validated:
        unseen = all(row.get("validation/classes_trained_on") == 0 for row in validated)
        points = {"mP@5": [(row["step"], row["validation/mP@5"]) for row in validated]}
        known = [row for row in validated if "validation/mP@5_low" in row]
        bounds = [(row["step"], row["validation/mP@5_low"], row["validation/mP@5_high"]) for row in known]
        title = "Validation, unseen classes" if unseen else "Validation"
        drawn.append(charts.scatter(title, points, "step", "mP@5", ["mP@5"], bounds={"mP@5": bounds}, y_within=(0, 1)))
    return drawn


def _scored_items(run: Run) -> dict[tuple[str, str], Item]:
    """(domain, key) → image. Raises BadInput where the data are gone."""
    specs = run.in_run_dir([*run.score.index, *run.score.queries])
    sets = [each for spec in specs for each in sources.open_data(spec)]
    return {(each.name, item.key): item for each in sets for item in each.items}


def _example(items: dict[tuple[str, str], Item], example: dict[str, Any]) -> list[Figure]:
    neighbours = [
        _figure(items, each, f"{each['distance']:.3f}", "right" if each["match"] else "wrong")
        for each in example["neighbours"]
    ]
    return [_figure(items, example, "query"), *neighbours]


def _figure(items: dict[tuple[str, str], Item], entry: dict[str, Any], caption: str, kind: str = "") -> Figure:
    item = items.get((entry["domain"], entry["key"]))
    source = data_url(thumbnail(item, THUMBNAIL_PX)) if item else ""
    return Figure(source, f"{entry['domain']} {entry['key']}", caption, kind)
