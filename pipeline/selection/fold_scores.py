"""Scores of a recipe on folds of the training records: what `guie sweep` selects by.

Two numbers, for a recipe can gain on one and lose on the other:

class   mP@5 on classes that were not trained on, of sources that were. The queries of all class folds are pooled, so
        every training image counts once.
domain  mP@5 on a source that was left out whole: the mean of the sources' means, so each source counts the same.

<run_dir>/sweep/trials/<recipe>/<fold>-seed-<s>/   a fold's training; its checkpoints go once it is finished
<run_dir>/sweep/baselines/*.npz                    the same queries, of the starting encoder's features
"""

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline import files
from pipeline.config import Run, Sweep, below
from pipeline.data import folds
from pipeline.data.batches import RecordSet
from pipeline.errors import BadInput
from pipeline.evaluation import precisions as kept_precisions
from pipeline.guards.masked import Screen
from pipeline.models import embedder as embedders
from pipeline.retrieval import intervals
from pipeline.retrieval.precisions import precisions
from pipeline.retrieval.vectors import unit_length
from pipeline.training import checkpoints, devices, inputs, starts, train
from pipeline.training.feature_cache import FeatureCache

RAW, PCA, HALF_WHITENED = "raw", "pca", "half_whitened"
# Each number and the baseline that it is compared with: what is hardest to beat there.
COMPARED = {"class": RAW, "domain": HALF_WHITENED}
DONE = "done.json"  # of a fold's training: finished, and its precisions are the last
NEVER = 1e9  # epochs: a fold is validated at its end alone

Precisions = Mapping[str, np.ndarray]  # part of a fold → float64 [S, Q], each held-out query's precision@5 by seed


def names(options: Sweep, records: RecordSet) -> list[str]:
    """The folds as `train.fold` names them: `sweep.folds`; else class folds, then each source, where there are several.

    Raises BadInput: a source that the records lack, a fold that holds out nothing or everything, no fold at all.
    """
    sources = options.domains or np.unique(records.domains).tolist()
    found = [f"classes {number}/{options.class_folds}" for number in range(1, options.class_folds + 1)]
    if options.domains or len(sources) > 1:
        found += [f"domain {name}" for name in sources]
    found = options.folds or found
    if not found or len(set(found)) < len(found):
        came = f"class_folds {options.class_folds} and the source(s) {', '.join(sources)}"
        raise BadInput(f"sweep: expected folds, each once, got {came}: set sweep.class_folds to 2 or more")
    for fold in found:
        try:
            folds.held_out(fold, records.labels, records.domains)
        except BadInput as error:
            keys = "sweep.folds" if options.folds else "sweep.class_folds and sweep.domains"
            raise BadInput(f"{keys}: {error}") from None
    return found


def scored_parts(fold: str, records: RecordSet) -> dict[str, np.ndarray]:
    """What a fold holds out, each part by the name of its row: part → rows of `records`, int64 [Q]."""
    found = folds.parts(fold, records.labels, records.domains)
    return {name if name == fold else f"{name} ({fold})": np.flatnonzero(mask) for name, mask in found.items()}


def recipe(run: Run, records: RecordSet) -> str:
    """16 hex digits of all that decides the scores but the folds and seeds."""
    plain = replace(run, train=replace(run.train, fold="", seed=0))
    weights = {key: each.content() for key, each in inputs.of_weights(run).items()}
    return files.fingerprint([checkpoints.recipe_fingerprint(plain), weights, asdict(run.devices), records.digest])


def trained(run: Run, records: RecordSet, fold_names: Sequence[str]) -> tuple[dict[str, np.ndarray], float]:
    """Trains the recipe without each fold, under each seed of the sweep: precisions, and the seconds of training.

    What is finished is not run again.
    """
    digest, seconds = recipe(run, records), 0.0
    found: dict[str, np.ndarray] = {}
    for fold in fold_names:
        rows = []
        for seed in run.sweep.seeds:
            each = of_fold(run, digest, fold, seed)
            seconds += train_fold(each)
            rows.append(np.load(Path(each.run_dir) / train.PRECISIONS))
        parts = scored_parts(fold, records)
        held = np.sort(np.concatenate(list(parts.values())))
        for name, part in parts.items():
            found[name] = np.stack(rows)[:, np.searchsorted(held, part)]
    return found, seconds


def of_fold(run: Run, recipe_name: str, fold: str, seed: int) -> Run:
    """The run of one fold under one seed, in a folder of its own, on the run's records and features."""
    name = fold.replace(" + ", "-and-").replace(" ", "-").replace("/", "-of-")
    placed = below(run, f"sweep/trials/{recipe_name}/{name}-seed-{seed}")
    return replace(placed, train=replace(placed.train, fold=fold, seed=seed, validate_every_epochs=NEVER))


