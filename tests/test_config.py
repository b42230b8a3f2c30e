"""A config that is wrong stops the run in one line that names the key."""

import pytest

from pipeline.config import Run, load, to_yaml
from pipeline.errors import BadInput

YAML = """
records: {sources: [{layout: folder, name: a, root: x}]}
encoder: {name: clip_vit_b_32}
train: {phases: [{name: head, augment: {flip: true}}]}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "small.yaml").write_text(YAML)
    return tmp_path / "small.yaml"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("records.cap_per_clas=3", "records.cap_per_class"),
        ("train.phases.0.augment.flp=1", "train.phases.0.augment.flip"),
        ("records.sources.0.rot=1", "records.sources.0.root"),
        ("records.cap_per_class=many", "records.cap_per_class"),
        ("train.phases.3.epochs=3", "train.phases has 1 entries"),
        ("encoder=3", "Encoder"),
        ("train.phases=head", "phases"),
        ("nonsense", "KEY=VALUE"),
        ("run_dir=[x", "the value is not YAML"),
        ("train.records=[*.tfrec]", "in quotes, train.records="),
        ("name=%x", "the value is not YAML"),
        ("name=a: b: c", "the value is not YAML"),
        ("records.sources.x.name=y", "records.sources has 1 entries"),
        ("score.index.x=y", "score.index: expected a list"),
        ("['=", "expected a dotted key"),
    ],
)
def test_a_wrong_key_or_type_is_refused_with_the_nearest_key_named(path, override, named):
    with pytest.raises(BadInput) as refused:
        load(Run, path, [override])
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_overrides_reach_into_lists_and_names_follow_the_file(path):
    run = load(Run, path, ["train.phases.0.epochs=3", "records.cap_per_class=7"])
    assert run.train.phases[0].epochs == 3.0 and run.records.cap_per_class == 7
    assert run.train.phases[0].augment.flip and run.name == "small" and run.run_dir == "runs/small"


def test_the_config_as_run_reads_back_equal(path, tmp_path):
    run = load(Run, path)
    (tmp_path / "again.yaml").write_text(to_yaml(run))
    assert load(Run, tmp_path / "again.yaml") == run


def test_a_missing_file_names_its_neighbours(path):
    with pytest.raises(BadInput, match=r"small\.yaml"):
        load(Run, path.with_name("smal.yaml"))


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b", "\t"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BadInput) as refused:
        load(Run, tmp_path / "bad.yaml")
    assert "\n" not in str(refused.value)


def test_a_list_where_a_mapping_belongs_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("records: {sources: [5]}\n")
    with pytest.raises(BadInput):
        load(Run, tmp_path / "bad.yaml")
