"""DATA in parts: what a listing gives, in order, each part known without its images."""

import os
import pickle
from pathlib import Path

import pytest

from pipeline.data import parts, sources
from pipeline.errors import BadInput
from tests.evaluation.tiny import jpeg
from tests.tfrecords.test_records_build import build, write_config


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Class folders, and shards of them below run/records."""
    root = tmp_path_factory.mktemp("parts")
    for number in range(11):
        jpeg(root / "things" / f"class {number % 2}" / f"{number:02}.jpg", (200, 8 * number, 40), size=(16, 12))
    config = write_config(root, {"things": root / "things"}, images_per_shard=4, image_size_px=12)
    assert build(config) == 0
    return root


def specs(root: Path) -> dict[str, str]:
    shards = f"{root}/run/records/*.tfrec"
    return {
        "folder": str(root / "things"),
        "layout": f"folder:{root / 'things'}",
        "named": f"mine={root / 'things'}",
        "shards": shards,
        "named shards": f"mine={shards}",
        "shards behind a URL": f"file://{shards}",
    }


@pytest.mark.parametrize("form", specs(Path()))
def test_parts_hold_what_the_listing_gives_whatever_its_form(root, form):
    spec = specs(root)[form]
    found = pickle.loads(pickle.dumps(parts.of_data(spec, 4)))  # as a worker on another machine gets them
    images = [named for part in found for named in part.images()]
    expected = [(each.name, item) for each in sources.open_data(spec) for item in each.items]
    assert [(source, item.key, item.class_name) for source, item in images] == [
        (source, item.key, item.class_name) for source, item in expected
    ]
    assert [item.read() for _, item in images] == [item.read() for _, item in expected] and len(images) == 11
    assert [part.count() for part in found] == [len(list(part.images())) for part in found]
    assert len({part.quick() for part in found}) == len(found) == 3


def test_a_part_is_another_where_a_name_a_class_or_a_file_changed(root, tmp_path):
    jpeg(tmp_path / "a" / "1.jpg", (9, 9, 9))
    jpeg(tmp_path / "a" / "2.jpg", (9, 9, 9))
    seen = set()

    def quick() -> str:
        (part,) = parts.of_data(str(tmp_path), 4)
        assert part.quick() == part.quick()
        return part.quick()

    seen.add(quick())
    os.utime(tmp_path / "a" / "1.jpg", (1, 1))
    seen.add(quick())
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / "3.jpg")
    seen.add(quick())
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(quick())
    (tmp_path / "b" / "2.jpg").unlink()
    seen.add(quick())
    assert len(seen) == 5
    shard = next((root / "run/records").glob("*.tfrec"))
    copy = tmp_path / shard.name
    copy.write_bytes(shard.read_bytes())
    assert parts.Shard(str(copy)).quick() != parts.Shard(str(shard)).quick()  # other times


def test_data_is_found_from_another_working_directory(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    relative = {form: spec.replace(f"{root}/", "") for form, spec in specs(root).items() if "URL" not in form}
    relative |= {"URL": specs(root)["shards behind a URL"], "drawn": "drawn:"}
    absolute = {form: sources.absolute(spec) for form, spec in relative.items()}
    monkeypatch.chdir(tmp_path)
    for form, spec in absolute.items():
        if form != "drawn":
            assert sum(part.count() for part in parts.of_data(spec, 4)) == 11, form
    assert absolute["named"] == f"mine={root / 'things'}" and absolute["drawn"] == "drawn:"


def test_a_count_that_a_shards_name_does_not_say_is_read(root, tmp_path):
    shard = next((root / "run/records").glob("*.tfrec"))
    (tmp_path / "any.tfrec").write_bytes(shard.read_bytes())
    assert parts.Shard(str(tmp_path / "any.tfrec")).count() == parts.Shard(str(shard)).count()
    (tmp_path / "any.tfrec").write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(BadInput, match="cut off"):
        list(parts.Shard(str(tmp_path / "any.tfrec")).images())
    with pytest.raises(BadInput, match="no shard matches"):
        parts.of_data(f"{tmp_path}/none*.tfrec", 4)
