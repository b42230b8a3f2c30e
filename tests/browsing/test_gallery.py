"""What is opened to be looked through: vectors of `guie embed`, a run, a second embedder of the same images."""

import numpy as np
import pytest

from pipeline.browsing import gallery as galleries
from pipeline.data.sources import ImageSet
from pipeline.errors import BadInput
from pipeline.pages import compared
from tests.browsing.drawn import embedded, run_folder


def test_a_run_is_searched_in_its_index_alone(tmp_path):
    run = run_folder(tmp_path)
    found = galleries.open_gallery(run)
    assert found.name == "run" and found.index.tolist() == [0, 1, 2, 3] and found.queries.tolist() == [4, 5]
    assert [row for row, _ in found.near(found.vectors[4], 9, 4)] == [1, 0, 3, 2]
    assert [row for row, _ in found.near(found.vectors[0], 2, 0)] == [1, 2]
    assert sorted(found.images) == list(range(6))
    assert "asked" in found.images[4].file and "index" in found.images[0].file  # one key, two roles


@pytest.mark.parametrize("name", ["2026", "x, y: {z}", "[1]", 'it\'s "#1"'])
def test_a_run_s_folder_may_be_called_anything(tmp_path, name):
    """The name becomes a value of the config, which is YAML."""
    run = run_folder(tmp_path).rename(tmp_path / name)
    found = galleries.open_gallery(run)
    assert found.name == name and len(found.images) == 6
    (run / "metrics.json").write_text('{"mP@5": 0.5, "domains": {}}')
    assert compared.open_run(run, name).config.run_dir == str(run)


def test_a_class_of_the_same_name_matches_within_its_label_space_alone(tmp_path, monkeypatch):
    rows = [("0", "a", "cat"), ("1", "a", "cat"), ("2", "b", "cat"), ("3", "c", "cat"), ("4", "d", "dog")]
    spaces = {"a": "", "b": "", "c": "one build", "d": "one build"}
    sets = [ImageSet(name, [], space) for name, space in spaces.items()]
    monkeypatch.setattr(galleries.sources, "open_data", lambda spec: sets)
    (tmp_path / "items.csv").write_text("key,source,class\n" + "\n".join(map(",".join, rows)) + "\n5,d,cat\n")
    np.save(tmp_path / "embeddings.npy", np.arange(6, dtype=np.float32)[:, None])
    labels = galleries.open_gallery(tmp_path, "DATA").labels.tolist()
    assert labels[0] == labels[1] and labels[3] == labels[5]
    assert len({labels[0], labels[2], labels[3], labels[4]}) == 4


def test_a_second_embedder_is_matched_by_source_and_key(tmp_path):
    vectors, data = embedded(tmp_path)
    first = galleries.open_gallery(vectors, str(data))
    lines = (vectors / "items.csv").read_text().splitlines()
    other = tmp_path / "other"
    other.mkdir()
    order = [6, 2, 0, 3]  # of the first; one image that it lacks comes last
    text = [lines[0], *(lines[1 + row] for row in order), "gone,pictures,red"]
    (other / "items.csv").write_text("\n".join(text) + "\n")
    np.save(other / "embeddings.npy", np.array([[0.0], [1.0], [3.0], [7.0], [1.5]], "f"))
    beside = galleries.open_beside(first, other)
    assert beside.near(2, 9) == [(6, 1.0), (0, 2.0), (3, 6.0)] and beside.near(1, 9) is None
    assert beside.near(0, 1) == [(2, 2.0)]
    (other / "items.csv").write_text("key,source,class\n" + "x,y,z\n" * 5)
    with pytest.raises(BadInput, match="same images"):
        galleries.open_beside(first, other)


@pytest.mark.parametrize(
    ("table", "vectors", "said"),
    [
        ("key,source,class\na,b,c\n", np.zeros((2, 4), "f"), "one vector for each row"),
        ("key,source,class\n", np.zeros((0, 4), "f"), "one vector for each row"),
        ("key,class\na,c\n", np.zeros((1, 4), "f"), "guie embed"),
        ("key,source,class\na,b,c\n", np.array([[np.nan]], "f"), "finite"),
        ("key,source,class\na,b,c\n", np.array([["x"]]), "guie embed"),
        ("key,source,class\na,b,c\n", np.array([[{}]], object), "guie embed"),
    ],
)
@pytest.mark.faults("damaged file")
def test_tables_and_vectors_that_do_not_fit_are_refused(tmp_path, table, vectors, said):
    _, data = embedded(tmp_path)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/items.csv").write_text(table)
    np.save(tmp_path / "wrong/embeddings.npy", vectors, allow_pickle=True)
    with pytest.raises(BadInput, match=said):
        galleries.open_gallery(tmp_path / "wrong", str(data))


def test_neither_a_run_nor_vectors_is_refused(tmp_path):
    with pytest.raises(BadInput, match="run that was scored"):
        galleries.open_gallery(tmp_path)
    (tmp_path / "seed-3/scored").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"guie browse .*/seed-3$"):
        galleries.open_gallery(tmp_path)
