"""The model card of an export: data, score, fingerprint, licence notes and recipe of a run folder."""

from pathlib import Path
from typing import Any

from pipeline.config import Run, to_yaml
from pipeline.errors import BadInput
from pipeline.evaluation import score_table
from pipeline.files import read_json, write_text
from pipeline.guards.masked import shown
from pipeline.retrieval import intervals
from pipeline.stages import depends

LICENCES = """The code is under Apache-2.0. Two other licences bind whoever passes these weights on: that of
the encoder's starting weights (`encoder` below), and those of the images of the sources named above; several
public sets (landmarks, products, birds) allow research only. Name both when you publish."""

OUTDATED = "Not scored yet: the last score is of an earlier model or of other data; `guie run` scores again."


def write(config: Run) -> None:
    """Writes `<run_dir>/export/model_card.md`; `guie run` calls it again once the score is known."""
    run_dir = Path(config.run_dir)
    write_text(run_dir / "export" / "model_card.md", text(config, run_dir))


def text(config: Run, run_dir: Path, recipe: Run | None = None) -> str:
    """The card as Markdown; a file that is missing or damaged in `run_dir` leaves its section short.

    `recipe`: shown in place of `config`, such as one without paths.
    """
    mark = _read(run_dir / "export" / "fingerprint.json")
    manifest = _read(run_dir / "records" / "manifest.json")
    metrics = _read(run_dir / "metrics.json")
    outdated = bool(metrics) and bool(depends.outdated_score(config))
    dim = mark.get("embedding_dim", config.embedder.embedding_dim)
    lines = [
        f"# {shown(config.name)}: an image embedder",
        "",
        f"uint8 images of any size → `embedding_norm`, {dim} float32 of unit length. "
        "Neighbours by Euclidean distance are meant to be the same object.",
        "",
        "## Data",
        *_data(config, manifest),
        "",
        "## Score",
        *([OUTDATED] if outdated else _score(metrics)),
        "",
        "## Fingerprint",
        *[f"- {key}: `{mark[key]}`" for key in sorted(mark) if key != "preprocess"],
        "",
        "## Licences",
        LICENCES,
        "",
        "## Recipe",
        "```yaml",
        to_yaml(recipe or config).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _data(config: Run, manifest: dict[str, Any]) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    for shard in manifest.get("shards", []):
        key = (shard["source"], shard["split"])
        counts[key] = counts.get(key, 0) + int(shard["count"])
    if counts:
        names = {source.name: shown(source.name) for source in config.records.sources}
        return [
            f"- {names.get(source, source)}, {split}: {count:,} images"
            for (source, split), count in sorted(counts.items())
        ]
    return [f"- {shown(source.name)} (layout {source.layout})" for source in config.records.sources] or ["- none named"]


def _score(metrics: dict[str, Any]) -> list[str]:
    if "mP@5" not in metrics:
        return ["Not scored yet: run `guie score` and then `guie export`."]
    whole = score_table.headline(metrics).removeprefix("mP@5 ")
    rows = [f"- mP@5, all domains: {whole}; ± is half the width of the 95 % interval over queries"]
    for name, part in metrics.get("domains", {}).items():
        sizes = f"{part['queries']:,} queries, {part['index']:,} index images"
        rows.append(f"- mP@5, {name}: {intervals.text(part['mP@5'], part.get('interval'))} ({sizes})")
    rows += [f"- for comparison, {name}: {value:.4f}" for name, value in metrics.get("references", {}).items()]
    if metrics.get("classes_trained_on") == 0:
        rows.append("- no scored class was trained on")
    return rows + [f"- {note}" for note in score_table.notes(metrics)]


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except BadInput:  # the stage that writes it comes later, and makes it anew
        return {}
