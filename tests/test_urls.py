"""Nothing is written behind a URL: every key and every word that is a path refuses one, in one line."""

import dataclasses
import typing
from collections.abc import Iterator

import click
import pytest

from pipeline import cli
from pipeline.captions.config import Captions
from pipeline.command_line import Place
from pipeline.commands import guie
from pipeline.config import Run, check
from pipeline.config.keys import RANGE, URLS
from pipeline.errors import BadInput
from pipeline.similar.config import Similar
from pipeline.staged.config import Staged
from pipeline.zero_shot.config import ZeroShot

URL = "gs://bucket/run"
SCHEMAS = (Run, ZeroShot, Staged, Similar, Captions)
# Keys that may hold a URL: what is read there, and texts that are no path of ours.
WITH_URLS = {
    *("Train.records", "Train.validation", "Score.index", "Score.queries"),
    *("Records.beam_options", "Devices.tpu", "Submit.home", "Submit.message", "Sweep.space"),
    *("Staged.database", "Classifier.name", "Crop.detector"),
}


def texts(schema: type, seen: set[type]) -> Iterator[tuple[type, dataclasses.Field, bool]]:
    """Every key of a schema and its sections whose value may be a text, and whether it is a list or a mapping."""
    if schema in seen:
        return
    seen.add(schema)
    hints = typing.get_type_hints(schema)
    for each in dataclasses.fields(schema):
        inner = typing.get_args(hints[each.name])
        if str in (hints[each.name], *inner) or typing.Any in inner:
            yield schema, each, typing.get_origin(hints[each.name])
        for found in (hints[each.name], *inner):
            if dataclasses.is_dataclass(found):
                yield from texts(found, seen)


def test_every_key_refuses_a_url_but_those_that_are_meant_to_hold_one():
    seen: set[type] = set()
    found = [key for schema in SCHEMAS for key in texts(schema, seen)]
    assert len(found) > 60
    taking = set()
    for section, each, kind in found:
        if RANGE in each.metadata:
            continue  # one of a few words
        value = {list: [URL], dict: {"a": URL}}.get(kind, URL)
        one = dataclasses.make_dataclass("One", [(each.name, typing.Any, dataclasses.field(metadata=each.metadata))])
        try:
            check(one(value), "a.yaml")
            taking.add(f"{section.__name__}.{each.name}")
        except BadInput as refused:
            assert str(refused).startswith(f"a.yaml: {each.name}") and URL in str(refused)
    assert taking == WITH_URLS
    assert all(each.metadata.get(URLS) for section, each, _ in found if f"{section.__name__}.{each.name}" in taking)


CONFIGS = {
    "run.yaml": "train: {phases: [{name: head}]}",
    "staged.yaml": "name: a",
    "similar.yaml": "name: a",
    "zero.yaml": "{source: {layout: folder}, models: [{encoder: {name: clip_vit_b_32}}]}",
    "captions.yaml": "table: pairs.csv",
}


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"{name} run.yaml run_dir={URL}"
            for name in ("run", "tfrecords", "train", "plan", "export", "report", "sweep")
        ),
        f"submit run.yaml run_dir={URL} --dry-run",
        *(f"train run.yaml {key}={URL}" for key in ("train.init_from", "train.features_dir", "data_root")),
        f"train run.yaml encoder.weights=file:{URL}/w.safetensors",
        f"train run.yaml encoder.name=keras_file:{URL}/model.keras",
        f"tfrecords run.yaml records.sources=[{{layout: folder, name: a, root: '{URL}'}}]",
        f"zero-shot zero.yaml run_dir={URL}",
        f"captions captions.yaml run_dir={URL}",
        *(f"staged {action} staged.yaml run_dir={URL}" for action in ("build", "perf")),
        f"staged predict {URL}/a.jpg --config staged.yaml",
        *(f"similar {action} similar.yaml run_dir={URL}" for action in ("train", "search")),
        f"similar search similar.yaml {URL}/a.jpg",
        f"train {URL}/run.yaml",
        f"verify {URL}/records",
        f"contact-sheet records {URL}/sheet.jpg",
        f"import-weights {URL}/a.bin --encoder clip_vit_b_32 --out a.safetensors",
        f"import-weights a.bin --encoder clip_vit_b_32 --out {URL}/a.safetensors",
        f"check {URL}/submission.zip",
        f"check submission.zip --out {URL}/report.json",
        f"score submission.zip --index photos --out {URL}/metrics.json",
        f"embed submission.zip photos --out {URL}/vectors",
        f"browse {URL}/vectors photos",
        f"soup a b --out {URL}/soup",
        f"soup {URL}/a b --out soup",
    ],
)
def test_a_url_where_something_is_written_is_refused_in_one_line(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    for name, text in CONFIGS.items():
        (tmp_path / name).write_text(text)
    words, rest = line.split(" records.sources=")[0].split(), line.split(" records.sources=")[1:]
    assert cli.main([*words, *(f"records.sources={each}" for each in rest)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "gs://bucket/run" in said and "gcsfuse" in said
    assert {path.name for path in tmp_path.iterdir()} == set(CONFIGS)


@pytest.mark.parametrize("data", [URL, f"folder:{URL}", f"mine={URL}/photos", f"tfrecords:{URL}"])
def test_data_behind_a_url_is_shards_or_refused(data):
    from pipeline.data.sources import open_data

    with pytest.raises(BadInput, match="expected a path of this machine"):
        open_data(data)


def test_every_word_that_is_a_path_knows_of_urls():
    """`click.Path` itself would let them pass."""
    found = [
        parameter.type
        for command in guie.commands.values()
        for parameter in command.params
        if isinstance(parameter.type, click.Path)
    ]
    assert len(found) > 15 and all(isinstance(each, Place) for each in found)
