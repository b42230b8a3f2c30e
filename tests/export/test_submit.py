"""`guie submit` with the real `kaggle` client against a local server: check first, resume, nothing twice, faults."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from export import blobs, check, package
from pipeline import cli
from pipeline.config import Run, load
from pipeline.errors import BadInput
from tests.export.kaggle_server import TOKEN, KaggleServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """The client has a switch for local sites; it points to this server, with its port put in."""
    kagglesdk = pytest.importorskip("kagglesdk.kaggle_env")
    running = KaggleServer()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(kagglesdk._env_to_endpoint, kagglesdk.KaggleEnv.LOCAL, running.url)
    from kaggle.api.kaggle_api_extended import KaggleApi

    monkeypatch.setattr(KaggleApi, "args", ["--local"])
    monkeypatch.setattr(KaggleApi, "config_values", {})
    monkeypatch.setattr(blobs, "FIRST_PAUSE_SECONDS", 0.01)
    yield running
    running.close()


@dataclass
class Checks:
    """Stands in for `guie check`, which test_check.py tests: records its calls, and refuses on demand.

    Attributes:
        calls: (the submission's bytes, scorer, what had been asked of the server by then) of each call.
    """

    server: KaggleServer | None
    refuses: bool = False
    calls: list[tuple[bytes, str, list[str]]] = field(default_factory=list)

    def main(self, options: Any) -> None:
        (submission,) = options.submissions
        asked = list(self.server.calls) if self.server else []
        self.calls.append((Path(submission).read_bytes(), options.scorer, asked))
        if self.refuses:
            raise BadInput("1 of 1 refused: length is off 1")


@pytest.fixture
def checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Checks:
    stub = Checks(request.getfixturevalue("server") if "server" in request.fixturenames else None)
    monkeypatch.setattr(check, "main", stub.main)
    return stub


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: Checks) -> Path:
    """A run folder with a submission of 300 kB; the project's wheel is built by test_notebooks.py."""
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    (run / "submission.zip").write_bytes(bytes(range(256)) * 1200)
    (run / "export" / "fingerprint.json").write_text(json.dumps({"submission_sha256": "x"}))

    def wheel(folder: Path) -> None:
        (folder / "guie-0.1.0-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setattr(package, "build_wheel", wheel)
    path = tmp_path / "small.yaml"
    names = {"dataset": "tester/guie-submission", "kernel": "tester/guie-submit", "poll_seconds": 0.01, "images": []}
    source = {"layout": "csv", "name": "own", "root": "/home/somebody/photos/", "options": {"images": "/somebody/all"}}
    keys = {"records": {"sources": [source]}, "train": {"validation": ["/kaggle/input/x/*.tfrec"]}, "submit": names}
    path.write_text(yaml.safe_dump({"name": "small", "run_dir": str(run), "encoder": {"name": "clip_tiny"}, **keys}))
    return path


def submitted(config: Path, *overrides: str) -> int:
    return cli.main(["submit", str(config), *overrides])


def test_everything_is_uploaded_once_and_the_score_is_printed(server, config, checks, capsys):
    assert submitted(config) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "submit: google-universal-image-embedding: public 0.65, private 0.66"
    assert "RUNNING".lower() in said and "blobs_received" in said  # progress while it waits
    (version,) = server.versions
    assert set(version) == {
        "submission.zip", "config.yaml", "model_card.md", "fingerprint.json", "guie-0.1.0-py3-none-any.whl",
        "wheels-gpu.txt",
    }  # fmt: skip
    assert version["submission.zip"] == bytes(range(256)) * 1200
    for name in ("config.yaml", "model_card.md"):  # no path of this machine leaves it
        held = version[name].decode()
        assert "/run" not in held and "/somebody" not in held
        assert all(f"{each}\n" in held for each in ("root: photos", "images: all", "- /kaggle/input/x/*.tfrec"))
    (kernel,) = server.kernels
    assert kernel["datasetDataSources"] == ["tester/guie-submission"] and not kernel["enableInternet"]
    assert json.loads(kernel["text"])["cells"]
    (entry,) = server.submissions
    assert entry["request"]["kernelVersion"] == 1 and entry["request"]["fileName"] == "submission.zip"

    assert submitted(config) == 0  # again: all is there already
    assert (len(server.versions), len(server.kernels), len(server.submissions)) == (1, 1, 1)
    assert "submitted already" in capsys.readouterr().out
    assert len(checks.calls) == 1


def test_the_packaged_submission_is_checked_before_anything_is_uploaded(server, config, checks):
    assert submitted(config) == 0
    (config.parent / "run" / "submission.zip").write_bytes(b"another model")
    before = list(server.calls)
    assert submitted(config) == 0
    assert submitted(config, "--scorer", "kaggle") == 0  # passed "here", not yet under the scorer's version
    uploaded = [version["submission.zip"] for version in server.versions]
    assert [content for content, _, _ in checks.calls] == [*uploaded, uploaded[-1]]
    assert [scorer for _, scorer, _ in checks.calls] == ["here", "here", "kaggle"]
    assert [asked for _, _, asked in checks.calls][:2] == [[], before]
    assert submitted(config, "--dry-run") == 0
    assert len(checks.calls) == 4  # a rehearsal takes nothing as done


def test_a_failed_check_uploads_nothing_and_the_next_run_checks_again(server, config, checks, capsys):
    checks.refuses = True
    assert submitted(config) == 2
    assert capsys.readouterr().err == "guie submit: 1 of 1 refused: length is off 1\n"
    assert submitted(config) == 2
    assert server.calls == [] and len(checks.calls) == 2
    checks.refuses = False
    assert submitted(config) == 0
    assert len(checks.calls) == 3 and len(server.versions) == 1


def test_changed_content_becomes_a_version_and_not_a_duplicate(server, config):
    assert submitted(config) == 0
    (config.parent / "run" / "submission.zip").write_bytes(b"another model")
    assert submitted(config) == 0
    assert [len(version["submission.zip"]) for version in server.versions] == [256 * 1200, 13]
    assert len(server.kernels) == 2  # it must run again on the new dataset
    assert len({entry["description"] for entry in server.submissions}) == 2
    assert server.calls.count("CreateDataset") == 1 and server.calls.count("CreateDatasetVersion") == 1


@pytest.mark.faults("faulty server")
def test_dropped_connections_are_retried_and_nothing_is_made_twice(server, config):
    server.faults["PUT"] = [("none",), ("none",), ("none",), ("none",), ("cut", 100_000), ("cut", 50_000)]
    for call in ("CreateDataset", "SaveKernel", "CreateCodeSubmission"):
        server.faults[call] = [("drop",), ("drop_after",)]
    for call in ("GetDatasetStatus", "GetKernelSessionStatus", "StartBlobUpload", "GetDataset"):
        server.faults[call] = [("drop",)]
    server.faults["ListSubmissions"] = [("refuse", 503, "try later")]
    assert submitted(config) == 0
    assert (len(server.versions), len(server.kernels), len(server.submissions)) == (1, 1, 1)
    assert server.versions[0]["submission.zip"] == bytes(range(256)) * 1200


@pytest.mark.faults("faulty server")
def test_an_interrupted_upload_continues_in_the_next_run(server, config, capsys):
    cuts = [("cut", 40_000)] * blobs.TRIES
    server.faults["PUT"] = [("none",)] * 4 + cuts  # the zip is the fifth
    assert submitted(config) == 2
    assert "goes on from there" in capsys.readouterr().err
    state = config.parent / "run" / "submit" / "state.json"
    assert state.stat().st_mode & 0o077 == 0
    (zip_blob,) = [blob for blob in server.blobs.values() if blob["name"] == "submission.zip"]
    assert len(zip_blob["data"]) == 240_000
    assert submitted(config) == 0
    assert zip_blob["sent"] == 256 * 1200  # not one byte twice
    names = [call for call in server.calls if call == "StartBlobUpload"]
    assert len(names) == 6  # one a file, over both runs


@pytest.mark.faults("faulty server")
def test_an_upload_that_expired_on_the_server_starts_again(server, config):
    server.faults["PUT"] = [("none",)] * 4 + [("gone",)]
    assert submitted(config) == 0
    assert server.versions[0]["submission.zip"] == bytes(range(256)) * 1200


@pytest.mark.parametrize(
    ("call", "code", "message", "reason"),
    [
        ("CreateCodeSubmission", 403, "You must accept this competition's rules first", "rules are not accepted"),
        ("CreateCodeSubmission", 400, "The competition's deadline has passed", "closed to submissions"),
        ("CreateCodeSubmission", 400, "You have exceeded your daily submission limit", "quota is used up"),
        ("SaveKernel", 400, "Maximum weekly GPU quota of 30 hours reached", "quota is used up"),
        ("StartBlobUpload", 401, "Unauthenticated", "refuses the token"),
        ("SaveKernel", 403, "Phone verification is required", "not verified by phone"),
        ("ListSubmissions", 404, "Not found", "no such thing"),
        ("CreateDataset", 418, "I am a teapot", "refuses (418)"),
    ],
)
@pytest.mark.faults("faulty server")
def test_a_refusal_of_kaggles_is_one_line_that_says_what_to_do(server, config, capsys, call, code, message, reason):
    server.faults[call] = [("refuse", code, f"{message} {TOKEN}")]
    assert submitted(config) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error and TOKEN not in error


def test_a_failed_notebook_or_submission_ends_it_and_the_next_run_tries_anew(server, config, capsys, monkeypatch):
    failing = {"status": "ERROR", "failureMessage": "out of memory"}
    with monkeypatch.context() as now:
        now.setattr(server, "GetKernelSessionStatus", lambda request: (200, failing))
        assert submitted(config) == 2
    assert "ended with error: out of memory" in capsys.readouterr().err
    assert submitted(config) == 0
    assert (len(server.versions), len(server.kernels)) == (1, 2)  # the notebook runs again, the dataset stays
    server.submissions[0].update(status="ERROR", errorDescription="64 numbers expected")
    assert submitted(config) == 0  # a submission that failed is made again
    assert len(server.submissions) == 2


def test_no_token_or_a_wrong_one_is_one_line(server, config, capsys, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT-wrong")
    assert submitted(config) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no Kaggle token" in error and "KGAT-wrong" not in error
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert submitted(config) == 2
    assert "no Kaggle token" in capsys.readouterr().err


def test_the_token_is_never_printed_nor_written(server, config, capsys, monkeypatch):
    monkeypatch.setenv("VERBOSE", "1")  # with it the client prints its headers
    server.faults["ListSubmissions"] = [("refuse", 500, TOKEN)]
    assert submitted(config) == 0
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    for path in config.parent.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_a_dry_run_shows_every_call_and_makes_none(server, config, capsys):
    assert submitted(config) == 0
    made = {call for call in server.calls if call not in ("IntrospectToken", "PUT")}
    before = len(server.calls)
    capsys.readouterr()
    assert submitted(config, "--dry-run") == 0
    said = capsys.readouterr().out
    assert len(server.calls) == before
    for call in made - {"GetKernel"}:
        assert call in said, f"{call} is made and not shown"
    assert "none was made" in said.splitlines()[-1]


def without_names(config: Path, name: str = "small") -> None:
    written = yaml.safe_load(config.read_text())
    written["name"] = name
    del written["submit"]["dataset"], written["submit"]["kernel"]
    config.write_text(yaml.safe_dump(written))


def test_a_user_name_is_all_that_a_dry_run_needs(config, checks, capsys, monkeypatch):
    without_names(config, "My run: ViT-H/14 at 224 px, of nine sets, seed 3")
    slug = "guie-my-run-vit-h-14-at-224-px-of"
    assert submitted(config, "submit.user=ME_2", "--dry-run") == 0
    said = capsys.readouterr().out
    for call in (f"GetDataset ME_2/{slug}-data", f"CreateDataset ME_2/{slug}-data", f"SaveKernel ME_2/{slug}-submit"):
        assert call in said, said
    assert "none was made" in said.splitlines()[-1]
    monkeypatch.setenv("KAGGLE_USERNAME", "other")
    assert submitted(config, "submit.kernel=team/guie-kernel", "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"GetDataset other/{slug}-data" in said and "SaveKernel team/guie-kernel" in said
    training, _ = package.build_training(package.with_names(load(Run, config)))
    assert len(json.loads((training / "dataset-metadata.json").read_text())["id"].split("/")[1]) <= 50
    assert submitted(config, "submit.user=a b", "--dry-run") == 2
    assert capsys.readouterr().err.startswith("guie submit: submit.user: expected a name of letters")


def test_the_user_is_who_the_token_is_of(server, config, capsys):
    without_names(config)
    server.dataset = "guie-small-data"
    assert submitted(config) == 0
    (kernel,) = server.kernels
    assert kernel["datasetDataSources"] == ["tester/guie-small-data"] and kernel["slug"] == "tester/guie-small-submit"
    assert submitted(config) == 0
    assert "submitted already" in capsys.readouterr().out


def test_the_user_is_who_kaggle_json_names(server, config, checks, tmp_path, capsys, monkeypatch):
    """Without a call; and without any of both one line says what to give, before anything is packed or checked."""
    from kaggle.api.kaggle_api_extended import KaggleApi

    without_names(config)
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setattr(KaggleApi, "config", str(tmp_path / "kaggle" / "kaggle.json"))
    assert submitted(config, "--dry-run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("guie submit: expected submit.user=NAME, your name on Kaggle") and not checks.calls
    (tmp_path / "kaggle").mkdir(exist_ok=True)
    (tmp_path / "kaggle" / "kaggle.json").write_text(json.dumps({"username": "filed", "key": "secret"}))
    assert submitted(config, "--dry-run") == 0
    assert "GetDataset filed/guie-small-data" in capsys.readouterr().out and server.calls == []


def test_names_that_kaggle_refuses_are_refused_here(config, capsys):
    for name in ("no-owner", "me/short", "me/With-Capitals", "me/" + "x" * 51):
        assert submitted(config, f"submit.dataset={name}", "--dry-run") == 2
        assert "submit.dataset: expected OWNER/SLUG" in capsys.readouterr().err
    (config.parent / "run" / "submission.zip").unlink()
    assert submitted(config, "--dry-run") == 2
    assert "run `guie export` first" in capsys.readouterr().err


def test_the_head_alone_goes_up_only_where_the_encoder_stayed_as_it_was(config, capsys):
    model = "submit.encoder_model=keras/clip/keras/tiny/1"
    phases = "train.phases=[{name: all, trainable: all}]"
    assert submitted(config, model, phases, "--dry-run") == 2
    assert "trains the encoder too" in capsys.readouterr().err
    assert submitted(config, model, "train.init_from=runs/other/checkpoints/step-9.safetensors", "--dry-run") == 2
    error = capsys.readouterr().err
    assert "train.init_from took the encoder from runs/other" in error and error.count("\n") == 1
