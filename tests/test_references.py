"""`${oc.env:NAME}` in a config: its value in memory, the reference in files, equal when it is read back."""

import copy
import dataclasses
import pickle

import pytest

from pipeline.config import Run, below, load, references, to_yaml
from pipeline.errors import BadInput
from pipeline.guards.masked import Masked, for_screen
from pipeline.staged.config import Staged

VALUE = "qz81TOPqz"


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIE_TEST_PLACE", VALUE)

    def read(text: str, *overrides: str, schema: type = Run):
        (tmp_path / "a.yaml").write_text(text)
        return load(schema, tmp_path / "a.yaml", list(overrides))

    return read


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("${oc.env:GUIE_TEST_PLACE}", VALUE, "${oc.env:GUIE_TEST_PLACE}"),
        ("x/${oc.env:GUIE_TEST_PLACE}/y", f"x/{VALUE}/y", "x/${oc.env:GUIE_TEST_PLACE}/y"),
        ("${oc.env:GUIE_TEST_NONE,''}", "", "${oc.env:GUIE_TEST_NONE,''}"),
        ("${oc.env:GUIE_TEST_NONE,${oc.env:GUIE_TEST_PLACE}}", VALUE, None),
        ("${oc.decode:${oc.env:GUIE_TEST_PLACE}}", VALUE, None),
        ("${ oc.env : GUIE_TEST_PLACE }", VALUE, None),
        ("${encoder.weights}/z", f"file:{VALUE}/z", "file:${oc.env:GUIE_TEST_PLACE}/z"),
        ("plain", "plain", "plain"),
    ],
)
@pytest.mark.parametrize("place", ["name", "records.merge_classes", "train.records", "records.sources"])
def test_a_reference_is_its_value_and_is_written_as_a_reference(read, tmp_path, text, value, written, place):
    quoted = "'" + text.replace("'", "''") + "'"
    override = {
        "train.records": f"train.records=[a, {quoted}]",
        "records.sources": f"records.sources=[{{layout: drawn, name: a, options: {{b: [1, {{c: {quoted}}}]}}}}]",
    }.get(place, f"{place}={quoted}")
    base = "encoder: {weights: 'file:${oc.env:GUIE_TEST_PLACE}'}\n"
    run = read(base, override)
    found = {
        "name": lambda: run.name,
        "records.merge_classes": lambda: run.records.merge_classes,
        "train.records": lambda: run.train.records[1],
        "records.sources": lambda: run.records.sources[0].options["b"][1]["c"],
    }[place]()
    assert found == (value or "a" * (place == "name"))  # an empty name is the file's
    yaml = to_yaml(run)
    assert VALUE not in yaml and VALUE not in repr(run)
    assert (written or text) in yaml or not value
    (tmp_path / "again.yaml").write_text(yaml)
    again = load(Run, tmp_path / "again.yaml")
    assert again == run


def test_a_reference_outlives_copies_pickles_and_folders_below(read):
    run = read("{}", "name=n-${oc.env:GUIE_TEST_PLACE}", "train.records=['${oc.env:GUIE_TEST_PLACE}/{run_dir}/*']")
    assert run.run_dir == f"runs/n-{VALUE}"
    copies = [pickle.loads(pickle.dumps(run)), copy.deepcopy(run), dataclasses.replace(run, seeds=[1])]
    placed = below(run, "seed-1")
    assert placed.run_dir == f"runs/n-{VALUE}/seed-1" and placed.train.records == [f"{VALUE}/{{run_dir}}/../*"]
    for each in [*copies, placed]:
        assert VALUE not in to_yaml(each) and each.name == f"n-{VALUE}"


def test_a_run_folder_moves_with_the_environment(read, monkeypatch, tmp_path):
    monkeypatch.setenv("GUIE_DATA", "/here")
    run = read("{}")
    assert run.data_root == "/here"
    (tmp_path / "config.yaml").write_text(to_yaml(run))
    monkeypatch.setenv("GUIE_DATA", "/there")
    assert load(Run, tmp_path / "config.yaml").data_root == "/there"
    monkeypatch.delenv("GUIE_DATA")
    assert load(Run, tmp_path / "config.yaml").data_root == ""


def test_a_variable_that_is_not_set_is_named_in_one_line(read):
    with pytest.raises(BadInput, match=r"key encoder\.weights: the environment variable GUIE_TEST_NONE is not set"):
        read("encoder: {weights: '${oc.env:GUIE_TEST_NONE}'}")


def test_entries_that_the_environment_gave_as_a_whole_are_refused(read):
    with pytest.raises(BadInput, match="written out"):
        read("train: {records: \"${oc.create:['${oc.env:GUIE_TEST_PLACE}']}\"}")


def test_passwords_and_tokens_in_plain_text_are_not_written_and_the_warning_says_so(read, capsys):
    references._warn.cache_clear()  # it warns once a process
    run = read("score: {index: ['http://me:plain-pw@host/a.tfrec']}")
    assert run.score.index == ["http://me:plain-pw@host/a.tfrec"]
    assert "http://me:***@host/a.tfrec" in to_yaml(run) and "plain-pw" not in to_yaml(run)
    assert "score.index.0 holds a password" in capsys.readouterr().err
    staged = read("token: root:plain-pw", schema=Staged)
    assert staged.token == "root:plain-pw" and "plain-pw" not in to_yaml(staged)
    assert "token: ${oc.env:MILVUS_TOKEN,''}" in to_yaml(staged) and "token is given" in capsys.readouterr().err


def test_masked_text_is_its_value_to_all_who_use_it(monkeypatch):
    text = Masked("abc", "${oc.env:A}")
    assert (text, f"{text}", hash(text), text + "d", len(text)) == ("abc", "abc", hash("abc"), "abcd", 3)
    monkeypatch.setenv("SOME_PASSWORD", "long-enough")
    monkeypatch.setenv("SOME_PLACE", "/data/images")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    said = "long-enough at http://u:p@h/ in /data/images"
    assert for_screen(said) == "$SOME_PASSWORD at http://u:***@h/ in /data/images"
