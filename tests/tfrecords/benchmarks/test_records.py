"""Benchmarks' own splits in records: built, capped, mixed and scored; what a changed split makes stale."""

import json
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.config import Records, Run, Source, Split, load
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.planning import config_checks, estimates
from pipeline.training import rehearsal
from tests.drawn_benchmarks import draw_gpr1200, draw_sop, draw_uned
from tests.evaluation.tiny import MeanColour, run, save
from tests.tfrecords.test_records_build import all_records, build, splits_of, write_config
from tfrecords import selection
from tfrecords.labels import SPLITS
from tfrecords.sources import Item, Listing


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return draw_uned(tmp_path_factory.mktemp("uned"), ["cars", "inshop", "rp2k"])


def source(domain: str, root: Path, split: str, **keys) -> dict:
    into = {"train": "train", "val": "validation"}.get(split, "test")
    options = {"domain": domain, "split": split}
    return {"layout": "uned", "name": f"{domain}_{split}", "root": str(root), "split": into, "options": options, **keys}


def mixed(folder: Path, root: Path, **records) -> Path:
    """A config of two domains, their own splits."""
    rows = [source("cars", root, "train", cap_per_class=3), source("rp2k", root, "train")]
    rows += [source(domain, root, split) for split in ("val", "test") for domain in ("cars", "rp2k")]
    path = write_config(folder, {})
    config = json.loads(path.read_text())
    config["records"] |= {"sources": rows, **records}
    path.write_text(json.dumps(config))
    return path


def test_two_domains_are_built_in_their_own_splits_and_scored(root, tmp_path, capsys):
    config = mixed(tmp_path, root)
    assert build(config) == 0
    records = tmp_path / "run/records"
    found = all_records(records)
    lists = {
        (domain, split): {row["path"] for row in json.loads((root / f"info_files/{domain}/{split}.json").read_text())}
        for domain in ("cars", "rp2k")
        for split in ("train", "val", "test")
    }
    for split, own in zip(SPLITS, ("train", "val", "test"), strict=True):
        of_rp2k = {record.key for record in found[split] if record.source == f"rp2k_{own}"}
        assert of_rp2k == lists["rp2k", own] and {record.source for record in found[split]} == {
            f"cars_{own}",
            f"rp2k_{own}",
        }
        of_cars = {record.key for record in found[split] if record.source == f"cars_{own}"}
        assert of_cars == lists["cars", own] if own != "train" else of_cars < lists["cars", own] and len(of_cars) == 12
    labels = json.loads((records / "labels.json").read_text())
    assert [row["count"] for row in labels["sources"]] == [4, 4, 2, 2, 4, 4]  # each domain counts from 0 anew
    assert all(sum(row[split] > 0 for split in SPLITS) == 1 for row in labels["classes"])
    assert cli.main(["verify", str(records)]) == 0
    embedder = save(MeanColour(), tmp_path / "embedder")
    capsys.readouterr()
    code, text, _ = run(capsys, "score", embedder, "--index", records / "*-test-*.tfrec", "--out", tmp_path / "m.json")
    result = json.loads((tmp_path / "m.json").read_text())
    assert code == 0 and "all, one index" in text
    assert {name: each["queries"] for name, each in result["domains"].items()} == {"cars_test": 20, "rp2k_test": 20}
    assert result["mP@5"] > 0.9  # a picture shows its class


def test_queries_search_an_index_of_a_layouts_own_splits(root, tmp_path, capsys):
    embedder = save(MeanColour(), tmp_path / "embedder")
    spec = f"uned,domain=inshop,split={{}}:{root}"
    out = ["--out", tmp_path / "m.json"]
    code, _, _ = run(
        capsys, "score", embedder, "--index", spec.format("index"), "--queries", spec.format("query"), *out
    )
    result = json.loads((tmp_path / "m.json").read_text())
    assert code == 0 and result["domains"]["inshop"] == {**result["domains"]["inshop"], "queries": 8, "index": 20}
    assert result["mP@5"] > 0.9 and not result["leave_one_out"]
    for wrong, says in (
        (f"uned,domain=shoes,split=index:{root}", "option domain expects one of cars, inshop, rp2k; got 'shoes'"),
        (f"uned,domian=cars,split=index:{root}", "no option 'domian'; it has: domain"),
        (f"uned,domain=cars:{root}", "queries of uned search another split: name one, uned,split=query or index"),
        (f"uned,domain=cars,split=tset:{root}", "option split expects train, val"),
        (f"ilias,mini=yes,split=distractors:{root}", "option mini expects bool, got 'yes'"),
    ):
        code, _, error = run(capsys, "score", embedder, "--index", wrong)
        assert code == 2 and says in error and error.count("\n") == 1


def test_the_split_of_a_benchmark_is_that_which_is_searched(tmp_path):
    root = draw_sop(tmp_path / "sop")
    (found,) = sources.open_data(f"sop:{root}")
    assert found.name == "sop" and {item.class_name for item in found.items} == {"5", "6", "7", "8"}
    (trained,) = sources.open_data(f"mine=sop,split=train:{root}")
    assert trained.name == "mine" and {item.class_name for item in trained.items} == {"1", "2", "3", "4"}
    (all_of_it,) = sources.open_data(f"gpr1200:{draw_gpr1200(tmp_path / 'gpr')}")
    assert len(all_of_it.items) == 18
    assert sources.files_of(f"sop:{root}").quick() != sources.files_of(f"sop,split=train:{root}").quick()


