"""COMMAND run: tfrecords → train → export → score, in one run folder; what is done is not done again.

guie run CONFIG [KEY=VALUE …]
images on disk → <run_dir>/, everything that DESIGN lists
"""

import dataclasses
from pathlib import Path

from pipeline import config, files
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.quiet import import_quietly
from pipeline.training import checkpoints
from tfrecords import contact_sheet


def main(run: Run) -> None:
    """Runs each command's `main`; each skips what it has done."""
    folder = Path(run.run_dir)
    checkpoints.expect_phases(run)
    checkpoints.state_of(run)  # refuses another recipe before anything is written
    if run.records.sources:
        import_quietly("tfrecords.build").main(run)
        sheet = folder / "contact_sheet.jpg"
        if not sheet.exists():
            contact_sheet.write(folder / "records", sheet)
    files.write_text(folder / "config.yaml", config.to_yaml(run))
    # Imported one by one: the records are built before TensorFlow takes its memory.
    for name in ("pipeline.training.train", "export.saved_model"):
        import_quietly(name).main(run)
    score(run)
    import_quietly("export.card").write(run)  # again: now it has a score
    import_quietly("pipeline.pages.report").main(run)


def score(run: Run) -> None:
    """Scores the exported submission beside the references; `<run_dir>/metrics.json`."""
    folder = Path(run.run_dir)
    path, archive = folder / "metrics.json", folder / "submission.zip"
    manifest = folder / "records/manifest.json"
    digests = [files.file_sha256(archive), files.file_sha256(manifest) if manifest.exists() else ""]
    asked = files.fingerprint([dataclasses.asdict(run.score), *digests])
    if path.exists() and files.read_json(path).get("asked") == asked:
        print(f"score: done already, {path}")
        return
    modules = (import_quietly(f"pipeline.evaluation.{name}") for name in ("embedders", "score", "references"))
    embedders, scoring, references = modules
    index, queries = run.in_run_dir(run.score.index), run.in_run_dir(run.score.queries)
    if not index:
        raise BadInput("score.index: expected at least one DATA to score on")
    beside = references.References(run)
    result = scoring.score(embedders.load(str(archive)), index, queries, run.score.batch_size, beside)
    files.write_json(path, {**result, "asked": asked})
    print(f"score: mP@5 {result['mP@5']:.4f} → {path}")
