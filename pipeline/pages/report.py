"""COMMAND  a run folder → one HTML page that needs nothing beside it.

guie report CONFIG [KEY=VALUE …]
<run_dir>/metrics.json, metrics.jsonl, scored/, records/, stages.jsonl, contact_sheet.jpg → <run_dir>/report.html

A part whose files are missing is left out, or a line says why.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import config, files, marks
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.evaluation import score_table, scored
from pipeline.guards.masked import for_screen, shown
from pipeline.pages import atlas, charts, dataset, neighbours, verdict
from pipeline.pages.neighbours import Inspected
from pipeline.pages.pictures import Figure, as_jpeg, data_url, thumbnail
from pipeline.pages.render import count, distance, precision, render, score, short
from pipeline.stages import depends

THUMBNAIL_PX, QUALITY = 120, 78
SHEET_PX, SHEET_MOST_BYTES = 1180, 500_000
SHOWN = 8  # queries among the worst and the best, pairs of classes
MOST_CLASSES = 300  # rows of the table of classes
SHORT = 36  # letters of a class in a sentence
OUTDATED = "These scores are of an earlier model or of other data"
EARLIER = "The scored vectors are not kept here: `guie run` scores again and keeps them."
IN_SEEDS = "Each seed has its own report with queries, classes and the map: seed-{}/report.html."


def main(run: Run) -> None:
    """Raises BadInput where the run has no metrics.json yet."""
    folder = Path(run.run_dir)
    result = files.read_json(folder / "metrics.json")
    stage = depends.report(run)
    if stage.is_done():
        print(f"report: done already, {folder / 'report.html'}")
        return
    mark = stage.begin(["report.html"])
    found = verdict.of(result)
    notes = score_table.notes(result, behind=False)  # the verdict says what it is behind
    if why := depends.outdated_score(run):
        notes = [*notes, f"{OUTDATED} ({for_screen(marks.said(why))}): `guie run` scores again, see `guie status`."]
    seeds = list(result.get("seeds", {}))
    page = render(
        "report.html",
        title=f"{shown(run.name)}: {found.title}",
        verdict=found,
        kind=verdict.KINDS.get(found.word, ""),
        sign=verdict.SIGNS.get(found.word, ""),
        unseen=result.get("classes_trained_on") == 0,
        notes=notes,
        scores=score_table.header_and_rows(result),
        differences=score_table.differences(result, verdict.word),
        seeds=seeds,
        curves=[] if seeds else _curves(folder / "metrics.jsonl"),  # each seed has its own
        data=dataset.of_records(folder / "records", result.get("rejects", [])),
        stages=dataset.of_stages([folder, *(folder / f"seed-{seed}" for seed in seeds)]),
        contact_sheet=_sheet(folder / "contact_sheet.jpg"),
        config=config.to_yaml(run),
        **_looked_at(run, result, seeds),
    )
    files.write_text(folder / "report.html", page)
    stage.finish(mark)
    print(f"report: {folder / 'report.html'}, {len(page.encode()) / 1e6:.1f} MB")


def _looked_at(run: Run, result: dict[str, Any], seeds: Sequence[str]) -> dict[str, Any]:
    """What the scored vectors and their images show; `absent` says why there is none of it."""
    lists = dict.fromkeys(("worst", "best", "examples", "pairs", "classes", "histogram"), ())
    nothing: dict[str, Any] = {**lists, "absent": "", "missing": "", "looked": "", "map": None}
    if seeds:
        return {**nothing, "absent": IN_SEEDS.format("/report.html, seed-".join(seeds))}
    folder = Path(run.run_dir) / scored.FOLDER
    listed: atlas.Images = {}
    try:
        listed = scored.images(*run.scored_data)
    except BadInput as error:  # the scored images are gone since: the numbers stand without them
        nothing["missing"] = f"The images cannot be shown: {for_screen(str(error))}"
    if not folder.exists():
        examples = _examples(result.get("examples", []), listed) if listed else []
        return {**nothing, "absent": EARLIER, "examples": examples}
    try:
        images = scored.read(folder)
    except BadInput as error:
        return {**nothing, "absent": for_screen(str(error))}
    inspected = neighbours.inspect(images)
    looked = f"{count(len(inspected.queries))} of {count(inspected.of)} queries are looked at, evenly chosen."
    return {
        **nothing,
        **(_pictured(inspected, listed) if listed else {}),
        "classes": _classes(inspected),
        "histogram": [_histogram(inspected)],
        "looked": looked if len(inspected.queries) < inspected.of else "",
        "map": atlas.map_of(images, listed),
    }


def _pictured(inspected: Inspected, listed: atlas.Images) -> dict[str, Any]:
    """The worst and the best queries with their five nearest, and the pairs of classes taken for each other."""
    worst, best, pairs = inspected.worst(SHOWN), inspected.best(SHOWN), inspected.confused(SHOWN)
    examples = [row for pair in pairs for row in (pair.query, pair.neighbour)]
    figures = atlas.Pictured(inspected, listed, [*worst, *best], THUMBNAIL_PX, examples)

    def query(at: int) -> list[Figure]:
        return [figures.query(at, f"P@5 {precision(inspected.precisions[at])}"), *figures.neighbours(at)]

    shown_pairs = []
    for pair in pairs:
        one, other = (short(inspected.scored.classes[row], SHORT) for row in (pair.query, pair.neighbour))
        said = f"{one} and {other}: {count(pair.found + pair.back)} wrong neighbours"
        ways = f"{count(pair.found)} of {other} near {one}, {count(pair.back)} of {one} near {other}"
        shown_pairs.append((said, ways, [figures.figure(row, "") for row in (pair.query, pair.neighbour)]))
    return {"worst": [query(at) for at in worst], "best": [query(at) for at in best], "pairs": shown_pairs}


def _examples(examples: Sequence[dict[str, Any]], listed: atlas.Images) -> list[list[Figure]]:
    """Evenly chosen queries with their five nearest, from metrics.json: of a run that kept no vectors."""
    items = {(domain, key): item for (domain, _, key), item in listed.items()}

    def figure(entry: dict[str, Any], caption: str, kind: str = "") -> Figure:
        item = items.get((entry["domain"], entry["key"]))
        source = data_url(thumbnail(item, THUMBNAIL_PX)) if item else ""
        return Figure(source, f"{entry['domain']} {entry['key']}", caption, kind)

    return [
        [
            figure(example, "query"),
            *(
                figure(near, distance(near["distance"]), "right" if near["match"] else "wrong")
                for near in example["neighbours"]
            ),
        ]
        for example in examples
    ]


def _classes(inspected: Inspected) -> tuple[Any, ...]:
    """(how many classes, header, rows worst first, how many rows are left out in the middle)."""
    classes = inspected.classes()
    if len(classes) < 2:
        return ()
    half = MOST_CLASSES // 2
    kept = classes if len(classes) <= MOST_CLASSES else [*classes[:half], *classes[-half:]]
    rows = [[each.name, each.domain, score(each.precision, None), count(each.queries)] for each in kept]
    return len(classes), ["class", "domain", "mP@5", "queries"], rows, len(classes) - len(kept)


def _histogram(inspected: Inspected) -> str:
    groups = {name: inspected.distances_of(name == "right") for name in ("right", "wrong")}
    return charts.histogram(
        "Distances of the five nearest", groups, [charts.RIGHT, charts.WRONG], "distance", "neighbours"
    )


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
        of_bounds = {"mP@5": bounds}
        drawn.append(charts.scatter(title, points, "step", "mP@5", ["mP@5"], bounds=of_bounds, y_within=(0, 1)))
    return drawn


def _sheet(path: Path) -> str:
    """The contact sheet as the page's width needs it; "" where there is none or it stays too large."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        return ""
    small.thumbnail((SHEET_PX, 4 * SHEET_PX))
    jpeg = as_jpeg(small, QUALITY)
    return data_url(jpeg) if len(jpeg) <= SHEET_MOST_BYTES else ""