def test_a_list_that_names_an_image_twice_cannot_be_trained_on(tmp_path, capsys):
    root = draw_uned(tmp_path / "uned", ["cars"])
    path = root / "info_files/cars/train.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0]]))
    config = write_config(tmp_path, {})
    value = json.loads(config.read_text())
    value["records"]["sources"] = [source("cars", root, "train")]
    config.write_text(json.dumps(value))
    assert build(config) == 2
    error = capsys.readouterr().err
    assert f"source cars_train lists the key {rows[0]['path']!r} twice" in error and error.count("\n") == 1


def test_a_split_that_was_changed_is_refused_and_none_is_as_before_there_was_the_key(tmp_path, capsys):
    config = write_config(tmp_path, {})
    value = json.loads(config.read_text())
    value["records"]["sources"] = [{"layout": "sop", "name": "sop", "root": str(draw_sop(tmp_path / "sop"))}]
    config.write_text(json.dumps(value))
    assert build(config, "records.split={train: 0.5, test: 0.5}") == 0
    mark = json.loads((tmp_path / "run/records/.build/records.json").read_text())
    assert not [key for key in mark["keys"] if key.endswith(".split")]
    shares = "records.split={train: 0.5, test: 0.5}"
    assert build(config, shares) == 0
    capsys.readouterr()
    assert build(config, shares, "records.sources.0.split=validation") == 2
    error = capsys.readouterr().err
    assert 'records.sources.0.split was not there, is "validation"' in error and error.count("\n") == 1
    assert build(config, shares, "records.sources.0.split=validation", f"run_dir={tmp_path}/again") == 0
    assert set(splits_of(tmp_path / "again/records").values()) == {"validation"}
    assert build(config, "records.sources.0.split=dev") == 2
    assert "sources.0.split: expected train, validation or test, got 'dev'" in capsys.readouterr().err


def listing(classes: str, images: int = 4) -> Listing:
    return Listing(list(classes), [Item(f"{name}/{image}", name, bytes) for name in classes for image in range(images)])


def split_of(records: Records, listings: dict[str, Listing]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for chunk in selection.select(records, listings).chunks:
        for item, _ in chunk.items():
            found.setdefault((chunk.source, item.class_name), set()).add(chunk.split)
    return found


@pytest.mark.parametrize("by", ["class", "item"])
def test_whole_sources_go_where_they_are_told_and_the_others_by_share(by):
    listings = {"own": listing("abcdefgh"), "theirs": listing("xyz"), "held": listing("pq"), "away": listing("vw")}
    shares = Split(by=by, train=0.5, test=0.5)
    before = split_of(Records([Source("folder", name) for name in listings], shares), listings)
    whole = {"own": None, "theirs": "train", "held": "validation", "away": None}
    sources = [Source("folder", name, split=split) for name, split in whole.items()]
    found = split_of(Records(sources, Split(by=by, train=0.5, test=0.5, left_out=["away"])), listings)
    for (name, label), splits in found.items():
        told = {"theirs": {"train"}, "held": {"validation"}, "away": {"test"}}
        assert splits == told.get(name, before[name, label])


def test_a_class_merged_with_one_of_a_whole_source_goes_there_too_and_never_to_two_splits(tmp_path):
    table = tmp_path / "merges.csv"
    table.write_text("source,class,into_source,into_class\nquery,a,index,a\nown,b,index,b\n")
    listings = {"query": listing("ac"), "index": listing("abc"), "own": listing("bd")}

    def records(**splits: str) -> Records:
        return Records([Source("folder", name, split=splits.get(name)) for name in listings], merge_classes=str(table))

    found = split_of(records(query="test", index="test"), listings)
    assert found["query", "a"] == found["index", "a"] == found["own", "b"] == {"test"} and found["own", "d"] == {
        "train"
    }
    labels = selection.select(records(query="test", index="test"), listings).space.labels()
    assert labels["query", "a"] == labels["index", "a"] and labels["query", "c"] != labels["index", "c"]
    with pytest.raises(
        BadInput, match="class 'a' would be in two splits: index goes to test, query goes to validation"
    ):
        split_of(records(query="validation", index="test"), listings)


def test_a_config_of_whole_sources_is_checked_and_planned_by_what_is_trained_on(root, tmp_path):
    path = mixed(tmp_path, root, split={"train": 1.0})
    text = json.loads(path.read_text()) | {"encoder": {"name": "mobilenet_v1"}, "score": {"references": []}}
    path.write_text(json.dumps(text))
    config = load(Run, path, [])
    config_checks.expect_own_shards(config)  # test shards are made, though records.split gives test no share
    assert config_checks._trained_sources(config) == ["cars_train", "rp2k_train"]
    rehearsal._draw(config, str(tmp_path / "drawn"))
    assert {path.name.split("-")[0] for path in tmp_path.glob("drawn/records/*.tfrec")} == {"cars_train", "rp2k_train"}
    size = estimates.set_size(config)
    # The published sizes of train alone: cars capped at 3 images a class, rp2k at 50.
    assert (size.classes, size.images) == (78 + 1_074, 3 * 78 + 50 * 1_074)
    with pytest.raises(BadInput, match=r"sources\.0\.split: expected test or null, cars_train is left out; got train"):
        load(Run, path, ["records.split.left_out=[cars_train]"])
