"""Sweeps by the real command on drawn images: both numbers and the baselines against slow ones, resuming, refusals."""

import contextlib
import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import cli, config
from pipeline.config import Run
from pipeline.data import folds
from pipeline.data.batches import open_records
from pipeline.pages import sweep as page
from pipeline.retrieval import intervals
from pipeline.selection import fold_scores, sweep
from pipeline.selection.sweep_table import Row
from pipeline.training import train
from tests.selection.drawn import RECIPE, draw

pytestmark = pytest.mark.slow  # two sweeps are trained for all of them

CONFIG = (
    """
records:
  sources:
    - {layout: folder, name: cold, root: IMAGES/cold}
    - {layout: folder, name: warm, root: IMAGES/warm}
"""
    + RECIPE
)
SWEEP = """
sweep:
  trials: 2
  class_folds: 2
  space:
    train.phases.0.learning_rate: {low: 0.001, high: 0.1, log: true}
    embedder.dropout: [0.0, 0.3]
"""
PRUNED = """
sweep:
  trials: 9
  class_folds: 2
  space: {train.optimizer.accumulate_steps: [1, 3, 0]}
"""
INTERRUPTED = 7  # of four trainings a trial: the third of the second trial


def guie(*words) -> int:
    return cli.main([str(word) for word in words])


@dataclass
class Swept:
    """A sweep that was interrupted once and ended by the same command."""

    path: Path
    run_dir: Path
    calls: list[Path]  # the run folder of each call of train.main
    said: str

    def table(self) -> list[dict[str, str]]:
        with (self.run_dir / "sweep/table.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def of_kind(self, kind: str) -> dict[str, str]:
        (row,) = [row for row in self.table() if row["kind"] == kind]
        return row

    def baseline(self, title: str) -> dict[str, str]:
        (row,) = [row for row in self.table() if row["recipe"] == title]
        return row


@contextlib.contextmanager
def recorded(stop: int = 0):
    """The run folders that train.main is called with; call number `stop` is interrupted before it trains."""
    calls, trains = [], train.main

    def recording(run):
        calls.append(Path(run.run_dir))
        if len(calls) == stop:
            raise KeyboardInterrupt
        trains(run)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "main", recording)
        yield calls


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Swept:
    folder = tmp_path_factory.mktemp("sweep")
    draw(folder / "images" / source / f"{number}" for source in ("cold", "warm") for number in range(6))
    run_dir, path = folder / "run", folder / "small.yaml"
    text = CONFIG.replace("IMAGES", str(folder / "images"))
    path.write_text(text + SWEEP)
    (folder / "pruned.yaml").write_text(text + PRUNED)
    assert guie("tfrecords", path, f"run_dir={run_dir}") == 0
    with contextlib.redirect_stdout(io.StringIO()) as said:
        with recorded(stop=INTERRUPTED) as first:
            assert guie("sweep", path, f"run_dir={run_dir}") == 130
        assert not (run_dir / "sweep/table.csv").exists()
        with recorded() as second:
            assert guie("sweep", path, f"run_dir={run_dir}") == 0
    return Swept(path, run_dir, [*first, *second], said.getvalue())


@pytest.mark.faults("kill")
def test_an_interrupted_sweep_goes_on_and_trains_nothing_twice(swept):
    assert len(swept.calls) == 9 and len(set(swept.calls)) == 8
    assert swept.calls[INTERRUPTED - 1] == swept.calls[INTERRUPTED]
    assert len({path.parent for path in swept.calls}) == 2  # the interrupted recipe was asked for again
    names = [path.name for path in swept.calls[:4]]
    assert names == ["classes-1-of-2-seed-0", "classes-2-of-2-seed-0", "domain-cold-seed-0", "domain-warm-seed-0"]
    assert "sweep: 1 of 2 trials are done already" in swept.said
    assert not list(swept.run_dir.glob("sweep/trials/*/*/checkpoints"))  # each would hold the encoder


def test_both_numbers_are_those_of_the_trainings(swept):
    for kind, calls in (("own", swept.calls[:4]), ("trial", [*swept.calls[4:6], *swept.calls[7:]])):
        row, of_classes, of_domains = swept.of_kind(kind), [], []
        for folder in calls:
            values = np.load(folder / "precisions.npy").tolist()
            assert config.load(Run, folder / "config.yaml").train.fold.startswith(folder.name.split("-")[0])
            if folder.name.startswith("classes"):
                of_classes += values
            else:
                of_domains.append(sum(values) / len(values))
        assert len(of_classes) == 72 and len(of_domains) == 2  # every image once
        numbers = sum(of_classes) / 72, sum(of_domains) / 2
        assert (float(row["class"]), float(row["domain"])) == pytest.approx(numbers, abs=1e-5)
        assert float(row["both"]) == pytest.approx(sum(numbers) / 2, abs=1e-5)
        for number, baseline in (("class", "raw features"), ("domain", "half-whitened PCA-8")):
            assert float(row[f"{number}_low"]) < float(row[number]) < float(row[f"{number}_high"])
            ahead = float(row[number]) - float(swept.baseline(baseline)[number])
            assert float(row[f"{number}_ahead"]) == pytest.approx(ahead, abs=3e-5)
            assert float(row[f"{number}_ahead_low"]) <= ahead + 3e-5 <= float(row[f"{number}_ahead_high"]) + 6e-5


