"""COMMAND run: tfrecords → train → export → score, in one run folder; what is done is not done again.

guie run CONFIG [KEY=VALUE …]
images on disk → <run_dir>/, everything that DESIGN lists

With `seeds: [0, 1, …]` the records are built once, each seed is trained, exported and scored in <run_dir>/seed-N/, and
<run_dir>/metrics.json holds the means over the seeds, with intervals over seeds and queries.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

from pipeline import config, files
from pipeline.config import Run
from pipeline.config.phase_keys import expect_phases
from pipeline.errors import BadInput
from pipeline.evaluation import precisions, score_table
from pipeline.quiet import import_quietly
from pipeline.training import checkpoints
from tfrecords import contact_sheet


def main(run: Run) -> None:
    """Runs each command's `main`; each skips what it has done."""
    folder = Path(run.run_dir)
    if len(set(run.seeds)) < len(run.seeds):
        raise BadInput(f"seeds: expected each once, got {run.seeds}")
    runs = [of_seed(run, seed) for seed in run.seeds] or [run]
    for each in runs:
        expect_phases(each)
        checkpoints.state_of(each)  # refuses another recipe before anything is written
    if run.records.sources:
        import_quietly("tfrecords.build").main(run)
        sheet = folder / "contact_sheet.jpg"
        if not sheet.exists():
            contact_sheet.write(folder / "records", sheet)
    files.write_text(folder / "config.yaml", config.to_yaml(run))
    for each in runs:
        Path(each.run_dir).mkdir(parents=True, exist_ok=True)  # `seed-N/..` is a path once there is seed-N
        # Imported one by one: the records are built before TensorFlow takes its memory.
        for name in ("pipeline.training.train", "export.saved_model"):
            import_quietly(name).main(each)
        if not run.score.index:
            continue
        score(each, folder / "records")
        import_quietly("export.card").write(each)  # again: now it has a score
        import_quietly("pipeline.pages.report").main(each)
    if not run.score.index:
        print("run: score.index is empty: every class was trained on and nothing is left to score; the export ends it")
    elif run.seeds:
        score_seeds(run, runs)
        import_quietly("pipeline.pages.report").main(run)


def of_seed(run: Run, seed: int) -> Run:
    """The run of one seed, in a folder of its own, on the records and features of the whole."""
    placed = config.below(run, f"seed-{seed}")
    return dataclasses.replace(
        placed, name=run.name + f", seed {seed}", train=dataclasses.replace(placed.train, seed=seed)
    )


def score(run: Run, records: Path) -> None:
    """Scores the exported submission beside the references; `<run_dir>/metrics.json`, precisions.npz.

    `records`: the folder of the records that the run was trained on.
    """
    folder = Path(run.run_dir)
    path, kept, archive = folder / "metrics.json", folder / "precisions.npz", folder / "submission.zip"
    manifest = records / "manifest.json"
    digests = [files.file_sha256(archive), files.file_sha256(manifest) if manifest.exists() else ""]
    if "pml_arcface" in run.score.references:  # a row that had to be left out is computed once it can be
        digests.append(str(find_spec("pytorch_metric_learning") is not None))
    asked = files.fingerprint([dataclasses.asdict(run.score), *digests])
    if path.exists() and kept.exists() and files.read_json(path).get("asked") == asked:
        print(f"score: done already, {path}")
        return
    modules = [import_quietly(f"pipeline.evaluation.{name}") for name in ("embedders", "score", "references")]
    embedders, scoring, references = modules
    index, queries = run.in_run_dir(run.score.index), run.in_run_dir(run.score.queries)
    result, found = scoring.score(
        *(embedders.load(str(archive)), index, queries, run.score.batch_size, references.References(run)),
        left_out=run.records.split.left_out,
    )
    precisions.save(kept, found)
    files.write_json(path, {**result, "asked": asked})  # last: it says that the score is done
    print(f"score: mP@5 {result['mP@5']:.4f} → {path}")


def score_seeds(run: Run, runs: list[Run]) -> None:
    """The scores of all seeds as one, from what `score` left in their folders; `<run_dir>/metrics.json`."""
    path = Path(run.run_dir) / "metrics.json"
    results = [files.read_json(Path(each.run_dir) / "metrics.json") for each in runs]
    asked = files.fingerprint([[seed, result["asked"]] for seed, result in zip(run.seeds, results, strict=True)])
    if path.exists() and files.read_json(path).get("asked") == asked:
        print(f"score: done already, {path}")
        return
    stacked = precisions.stack([precisions.read(Path(each.run_dir) / "precisions.npz") for each in runs])
    first = results[0]
    index_sizes = {name: domain["index"] for name, domain in first["domains"].items()}
    result = {
        **precisions.scores(stacked, index_sizes, run.records.split.left_out),
        "seeds": {str(seed): result["mP@5"] for seed, result in zip(run.seeds, results, strict=True)},
        **{key: first[key] for key in ("embedding_dim", "leave_one_out", "rejects")},
    }
    print(score_table.text(result))
    files.write_json(path, {**result, "asked": asked})
    print(f"score: mP@5 {result['mP@5']:.4f} over {len(runs)} seeds → {path}")
