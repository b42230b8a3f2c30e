"""What a run scored, as the pages read it: a row an image, in the order of the precisions."""

import numpy as np
import pytest

from pipeline.errors import BadInput
from pipeline.evaluation import embedders, precisions, score, scored
from pipeline.retrieval.precisions import precisions as query_precisions
from tests.evaluation.tiny import jpeg

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def draw(folder, classes, count, shift=0):
    for name in classes:
        for number in range(count):
            r, g, b = COLOURS[name]
            jpeg(folder / name / f"{number}.jpg", (r, g + 5 * number, min(255, b + shift + 9 * number)))


@pytest.fixture
def folders(tmp_path):
    """Two sets of one name, `photos`, each with an index and queries; a class of one name in both."""
    for place, classes in (("a", ["red", "green"]), ("b", ["red", "blue"])):
        for split, count in (("index", 3), ("query", 2)):
            draw(tmp_path / place / "photos" / split, classes, count, shift=20 * (split == "query"))
    return tmp_path


@pytest.mark.parametrize("apart", [True, False])
def test_rows_are_those_of_the_precisions_and_each_has_its_image(embedder, folders, apart, tmp_path):
    index, queries = ([str(folders / place / "photos" / split) for place in "ab"] for split in ("index", "query"))
    queries = queries if apart else []
    _, found, images = score.score(embedders.load(embedder), index, queries, 8)
    scored.write(tmp_path / "scored", images)
    read = scored.read(tmp_path / "scored")
    assert read.vectors.dtype == np.float32 and read.vectors.shape == (len(read.keys), 12)
    assert read.leave_one_out is not apart and len(read.keys) == (20 if apart else 12)
    of_index, of_queries = read.rows(scored.INDEX), read.rows(scored.QUERY)
    assert len(of_index) == 12 and len(of_queries) == (8 if apart else 12)
    parts = [(read.vectors[rows], read.labels[rows]) for rows in (of_index, of_queries)]
    whole = found[precisions.WHOLE][precisions.EMBEDDER]
    assert query_precisions(parts[0], parts[1] if apart else None).tolist() == whole.tolist()
    listed = scored.images(index, queries)
    rows = [*zip(read.domains, read.roles, read.keys, strict=True)]
    assert set(rows) == set(listed) and len(set(rows)) == len(rows)
    assert {domain for domain, _, _ in rows} == {"photos", "photos-2"}
    names = [key.split("/")[0] for key in read.keys]
    assert read.classes == names and all(listed[row].class_name == name for row, name in zip(rows, names, strict=True))
    reds = {label for label, name in zip(read.labels.tolist(), names, strict=True) if name == "red"}
    assert len(reds) == 2  # a class of two label spaces


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "not finite", "a row less", "another table", "no table"])
def test_files_that_are_not_whole_are_refused_in_one_line(damage, tmp_path):
    images = scored.Scored(np.eye(2, dtype="f"), ["a", "b"], ["c", "c"], ["d", "d"], ["both"] * 2, np.array([0, 0]))
    scored.write(tmp_path / "scored", images)
    vectors, table = (tmp_path / "scored" / name for name in ("embeddings.npy", "items.csv"))
    if damage == "missing":
        vectors.unlink()
    elif damage == "cut":
        vectors.write_bytes(vectors.read_bytes()[:-3])
    elif damage == "empty":
        vectors.write_bytes(b"")
    elif damage == "not finite":
        np.save(vectors, np.array([[0, np.nan], [1, 0]], "f"))
    elif damage == "no table":
        table.write_text(table.read_text() + "x" * 200_000)  # longer than a field may be
    elif damage == "a row less":
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    else:
        table.write_text("key,source,class\na,d,c\nb,d,c\n")
    with pytest.raises(BadInput, match="expected") as error:
        scored.read(tmp_path / "scored")
    assert "\n" not in str(error.value)
