"""`guie check` refuses each kind of broken submission with a different reason, and accepts a whole one."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
import tensorflow as tf

from export import check, scorer_env
from pipeline import cli
from pipeline.errors import BadInput
from pipeline.evaluation import submission_zip
from pipeline.evaluation.submission_zip import zip_submission
from tests.export.broken_submissions import features, saved, tensorflow_submissions, unit, zips


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SavedModel that keeps the contract."""
    folder = tmp_path_factory.mktemp("good") / "model"
    return saved(folder, lambda images: {"embedding_norm": unit(features(images))})


@pytest.fixture(scope="module")
def broken_zips(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    return zips(tmp_path_factory.mktemp("zips"), good)


@pytest.mark.faults("broken submission")
def test_broken_models_are_refused_each_with_its_own_reason(good, tmp_path, capsys, tried):
    cases = tensorflow_submissions(tmp_path)
    report = tmp_path / "report.json"
    submissions = [str(good), *(str(folder) for folder, _ in cases.values())]
    code = cli.main(["check", *submissions, "--images", "1", "--out", str(report)])
    said = json.loads(report.read_text())
    assert code == 2
    assert f"{len(cases)} of {len(submissions)} refused" in capsys.readouterr().err
    assert said[str(good)]["passed"], said[str(good)]
    reasons = {}
    for name, (folder, reason) in cases.items():
        failed = [row["detail"] for row in said[str(folder)]["checks"] if row["ok"] is False]
        assert any(reason in detail for detail in failed), (name, failed)
        reasons[name] = failed[0].replace(str(folder), "")
    assert len(set(reasons.values())) >= 15, reasons  # different ones
    tried(len(cases))


@pytest.mark.faults("broken submission")
def test_broken_zips_are_refused_before_anything_is_loaded(broken_zips, tmp_path, tried):
    for name, (path, reason) in broken_zips.items():
        target = tmp_path / name
        target.mkdir()
        with pytest.raises(BadInput, match=reason):
            submission_zip.unpack(path, target)
        assert not (tmp_path.parent / "escaped.txt").exists(), name
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        assert size < 1 << 20, f"{name} wrote {size} bytes"
    tried(len(broken_zips))


@pytest.mark.faults("broken submission")
def test_a_broken_zip_is_one_line_and_exit_2(broken_zips, capsys):
    path, reason = broken_zips["path outside"]
    assert cli.main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert cli.main(["check", str(path.with_name("absent.zip"))]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_zip_with_an_entry_for_its_root_is_accepted(good, tmp_path):
    path = tmp_path / "submission.zip"
    zip_submission(good, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("./", b"")  # as Python's make_archive writes
    assert submission_zip.inspect(path) == submission_zip.unpack(path, tmp_path / "unpacked") == "tensorflow"
    assert (tmp_path / "unpacked" / "saved_model.pb").is_file()


def test_a_batch_that_is_fixed_to_one_is_accepted_with_a_note(tmp_path, capsys):
    """Google's exporter writes it by default."""
    single = tf.TensorSpec([1, None, None, 3], tf.uint8, name="image")
    folder = saved(tmp_path / "model", lambda images: {"embedding_norm": unit(features(images))}, single)
    assert cli.main(["check", str(folder), "--images", "1"]) == 0
    said = capsys.readouterr().out
    assert "note  one image a call   the batch is fixed to 1" in said and "same in a batch" not in said
    assert "image: uint8 [1, None, None, 3] → embedding_norm" in said


def test_slowness_and_memory_are_judged(good, tmp_path, capsys):
    submission = tmp_path / "submission.zip"
    zip_submission(good, submission)
    limits = ["--max-seconds-per-image", "1e-9", "--memory-gb", "0.001", "--images", "3"]
    assert cli.main(["check", str(submission), *limits]) == 2
    said = capsys.readouterr()
    assert "too slow" in said.err and "more than 0.001 GB" in said.err
    assert said.out.count("FAIL") == 2 and "ok    same in a batch" in said.out


def test_time_is_judged_by_the_nine_hours_on_a_gpu_and_noted_on_a_cpu():
    def row(seconds: float, device: str) -> check.Row:
        return {"check": "seconds per image", "ok": None, "detail": {"seconds": seconds, "device": device}}

    limit = 9 * 3600 / 205_000
    config = check.CheckConfig(("any.zip",))
    assert check.judged(row(limit * 0.99, "gpu"), config)["ok"] is True
    assert check.judged(row(limit * 1.01, "gpu"), config)["ok"] is False
    assert check.judged(row(limit * 1.01, "cpu"), config)["ok"] is None  # the scorer has a GPU


@pytest.mark.faults("broken submission")
def test_a_check_that_hangs_or_dies_is_a_refusal(tmp_path, monkeypatch):
    hanging = tmp_path / "probe.py"
    hanging.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(check, "PROBE", hanging)
    rows = check.probe("python3", ["a", "b"], 1, timeout_seconds=1.0)
    assert "not done after 1 s" in rows["a"][0]["detail"] and rows["b"][0]["ok"] is False
    hanging.write_text("import os; os.kill(os.getpid(), 9)")
    rows = check.probe("python3", ["a"], 1, timeout_seconds=30.0)
    assert "out of memory" in rows["a"][0]["detail"]


def test_the_scorer_has_none_of_the_settings_of_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # with which TensorFlow 2.6.4 dies
    told = tmp_path / "probe.py"
    told.write_text(
        "import json, os\n"
        "found = os.environ.get('TF_ENABLE_ONEDNN_OPTS')\n"
        "print(json.dumps({'folder': 'a', 'check': 'oneDNN', 'ok': found is None, 'detail': 'PATH' in os.environ}))\n"
    )
    monkeypatch.setattr(check, "PROBE", told)
    assert check.probe("python3", ["a"], 1, timeout_seconds=30.0)["a"] == [
        {"check": "oneDNN", "ok": True, "detail": True}
    ]


def test_torchscript_submissions_are_checked_against_the_same_contract(tmp_path, capsys):
    torch = pytest.importorskip("torch")

    class Good(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pixels = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255.0, (4, 5)) + 0.1
            return torch.nn.functional.normalize(pixels.reshape(images.shape[0], -1), dim=-1)

    class Long(Good):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean((2, 3)) + 1.0

    class Renamed(Good):
        def forward(this, pixels: torch.Tensor) -> torch.Tensor:
            flat = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), (4, 5)) + 0.1
            return torch.nn.functional.normalize(flat.reshape(pixels.shape[0], -1), dim=-1)

    class Forging(Good):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            print(self.row)
            return images.float().mean((2, 3)) + 1.0

    class Floats(Good):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(images, torch.ones(64, 3, 1, 1)).mean((2, 3))

    folders = {}
    for module in (Good, Long, Renamed, Forging, Floats):
        folder = folders[module.__name__] = tmp_path / module.__name__
        folder.mkdir()
        made = module()
        made.row = json.dumps({"folder": str(folder), "check": "forged", "ok": True, "detail": ""})
        torch.jit.script(made).save(str(folder / "saved_model.pt"))
    pickled = folders["Pickled"] = tmp_path / "Pickled"
    pickled.mkdir()
    torch.save({"weights": torch.ones(3)}, pickled / "saved_model.pt")
    report = tmp_path / "report.json"
    paths = [str(folder) for folder in folders.values()]
    assert cli.main(["check", *paths, "--images", "1", "--out", str(report)]) == 2
    said = json.loads(report.read_text())
    failed = {
        name: " ".join(str(row["detail"]) for row in said[str(folder)]["checks"] if row["ok"] is False)
        for name, folder in folders.items()
    }
    assert failed["Good"] == failed["Renamed"] == ""
    assert "length is off 1" in failed["Forging"]  # what a model prints is no finding
    assert not [row for row in said[str(folders["Forging"])]["checks"] if row["check"] == "forged"]
    assert "length is off 1" in failed["Long"]
    assert "cannot be called" in failed["Floats"]
    assert "does not load" in failed["Pickled"]


def fake_python(folder: Path, version: str) -> Path:
    """An executable that says it is Python `version` and can do nothing else."""
    path = folder / f"python-{version}"
    path.write_text(f'#!/bin/sh\ncase "$2" in *version_info*) echo {version};; *) echo broken >&2; exit 3;; esac\n')
    path.chmod(0o755)
    return path


def test_the_scorers_environment_needs_python_3_9_and_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))  # no pyenv there
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GUIE_PYTHON39", str(fake_python(tmp_path, "3.12")))
    assert scorer_env.find_python() is None
    with pytest.raises(BadInput, match=r"needs Python 3\.9"):
        scorer_env.python_of("tensorflow")
    right = fake_python(tmp_path, "3.9")
    monkeypatch.setenv("GUIE_PYTHON39", str(right))
    assert scorer_env.find_python() == right
    with pytest.raises(BadInput, match="could not be made: python -m venv: broken"):
        scorer_env.python_of("tensorflow")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["scorer-tensorflow.lock"]


def test_the_embeddings_of_two_versions_are_compared(tmp_path, monkeypatch, capsys):
    rows = {"17x31": [0.6, 0.8], "black": [1.0, 0.0]}
    assert check.disagreement(rows, {"17x31": [0.6, 0.80002], "black": [0.0, 1.0]}) == pytest.approx(2e-5)

    torch = pytest.importorskip("torch")

    class Corner(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(images[:, :, 0, 0].float() / 255.0 + 0.1, dim=-1)

    torch.jit.script(Corner()).save(str(tmp_path / "saved_model.pt"))
    other = tmp_path / "python"  # in place of a version that computes one number differently
    other.write_text(
        f"""#!{sys.executable}
import json, subprocess, sys
answer = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
for line in answer.stdout.splitlines():
    row = json.loads(line)
    if row["check"] == "embeddings":
        row["detail"]["17x31"][0] += 1e-3
    print(json.dumps(row))
"""
    )
    other.chmod(0o755)
    monkeypatch.setattr(check, "python_of", lambda kind: other)
    assert cli.main(["check", str(tmp_path), "--scorer", "kaggle", "--images", "1"]) == 2
    said = capsys.readouterr()
    assert "the two versions differ by 1.0e-03" in said.err and said.out.count("FAIL") == 1
