"""The database's token and password: in no file of a run folder, in no line, in no error."""

import secrets
import sys
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.config import references
from pipeline.errors import BadInput
from pipeline.staged.vector_database import VectorDatabase

pytest.importorskip("milvus_lite", reason="needs the extra vectordb")
pymilvus = pytest.importorskip("pymilvus", reason="needs the extra vectordb")  # here, not in a test: see test_staged.py
pytestmark = pytest.mark.faults("secrets in files and on the screen")


def test_no_file_and_no_line_of_staged_holds_the_token(config: str, monkeypatch, capfd):
    token, written = secrets.token_hex(12), secrets.token_hex(12)
    monkeypatch.setenv("MILVUS_TOKEN", token)
    references._warn.cache_clear()  # it warns once a process
    for more in (["build", config], ["perf", config, "--num", "1"], ["build", config, f"token=root:{written}"]):
        assert cli.main(["staged", *more]) == 0
    printed = "".join(capfd.readouterr())
    assert token not in printed and written not in printed and "warning: token is given as text" in printed
    folder = Path(config).parent / "run"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3 and "token: ${oc.env:MILVUS_TOKEN,''}" in (folder / "config.yaml").read_text()
    held = {path: path.read_bytes() for path in files}
    assert [path for path in files if token.encode() in held[path] or written.encode() in held[path]] == []


def test_an_address_with_a_password_is_told_without_it(config: str, run, monkeypatch):
    password = secrets.token_hex(12)
    for given, shown in ((password, "***"), ("${oc.env:GUIE_TEST_PW}",) * 2):
        database = f"http://root:{given}@127.0.0.1:9"
        monkeypatch.setenv("GUIE_TEST_PW", password)
        lines = run("build", config, f"database='{database}'", code=2)
        assert password not in "".join(lines) and f"http://root:{shown}@127.0.0.1:9" in lines[-1]


def test_what_the_client_says_of_the_token_is_masked_and_no_traceback_ends_a_build(tmp_path):
    with VectorDatabase(str(tmp_path / "a.db"), token="hunter22") as opened:
        pass
    error = pymilvus.MilvusException(message="hunter22 is not allowed by http://h")
    with pytest.raises(BadInput, match=r"a\.db failed: \*\*\* is not allowed"):
        opened.__exit__(type(error), error, None)
    opened.__exit__(None, None, None)
    with pytest.raises(ValueError), VectorDatabase(str(tmp_path / "b.db")):  # a fault of ours stays one
        raise ValueError(sys.version)
