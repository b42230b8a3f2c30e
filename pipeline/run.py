"""COMMAND run: tfrecords → train → export → score, in one run folder; what is done is not done again.

guie run CONFIG [KEY=VALUE …] [--redo]
images on disk → <run_dir>/, everything that DESIGN lists

With `seeds: [0, 1, …]` the records are built once, each seed is trained, exported and scored in <run_dir>/seed-N/, and
<run_dir>/metrics.json holds the means over the seeds, with intervals over seeds and queries.
"""

import contextlib
from pathlib import Path

from pipeline import config, files, marks
from pipeline.config import Run
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.evaluation import precisions, score_table, scored, trained_classes
from pipeline.guards import stage_log
from pipeline.guards.locks import one_at_a_time
from pipeline.planning import config_checks
from pipeline.quiet import import_quietly
from pipeline.stages import depends
from pipeline.training import checkpoints
from tfrecords import contact_sheet


@one_at_a_time
def main(run: Run, redo: bool = False) -> None:
    """Runs each command's `main`; each skips what it has done.

    `redo`: records and checkpoints that are of another config, or of files that changed, are removed and made anew.
    Without it they are refused: raises BadInput, also for a seed that stands twice.
    """
    config_checks.before_run(run, redo)
    folder = Path(run.run_dir)
    runs = config.seeds_of(run)
    for each in runs:
        if not redo:
            checkpoints.state_of(each)  # refuses another recipe before anything is written
    if run.records.sources:
        import_quietly("tfrecords.build").main(run, redo)
        draw_sheet(run)
        config_checks.expect_records(run)
    files.write_text(folder / "config.yaml", config.to_yaml(run))
    for each in runs:
        Path(each.run_dir).mkdir(parents=True, exist_ok=True)  # `seed-N/..` is a path once there is seed-N
        if redo:
            remove_stale(each)
        # Imported one by one: the records are built before TensorFlow takes its memory.
        for name in ("pipeline.training.train", "export.saved_model"):
            import_quietly(name).main(each)
        if run.score.index:
            score(each)
            import_quietly("export.card").write(each)  # again: now it has a score
            import_quietly("pipeline.pages.report").main(each)
    if run.seeds:
        remove_export(run)
    if not run.score.index:
        for each in {each.run_dir: each for each in [*runs, run]}.values():  # what was scored before is of no use
            depends.score(each).drop()
            depends.report(each).drop()
        for each in runs:
            import_quietly("export.card").write(each)
        print("run: score.index is empty: every class was trained on and nothing is left to score; the export ends it")
    elif run.seeds:
        score_seeds(run, runs)
        import_quietly("pipeline.pages.report").main(run)


def remove_stale(run: Run) -> None:
    """Removes checkpoints of another recipe or of files that changed since, and those of which none is whole."""
    try:
        why = checkpoints.stale(run) if checkpoints.whole(run) else []
    except BadInput as error:
        why = [str(error)]
    if why:
        print(f"train: {marks.said(why)}: its checkpoints are removed, it is trained anew", flush=True)
        checkpoints.remove(run)


def remove_export(run: Run) -> None:
    """Removes what a run without seeds exported: each seed has its own. Its checkpoints stay: they cost more."""
    folder = Path(run.run_dir) / "export"
    depends.export(run).drop()
    files.remove(folder / "model_card.md")
    with contextlib.suppress(OSError):  # files that are not guie's
        folder.rmdir()


def draw_sheet(run: Run) -> None:
    """`<run_dir>/contact_sheet.jpg`, of the records."""
    stage, folder = depends.contact_sheet(run), Path(run.run_dir)
    if not stage.is_done():
        mark = stage.begin(["contact_sheet.jpg"])
        contact_sheet.write(folder / "records", folder / "contact_sheet.jpg")
        stage.finish(mark)


def score(run: Run) -> None:
    """Scores the exported submission beside the references; `<run_dir>/metrics.json`, precisions.npz, scored/."""
    folder = Path(run.run_dir)
    path, stage = folder / "metrics.json", depends.score(run)
    if stage.is_done():
        print(f"score: done already, {path}")
        return
    index, queries = run.scored_data
    for spec in [*index, *queries]:
        sources.expect_data(spec)  # before the score that is there is given up
    mark = stage.begin(["metrics.json", "precisions.npz", scored.FOLDER])
    with stage_log.logged(folder, "score") as work:
        modules = [import_quietly(f"pipeline.evaluation.{name}") for name in ("embedders", "score", "references")]
        embedders, scoring, references = modules
        embedder = embedders.load(str(folder / "submission.zip"), widest=None)  # as wide as the config has it
        result, found, images = scoring.score(
            *(embedder, index, queries, run.score.batch_size, references.References(run)),
            left_out=run.records.split.left_out,
            classes_trained_on=trained_classes.count(run),
        )
        work.images = len(images.keys)
    precisions.save(folder / "precisions.npz", found)
    scored.write(folder / scored.FOLDER, images)
    files.write_json(path, result)
    stage.finish(mark)
    print(f"score: {score_table.headline(result)} → {path}")


def score_seeds(run: Run, runs: list[Run]) -> None:
    """The scores of all seeds as one, from what `score` left in their folders; `<run_dir>/metrics.json`."""
    path = Path(run.run_dir) / "metrics.json"
    stage = depends.score_of_seeds(run, runs)
    if stage.is_done():
        print(f"score: done already, {path}")
        return
    mark = stage.begin(["metrics.json"])
    results = [files.read_json(Path(each.run_dir) / "metrics.json") for each in runs]
    stacked = precisions.stack([precisions.read(Path(each.run_dir) / "precisions.npz") for each in runs])
    first = results[0]
    index_sizes = {name: domain["index"] for name, domain in first["domains"].items()}
    result = {
        **precisions.scores(stacked, index_sizes, run.records.split.left_out, precisions.classes_of(first)),
        "seeds": {str(seed): result["mP@5"] for seed, result in zip(run.seeds, results, strict=True)},
        **{key: first[key] for key in ("classes_trained_on", "embedding_dim", "leave_one_out", "rejects")},
    }
    print(score_table.text(result))
    files.write_json(path, result)
    stage.finish(mark)
    print(f"score: {score_table.headline(result)} over {len(runs)} seeds → {path}")
