"""STAGE  a run folder → one HTML page that needs nothing beside it.

guie report CONFIG [KEY=VALUE …]
<run_dir>/metrics.json, metrics.jsonl, contact_sheet.jpg → <run_dir>/report.html
"""

import base64
import html
import io
import json
from pathlib import Path

from PIL import Image

from pipeline import config, files
from pipeline.config import Run
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.pages import charts
from tfrecords import pixels

THUMBNAIL_PX = 112
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } th { font-weight: 600 }
figure { display: inline-block; margin: 0 .35rem .6rem 0; text-align: center; font-size: 12px }
figure img { width: 112px; height: 112px; object-fit: contain; background: #eee; border: 4px solid #999 }
figure.hit img { border-color: #2a9d4a } figure.miss img { border-color: #c93a3a }
pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 12px } img.wide { max-width: 100% }
"""


def main(run: Run) -> None:
    """Raises BadInput where the run has no metrics.json yet."""
    folder = Path(run.run_dir)
    result = files.read_json(folder / "metrics.json")
    parts = [
        f"<h1>{html.escape(run.name)}: mP@5 {result['mP@5']:.3f}</h1>",
        "<p>Mean Precision@5 by the competition's formula, on classes that were never trained on.</p>"
        if run.score.index == config.Score().index and run.records.split.by == "class"
        else "<p>Mean Precision@5 by the competition's formula.</p>",
        _table(result),
        _curves(folder / "metrics.jsonl"),
        "<h2>Queries and their five nearest</h2>",
        *_examples(run, result),
    ]
    sheet = folder / "contact_sheet.jpg"
    if sheet.exists():
        encoded = base64.b64encode(sheet.read_bytes()).decode()
        parts.append(f'<h2>The records</h2><img class="wide" src="data:image/jpeg;base64,{encoded}">')
    parts.append(f"<h2>Config as run</h2><pre>{html.escape(config.to_yaml(run))}</pre>")
    page = (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(run.name)}</title><style>{STYLE}</style>'
    )
    files.write_text(folder / "report.html", page + "\n".join(parts))
    print(f"report: {folder / 'report.html'}")


def _table(result: dict) -> str:
    names = ["embedder", *result["references"]]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = [
        _row(name, domain["queries"], domain["index"], [domain["mP@5"], *domain["references"].values()])
        for name, domain in result["domains"].items()
    ]
    if len(rows) > 1:
        queries, index = (
            sum(domain[key] for domain in result["domains"].values()) for key in ("queries", "index")
        )
        rows.append(_row("all, one index", queries, index, [result["mP@5"], *result["references"].values()]))
    return f"<table><tr><th>domain</th><th>queries</th><th>index</th>{head}</tr>{''.join(rows)}</table>"


def _row(name: str, queries: int, index: int, values: list[float]) -> str:
    cells = "".join(f"<td>{value:.4f}</td>" for value in values)
    return f"<tr><td>{html.escape(name)}</td><td>{queries:,}</td><td>{index:,}</td>{cells}</tr>"


def _curves(path: Path) -> str:
    """Loss and validation mP@5 over steps, as two charts."""
    if not path.exists():
        return ""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    loss = {"loss": [(row["step"], row["loss"]) for row in rows]}
    found = {"mP@5": [(row["step"], row["validation/mP@5"]) for row in rows if "validation/mP@5" in row]}
    drawn = charts.scatter("training loss", loss, "step", "loss", lines=("loss",))
    if found["mP@5"]:
        drawn += charts.scatter("validation, unseen classes", found, "step", "mP@5", lines=("mP@5",))
    return f"<h2>Training</h2>{drawn}"


def _examples(run: Run, result: dict) -> list[str]:
    specs = run.in_run_dir([*run.score.index, *run.score.queries])
    try:
        items = {
            (each.name, item.key): item
            for spec in specs
            for each in sources.open_data(spec)
            for item in each.items
        }
    except BadInput as error:  # the scored images are gone since: the numbers stand without them
        return [f"<p>{html.escape(str(error))}</p>"]
    lines = []
    for example in result.get("examples", []):
        figures = [_figure(items, example, "query", "")]
        figures += [
            _figure(items, each, f"{each['distance']:.3f}", "hit" if each["match"] else "miss")
            for each in example["neighbours"]
        ]
        lines.append(f"<div>{''.join(figures)}</div>")
    return lines


def _figure(items: dict, entry: dict, caption: str, kind: str) -> str:
    item = items.get((entry["domain"], entry["key"]))
    if item is None:
        return f'<figure class="{kind}"><figcaption>{html.escape(entry["key"])}</figcaption></figure>'
    image = Image.fromarray(pixels.read(item.read()))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    source = base64.b64encode(jpeg.getvalue()).decode()
    title = html.escape(f"{entry['domain']} {entry['key']}", quote=True)
    return (
        f'<figure class="{kind}"><img src="data:image/jpeg;base64,{source}" title="{title}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
