"""Whether scored classes were trained on is counted in the records, not read from the config."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.config import Run, load, seeds_of
from pipeline.evaluation import trained_classes

CONFIG = """
records:
  sources:
    - {layout: drawn, name: a, options: {classes: 6, images_per_class: 8, image_size_px: 24}}
    - {layout: drawn, name: b, options: {classes: 4, images_per_class: 8, image_size_px: 24, seed: 1}}
train: {phases: [{name: head}]}
"""


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Callable[[str], Run]:
    """The run whose records are split by `class` or by `item`."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "split.yaml").write_text(CONFIG)

    def built(by: str) -> Run:
        keys = [f"run_dir={folder / by}", f"records.split={{by: {by}, train: 0.5, test: 0.5}}"]
        if not (folder / by).exists():
            assert cli.main(["tfrecords", str(folder / "split.yaml"), *keys]) == 0
        return load(Run, folder / "split.yaml", keys)

    return built


def counted(run: Run) -> int:
    """Classes with images in both splits, by labels.json."""
    rows = json.loads((Path(run.run_dir) / "records/labels.json").read_text())["classes"]
    return sum(row["train"] > 0 and row["test"] > 0 for row in rows)


def test_of_whole_classes_none_and_of_split_images_most_were_trained_on(split):
    assert trained_classes.count(split("class")) == counted(split("class")) == 0
    assert trained_classes.count(split("item")) == counted(split("item")) > 5


def test_what_a_fold_holds_out_was_not_trained_on(split):
    """Scored on its own training records, but for a fold's; the other half of the classes was trained on."""
    run = split("item")
    train = replace(run.train, fold="domain b")
    score = replace(run.score, index=["{run_dir}/records/b-test-*.tfrec"])
    assert trained_classes.count(replace(run, train=train, score=score)) == 0
    assert trained_classes.count(replace(run, score=score)) > 0


def test_where_the_records_do_not_tell_nothing_is_claimed(split, tmp_path):
    run, other = split("item"), split("class")
    for index in ([f"{other.run_dir}/records/*-test-*.tfrec"], ["/nowhere/*.tfrec"], [str(tmp_path)], []):
        assert trained_classes.count(replace(run, score=replace(run.score, index=index))) is None
    gone = replace(run, train=replace(run.train, records=["/nowhere/*-train-*.tfrec"]))
    assert trained_classes.count(gone) is None


def test_a_seeds_run_is_counted_on_the_records_of_the_run_above_it(split):
    run = split("item")
    (seed,) = seeds_of(replace(run, seeds=[3]))
    Path(seed.run_dir).mkdir(exist_ok=True)
    assert trained_classes.count(seed) == trained_classes.count(run)