def brute_force(rows: np.ndarray, labels: np.ndarray) -> float:
    """mP@5 of classes of six images, each a query among all others."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float(np.mean([labels[np.argsort(row)[:5]] == label for row, label in zip(distances, labels, strict=True)]))


@pytest.mark.parametrize("fold", ["classes 1/2", "domain warm"])
def test_baselines_are_of_the_one_shared_cache_of_features_and_fitted_without_the_fold(swept, fold):
    (path,) = swept.run_dir.rglob("features.npy")  # of all trainings
    features = np.load(path)[0].astype("f8")
    records = open_records([f"{swept.run_dir}/records/*-train-*.tfrec"])
    held = folds.held_out(fold, records.labels, records.domains)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = unit[~held].mean(axis=0)
    _, scales, axes = np.linalg.svd(unit[~held] - mean, full_matrices=False)
    projected = (unit[held] - mean) @ axes[:8].T
    rows = {"raw features": unit[held], "PCA-8": projected, "half-whitened PCA-8": projected / np.sqrt(scales[:8])}
    for title, embeddings in rows.items():
        expected = brute_force(embeddings, records.labels[held])
        assert float(swept.baseline(title)[fold]) == pytest.approx(expected, abs=1e-5), title


def test_one_training_gives_both_numbers_where_a_fold_holds_out_classes_and_a_source(swept, tmp_path):
    fold = "classes 1/2 + domain warm"
    with recorded() as calls:
        given = [f"run_dir={tmp_path}", f"train.records=['{swept.run_dir}/records/*-train-*.tfrec']"]
        assert guie("sweep", swept.path, *given, "sweep.trials=1", f"sweep.folds=['{fold}']") == 0
    assert [path.name for path in calls] == ["classes-1-of-2-and-domain-warm-seed-0"]
    made = Swept(swept.path, tmp_path, calls, "")
    records = open_records([f"{swept.run_dir}/records/*-train-*.tfrec"])
    warm = records.domains == "warm"
    classes = folds.held_out("classes 1/2", records.labels, records.domains) & ~warm
    assert (warm.sum(), classes.sum()) == (36, 18)
    values, held = np.load(calls[0] / "precisions.npy"), warm | classes
    own = made.of_kind("own")
    assert float(own["class"]) == pytest.approx(values[classes[held]].mean(), abs=1e-5)
    assert float(own["domain"]) == pytest.approx(values[warm[held]].mean(), abs=1e-5)
    (path,) = tmp_path.rglob("features.npy")
    features = np.load(path)[0].astype("f8")
    for name, mask in ((f"classes 1/2 ({fold})", classes), (f"domain warm ({fold})", warm)):  # an index of its own each
        expected = brute_force(features[mask], records.labels[mask])
        assert float(made.baseline("raw features")[name]) == pytest.approx(expected, abs=1e-5)


def test_the_table_is_printed_best_first_and_drawn(swept):
    rows = swept.table()
    both = [float(row["both"]) for row in rows]
    assert both == sorted(both, reverse=True) and len(rows) == 5
    lines = swept.said.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("recipe "))
    for row, line in zip(rows, lines[start + 1 :], strict=False):
        assert line.startswith(row["recipe"]) and f"{float(row['both']):.4f}" in line
    assert Image.open(swept.run_dir / "sweep/sweep.png").size == (1050, 750)


def test_one_number_alone_is_drawn_above_the_rank(swept):
    rows = [{key: value for key, value in row.items() if not key.startswith("domain")} for row in swept.table()]
    (axes,) = page.picture(rows).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank", "mP@5, unseen classes")


def test_the_best_config_is_the_given_one_with_the_overrides(swept):
    best = next(row for row in swept.table() if row["kind"] != "baseline")
    overrides = best["recipe"].split() if best["kind"] == "trial" else []
    text = (swept.run_dir / "sweep/best.yaml").read_text()
    assert text.startswith("# The best of `guie sweep") and "devices:" not in text  # only the given keys
    place = f"run_dir={swept.run_dir}"
    assert config.load(Run, swept.run_dir / "sweep/best.yaml") == config.load(Run, swept.path, [place, *overrides])
    given = sweep.Options(config.load(Run, swept.path, ["train.seed=3"]), swept.path, ("train.seed=3",))
    (swept.run_dir / "other.yaml").write_text(
        sweep.best_config(given, Row("trial", "x", ("embedder.dropout=0.3", 'embedder.init="lda"'), scores={}))
    )
    other = config.load(Run, swept.run_dir / "other.yaml")
    assert (other.train.seed, other.embedder.dropout, other.embedder.init) == (3, 0.3, "lda")
    assert (other.name, other.run_dir) == ("small", "runs/small")


def test_another_space_is_another_study_its_impossible_recipes_are_pruned_and_nothing_is_trained_again(swept, capsys):
    before = swept.table()
    with recorded() as calls:
        assert guie("sweep", swept.path.with_name("pruned.yaml"), f"run_dir={swept.run_dir}") == 0
    rows = swept.table()
    assert swept.of_kind("own") == next(row for row in before if row["kind"] == "own")
    pruned = {row["recipe"]: row["pruned"] for row in rows if row["kind"] == "pruned"}
    assert "does not divide by 1 replicas × accumulate_steps 3" in pruned["train.optimizer.accumulate_steps=3"]
    assert "expected 1 or more, got 0" in pruned["train.optimizer.accumulate_steps=0"]
    assert len(rows) == 1 + 3 + 2  # a recipe that is the config's own stands there once
    assert calls and not any((folder / "done.json").exists() for folder in calls)
    said = capsys.readouterr().out
    assert "trial 9 of 9" in said and "accumulate_steps=3 (pruned: phase head: " in said
    with recorded() as calls:
        assert guie("sweep", swept.path, f"run_dir={swept.run_dir}") == 0
    assert not calls and swept.table() == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.space={train.sed: [1]}", "unknown key train.sed; nearest known: train.seed"),
        ("sweep.space={train.phases.3.epochs: [1]}", "train.phases has 1 entries"),
        ("sweep.space={embedder.dropout: [2, 3]}", "embedder.dropout: expected 0 … 0.999, got 2"),
        ("sweep.space={embedder.dropout: 0.5}", "expected a list of values or {low:, high:, log: true}, got 0.5"),
        ("sweep.space={embedder.dropout: []}", "expected a list of values"),
        ("sweep.space={embedder.init: {low: 1, high: 0}}", "sweep.space: embedder.init: "),
        ("sweep.space={train.seed: [1, 2]}", "that decide the training, got train.seed"),
        ("sweep.space={records.cap_per_class: [5]}", "that decide the training, got records.cap_per_class"),
        ("sweep.seeds=[]", "sweep.seeds: expected one or more"),
        ("sweep.seeds=[1, 1]", "each once, got [1, 1]"),
        ("sweep.class_folds=1", "'classes 1/1' holds out everything"),
        ("sweep.domains=[warn]", "expected one of the sources cold, warm, got 'warn'"),
        ("sweep.domains=[warm, warm]", "expected folds, each once"),
        ("devices.rehearse=2", "a sweep trains on one host"),
        ("train.phases=[]", "expected at least one phase"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(swept, tmp_path, capsys, override, said):
    records = f"train.records=[{swept.run_dir}/records/*-train-*.tfrec]"
    with recorded() as calls:
        assert guie("sweep", swept.path, f"run_dir={tmp_path}/run", records, override) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not calls and not (tmp_path / "run").exists()


def test_the_config_s_own_values_are_found_in_the_space(swept):
    run = config.load(Run, swept.path)
    entries = {
        "embedder.dropout": [0.3, 0],
        "embedder.init": ["lda"],
        "train.optimizer.clip_norm": [1.0, None],
        "train.phases.0.epochs": {"low": 1, "high": 4},
        "train.phases.0.batch_size": {"low": 16, "high": 32},
        "train.phases.0.learning_rate": {"low": 1e-4, "high": 1, "log": True},
    }
    space = {key: sweep.distribution(key, values) for key, values in entries.items()}
    assert sweep.own_params(run, space) == {
        "embedder.dropout": "0",
        "train.optimizer.clip_norm": "null",
        "train.phases.0.epochs": 1,
        "train.phases.0.learning_rate": 0.01,
    }


def test_two_seeds_and_the_interval_of_equal_shares_are_those_of_a_slow_bootstrap_within_each_domain():
    noise = np.random.default_rng(3)
    few, many = (noise.random((2, 40)) < 0.9).astype("f8"), (noise.random((2, 300)) < 0.2).astype("f8")
    found = fold_scores.scores(
        {"domain a": few, "domain b": many}, {"half_whitened": {"domain a": few, "domain b": many}}
    )
    assert "class" not in found and found["both"] == found["domain"]["mean"]
    assert found["domain"]["mean"] == pytest.approx((few.mean() + many.mean()) / 2)
    assert found["domain"]["ahead"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    one = [few[:1], many[:1]]
    drawn = [np.mean([noise.choice(values[0], values.shape[1]).mean() for values in one]) for _ in range(2000)]
    low, high = intervals.over_seeds(fold_scores.equal_shares(one))
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    assert high - low < 0.15  # domains drawn with the queries would make it wider
