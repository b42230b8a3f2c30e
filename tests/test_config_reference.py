"""The reference of all keys: nothing is left out, each key says what it is, a config's values stand beside."""

from dataclasses import fields, is_dataclass

import pytest

from pipeline.config import Run, load, reference


@pytest.mark.parametrize("name", reference.SCHEMAS)
def test_every_key_says_what_it_is(name):
    assert [row.key for row in reference.rows(reference.schema_of(name)) if len(row.comment) < 5] == []


def test_every_field_of_a_run_has_a_row_with_its_own_default():
    """A second way to the same keys: by the instance that the dataclass makes, not by its source."""

    def plain(section, prefix):
        for each in fields(section):
            value = getattr(section, each.name)
            if is_dataclass(value):
                yield from plain(value, f"{prefix}{each.name}.")
            elif each.name not in ("sources", "phases"):  # lists of sections
                yield f"{prefix}{each.name}", value

    found = {row.key: row.default for row in reference.rows(Run) if not row.section and ".N." not in row.key}
    expected = dict(plain(Run(), ""))
    assert set(found) == set(expected)
    assert [found[key] for key in ("records.cap_per_class", "train.compile", "encoder.mean", "run_dir")] == [
        "50", "false", "null", '""',
    ]  # fmt: skip


def test_a_default_that_is_shown_can_be_given(tmp_path):
    (tmp_path / "a.yaml").write_text("{}")
    rows = [row for row in reference.rows(Run) if not row.section and ".N." not in row.key]
    given = load(Run, tmp_path / "a.yaml", [f"{row.key}={row.default}" for row in rows])
    assert given == load(Run, tmp_path / "a.yaml")


def test_what_a_config_sets_stands_beside_the_default():
    values = {"train": {"seed": 3, "phases": [{"name": "head", "epochs": 2}, {"name": "all", "loss": {"scale": 8.0}}]}}
    rows = {row.key: row for row in reference.rows(Run, values)}
    assert (rows["train.seed"].default, rows["train.seed"].value) == ("0", "3")
    assert (rows["train.phases.0.epochs"].value, rows["train.phases.1.epochs"].value) == ("2", None)
    assert (rows["train.phases.1.loss.scale"].default, rows["train.phases.1.loss.scale"].value) == ("30.0", "8.0")
    assert rows["train.phases"].value == "2 entries"


def test_a_token_is_not_shown():
    row, *_ = [
        row for row in reference.rows(reference.schema_of("staged"), {"token": "hidden"}) if row.key == "token"
    ]  # fmt: skip
    assert row.value == "${oc.env:MILVUS_TOKEN,''}"


def test_the_page_has_every_key_once_and_no_html():
    text = reference.markdown()
    assert text.count("| `train.loss.margin_radians` | float | `0.3` | ") == 1
    assert "&lt;run_dir>" in text and "<" not in "".join(text.split("`")[::2])
    keys = [line.split("`")[1] for line in text.split("## `guie zero-shot`")[0].splitlines() if line.startswith("| `")]
    shared = [row.key for row in reference.rows(Run) if not row.section]
    assert sorted(keys) == sorted(shared)
