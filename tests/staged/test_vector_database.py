"""The Milvus database: exact, without duplicates, kept over a kill, and refused to another encoder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BadInput
from pipeline.staged.vector_database import VectorDatabase, cosine_to_distance, with_direction

pytest.importorskip("milvus_lite", reason="needs the extra vectordb")
pytest.importorskip("pymilvus", reason="needs the extra vectordb")  # here, not in a test: see test_staged.py
MADE_BY = {"encoder": "tiny", "layer": "a"}


def rows(count: int, width: int = 8, seed: int = 0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    keys = [f"klasse {i % 3}/bild'\"{i}é.png" for i in range(count)]
    return keys, [f'class "{i % 3}" é' for i in range(count)], [f"d{i}" for i in range(count)], vectors


def slow_nearest(query: np.ndarray, vectors: np.ndarray, k: int) -> list[tuple[int, float]]:
    distances = []
    for i, vector in enumerate(vectors):
        difference = query / np.sqrt((query**2).sum()) - vector / np.sqrt((vector**2).sum())
        distances.append((float(np.sqrt((difference**2).sum())), i))
    return [(i, distance) for distance, i in sorted(distances)[:k]]


def test_search_equals_a_slow_loop(tmp_path: Path):
    keys, classes, digests, vectors = rows(60)
    queries = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    with VectorDatabase(str(tmp_path / "a.db")) as database:
        database.open_collection("c", 8, MADE_BY, create=True)
        database.insert("c", keys, classes, digests, vectors)
        database.finish("c")
        for query, found in zip(queries, database.search("c", queries, 5), strict=True):
            expected = slow_nearest(query, vectors, 5)
            assert [hit.key for hit in found] == [keys[i] for i, _ in expected]
            np.testing.assert_allclose([hit.distance for hit in found], [d for _, d in expected], atol=1e-3)
            assert [hit.class_name for hit in found] == [classes[i] for i, _ in expected]
        assert len(database.search("c", queries[:1], 100)[0]) == 60


def test_a_row_written_twice_is_there_once_and_a_changed_one_is_replaced(tmp_path: Path):
    keys, classes, digests, vectors = rows(10)
    with VectorDatabase(str(tmp_path / "a.db")) as database:
        database.open_collection("c", 8, MADE_BY, create=True)
        database.insert("c", keys, classes, digests, vectors)
        database.insert("c", keys, classes, digests, vectors)
        assert database.count("c") == 10
        database.insert("c", keys[:1], classes[:1], ["new"], vectors[1:2])
        assert database.count("c") == 10
        assert database.digests("c", [keys[0], keys[1], "never seen"]) == {keys[0]: "new", keys[1]: "d1"}


def test_rows_of_other_keys_are_deleted_beyond_one_page(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pipeline.staged.vector_database.PAGE", 7)
    monkeypatch.setattr("pipeline.staged.vector_database.FETCH", 5)
    keys, classes, digests, vectors = rows(40)
    with VectorDatabase(str(tmp_path / "a.db")) as database:
        database.open_collection("c", 8, MADE_BY, create=True)
        assert database.keep_only("c", keys) == 0
        database.insert("c", keys, classes, digests, vectors)
        assert database.keep_only("c", [*keys[::4], "never seen"]) == 30
        database.finish("c")
        assert database.count("c") == 10 and database.digests("c", keys).keys() == set(keys[::4])
        assert {hit.key for hit in database.search("c", vectors[1:2], 40)[0]} == set(keys[::4])
        assert database.keep_only("c", keys) == 0


def test_a_served_database_works_by_its_uri_with_no_other_change(tmp_path: Path):
    from milvus_lite.server_manager import server_manager_instance

    uri = server_manager_instance.start_and_get_uri(str(tmp_path / "served.db"))
    address = uri if uri.startswith("http") else f"http://{uri.split('://')[-1]}"
    keys, classes, digests, vectors = rows(5)
    try:
        with VectorDatabase(address) as database:
            database.open_collection("c", 8, MADE_BY, create=True)
            database.insert("c", keys, classes, digests, vectors)
            database.finish("c")
            assert database.search("c", vectors[2:3], 1)[0][0].key == keys[2]
            assert database.keep_only("c", keys[2:]) == 2 and database.count("c") == 3
            with pytest.raises(BadInput, match="another encoder"):
                database.open_collection("c", 8, {"encoder": "big"}, create=False)
    finally:
        server_manager_instance.release_server(str(tmp_path / "served.db"))


@pytest.mark.faults("kill")
def test_rows_survive_a_kill_right_after_they_were_written(tmp_path: Path):
    code = f"""
import numpy as np, os, signal
from pipeline.staged.vector_database import VectorDatabase
database = VectorDatabase({str(tmp_path / "a.db")!r})
database.open_collection("c", 4, {MADE_BY!r}, create=True)
database.insert("c", ["a", "b"], ["x", "y"], ["1", "2"], np.eye(4, dtype=np.float32)[:2])
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == -9
    with VectorDatabase(str(tmp_path / "a.db")) as database:
        database.open_collection("c", 4, MADE_BY, create=False)
        assert database.digests("c", ["a", "b", "c"]) == {"a": "1", "b": "2"}


@pytest.mark.faults("stale results")
def test_collection_of_another_encoder_is_refused_and_named(tmp_path: Path):
    with VectorDatabase(str(tmp_path / "a.db")) as database:
        database.open_collection("c", 4, MADE_BY, create=True)
        database.open_collection("c", 4, dict(reversed(MADE_BY.items())), create=False)
        with pytest.raises(BadInput, match=r"another encoder: encoder was 'tiny', is now 'big'"):
            database.open_collection("c", 4, {**MADE_BY, "encoder": "big"}, create=True)
        with pytest.raises(BadInput, match="guie staged build"):
            database.open_collection("d", 4, MADE_BY, create=False)


def test_bad_databases_are_one_line(tmp_path: Path, monkeypatch):
    with pytest.raises(BadInput, match=r"ends in \.db"):
        VectorDatabase(str(tmp_path / "a"))
    (tmp_path / "file.db").write_text("hello")
    with pytest.raises(BadInput, match="is a file"):
        VectorDatabase(str(tmp_path / "file.db"))
    with pytest.raises(BadInput, match="could not open"):
        VectorDatabase("http://127.0.0.1:9")
    with VectorDatabase(str(tmp_path / "a.db")):
        code = f"from pipeline.staged.vector_database import VectorDatabase as V; V({str(tmp_path / 'a.db')!r})"
        root = Path(__file__).resolve().parents[2]
        second = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        assert "is it open in another process?" in second.stderr.splitlines()[-1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="guie\\[vectordb\\]"):
        VectorDatabase(str(tmp_path / "b.db"))


def test_zero_vectors_get_a_direction():
    vectors = with_direction(np.array([[0, 0, 0, 0], [3, 4, 0, 0]], np.float32))
    np.testing.assert_allclose(vectors, [[0.5] * 4, [0.6, 0.8, 0, 0]])
    assert cosine_to_distance(1.0000001) == 0.0