def train_fold(run: Run) -> float:
    """Trains one fold, what it prints into `train.log`; returns the seconds that it took, now or when it ran."""
    folder = Path(run.run_dir)
    if not (folder / DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.clear_session()  # memory does not grow over the trials, and layers have the same names in each
        began = time.monotonic()
        with (folder / "train.log").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(Screen(log)):
            train.main(run)
        files.write_json(folder / DONE, {"seconds": round(time.monotonic() - began, 2)})
        shutil.rmtree(checkpoints.folder_of(folder))  # each holds the whole encoder
    return files.read_json(folder / DONE)["seconds"]


def baselines(run: Run, records: RecordSet, fold_names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Row → precisions [1, Q] of the starting encoder's features: as they are, as PCA and as half-whitened PCA.

    PCA has the embedding's width and is fitted on what the fold leaves. Computed once; features come from the cache
    that the trainings share. An encoder with random weights is that of the first seed.
    """
    seeded = replace(run, train=replace(run.train, seed=run.sweep.seeds[0]))
    width, sizes_px = run.embedder.embedding_dim, run.embedder.sizes_px
    made_by = [asdict(run.encoder), width, sizes_px, asdict(run.devices), seeded.train.seed, records.digest]
    path = Path(run.run_dir) / "sweep/baselines" / f"{files.fingerprint([*made_by, list(fold_names)])}.npz"
    if not path.exists():
        keras.utils.clear_session()
        found = devices.connect(run.devices)
        with found.strategy.scope():
            embedder = embedders.build(seeded)
        features = FeatureCache(seeded, found, embedder).of(records, "train")
        computed = {}
        for fold in fold_names:
            left = features[~folds.held_out(fold, records.labels, records.domains)]
            for part, rows in scored_parts(fold, records).items():
                each = _embeddings(left, features[rows], width)
                computed[part] = {name: precisions((vectors, records.labels[rows])) for name, vectors in each.items()}
        kept_precisions.save(path, computed)
    by_part = kept_precisions.read(path)
    return {name: {part: rows[name][None] for part, rows in by_part.items()} for name in (RAW, PCA, HALF_WHITENED)}


def scores(of_folds: Precisions, references: Mapping[str, Precisions]) -> dict[str, Any]:
    """Both numbers of a recipe; `references` as `baselines` has them.

    Returns:
        {"class": {"mean", "interval", "ahead": {"mean", "interval"}}, "domain": the same, "both": the mean of the two,
        "folds": {part: mP@5}}. `ahead` is the difference to the number's baseline, query by query. A number without
        folds is left out. Intervals are of 95 %, over queries and seeds.
    """
    found: dict[str, Any] = {}
    for kind, reference in COMPARED.items():
        chosen = [fold for fold in of_folds if fold.startswith("domain ") == (kind == "domain")]
        if not chosen:
            continue
        join = equal_shares if kind == "domain" else _pooled
        values, compared = (join([rows[fold] for fold in chosen]) for rows in (of_folds, references[reference]))
        ahead = float(values.mean() - compared.mean())
        found[kind] = {
            "mean": float(values.mean()),
            "interval": list(intervals.over_seeds(values)),
            "ahead": {"mean": ahead, "interval": list(intervals.paired(values, compared))},
        }
    both = float(np.mean([each["mean"] for each in found.values()]))
    return {**found, "both": both, "folds": {fold: float(rows.mean()) for fold, rows in of_folds.items()}}


def equal_shares(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Groups of queries, float [S, Q_g] each → float64 [S, ΣQ_g], whose mean is the mean of the groups' means.

    Each value is that mean plus the query's distance to its own group's, scaled to the group's equal share. So which
    groups a bootstrap of the values draws does not move its mean: the interval is that of a sample within each group.

    >>> equal_shares([np.array([[1.0, 0.0]]), np.array([[1.0, 1.0, 1.0, 1.0]])]).mean().item()
    0.75
    """
    total = sum(values.shape[1] for values in groups)
    means = [values.mean(axis=1, keepdims=True) for values in groups]
    middle = np.mean(means, axis=0)  # [S, 1]
    pairs = zip(groups, means, strict=True)
    return _pooled([middle + (values - mean) * (total / (len(groups) * values.shape[1])) for values, mean in pairs])


def _pooled(groups: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(groups, axis=1)


def _embeddings(left: np.ndarray, held: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Baseline → float [Q, D] of the held-out features [Q, W], fitted on those that are left [N, W]."""
    unit = unit_length(held)
    found = {RAW: unit}
    for name in (PCA, HALF_WHITENED):
        mean, axes = starts.principal(name, left, width)
        found[name] = unit_length((unit - mean) @ axes)
    return found
