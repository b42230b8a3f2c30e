"""A config that is wrong stops the run in one line that names the key."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pipeline.captions.config import Captions
from pipeline.config import Run, check, key, load, to_yaml
from pipeline.config.keys import RANGE
from pipeline.errors import BadInput
from pipeline.similar.config import Similar
from pipeline.staged.config import Staged
from pipeline.zero_shot.config import ZeroShot

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


@dataclass(frozen=True)
class Inner:
    least: int = key(1, least=1)
    above: float = key(0.5, above=0)
    most: float = key(0.5, least=0, most=1)
    window: float = key(1.0, above=0, most=1)
    word: str = key("a", one_of=("a", "b", "c"))
    only: str = key("a", one_of=("a",))
    optional: int | None = key(None, least=0, most=2**31 - 1)
    words: list[str] = key(["a"], one_of=("a", "b"))
    shares: dict[str, float] = key({"x": 1.0}, least=0, most=2)

    def rules(self) -> Iterator[tuple[str, str]]:
        if self.least > 100 * self.above:
            yield "least", f"expected at most {100 * self.above:g}, a hundred times above"


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    listed: list[Inner] = field(default_factory=list)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("inner.least=0", "inner.least: expected 1 or more, got 0"),
        ("inner.above=0", "inner.above: expected above 0, got 0.0"),
        ("inner.above=.nan", "inner.above: expected above 0, got nan"),
        ("inner.most=-0.1", "inner.most: expected 0 … 1, got -0.1"),
        ("inner.most=1.0000001", "inner.most: expected 0 … 1, got 1.0000001"),
        ("inner.window=0", "inner.window: expected above 0 … 1, got 0.0"),
        ("inner.window=1.5", "inner.window: expected above 0 … 1, got 1.5"),
        ("inner.word=d", "inner.word: expected a, b or c, got 'd'"),
        ("inner.only=b", "inner.only: expected a, got 'b'"),
        ("inner.optional=3000000000", "inner.optional: expected 0 … 2147483647, got 3000000000"),
        ("inner.words=[a,b,c]", "inner.words.2: expected a or b, got 'c'"),
        ("inner.shares={x: 1, y: 3}", "inner.shares.y: expected 0 … 2, got 3.0"),
        ("inner.least=51", "inner.least: expected at most 50, a hundred times above"),
        ("listed=[{least: 2}, {least: 0}]", "listed.1.least: expected 1 or more, got 0"),
        ("listed=[{least: 51}]", "listed.0.least: expected at most 50, a hundred times above"),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_its_key_and_its_range(tmp_path, override, said):
    path = tmp_path / "outer.yaml"
    path.write_text("{}")
    with pytest.raises(BadInput) as refused:
        load(Outer, path, [override])
    assert str(refused.value) == f"{path}: {said}"


def test_the_bounds_themselves_and_none_are_in_range(tmp_path):
    path = tmp_path / "outer.yaml"
    path.write_text(
        "inner: {least: 1, above: 0.01, most: 0, window: 1, word: c, optional: null, words: [], shares: {}}\n"
        "listed: [{most: 1, optional: 0, least: 50, shares: {x: 0, y: 2}}]"
    )
    inner = load(Outer, path).inner
    assert (inner.least, inner.most, inner.window, inner.optional, inner.words) == (1, 0.0, 1.0, None, [])


def test_configs_do_not_share_the_default_of_a_list_or_a_dict():
    first, second = Inner(), Inner()
    assert first.words == second.words and first.words is not second.words
    assert first.shares == second.shares and first.shares is not second.shares


def ranged(schema: type, seen: set[type]) -> Iterator[tuple[type, dataclasses.Field]]:
    """Every key with a range, of a schema and of the sections in it."""
    if schema in seen:
        return
    seen.add(schema)
    hints = typing.get_type_hints(schema)
    for each in dataclasses.fields(schema):
        if RANGE in each.metadata:
            yield schema, each
        for inner in (hints[each.name], *typing.get_args(hints[each.name])):
            if dataclasses.is_dataclass(inner):
                yield from ranged(inner, seen)


def test_every_default_lies_in_its_own_range_and_every_range_can_be_told():
    seen: set[type] = set()
    found = [pair for schema in (Run, ZeroShot, Staged, Similar, Captions) for pair in ranged(schema, seen)]
    assert len(found) > 60
    for section, each in found:
        default = each.default if each.default is not dataclasses.MISSING else each.default_factory()
        check(dataclasses.make_dataclass("One", [(each.name, typing.Any, each)])(default))
        assert str(each.metadata[RANGE]) and "None" not in str(each.metadata[RANGE]), section
