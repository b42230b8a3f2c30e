"""COMMAND  submission.zip → a scored submission on Kaggle.

guie submit CONFIG [KEY=VALUE …] [--dry-run]
<run_dir>/submission.zip → a version of the dataset `submit.dataset` and of the notebook `submit.kernel`, a submission

In this order: package, check, dataset, notebook, submission, score. `<run_dir>/submit/state.json` records what is done:
the same command continues from there, and a dataset or notebook gets a new version only when its content has changed.

`submit.user=NAME` is enough: dataset and notebook are then named after the run. Without it the name is the token's.

Signs in as the `kaggle` client does: KAGGLE_API_TOKEN, or ~/.kaggle/kaggle.json. The token is never printed or stored.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import check, package
from export.kaggle_client import Kaggle
from pipeline.config import Run
from pipeline.config.schema import LARGEST_DIM
from pipeline.errors import BadInput
from pipeline.files import atomic_path, fingerprint, read_json


@dataclass(frozen=True)
class SubmitConfig:
    run: Run
    dry_run: bool = False
    scorer: str = "here"  # here | kaggle, as in `guie check`


class Rehearsal:
    """Takes the place of `Kaggle` in a dry run: prints every call, and answers so that the next one follows."""

    def __init__(self) -> None:
        self.submitted = False

    def dataset_version(self, name: str) -> int | None:
        _would(f"GetDataset {name}: is there one already?")
        return None

    def upload_dataset(self, metadata: dict[str, Any], files: list[Path], note: str, version: int | None) -> int:
        for path in files:
            _would(f"StartBlobUpload {path.name}, then PUT {path.stat().st_size:,} bytes")
        _would(f"CreateDataset {metadata['id']} (CreateDatasetVersion if it is there), private, note {note!r}")
        return 1

    def dataset_status(self, name: str) -> str:
        _would(f"GetDatasetStatus {name}, until it is ready")
        return "ready"

    def push_kernel(self, folder: Path, name: str) -> int:
        _would(f"SaveKernel {name} from {folder}: {(folder / package.KERNEL_METADATA).read_text()}")
        return 1

    def kernel_status(self, name: str) -> tuple[str, str]:
        _would(f"GetKernelSessionStatus {name}, until it is complete")
        return "complete", ""

    def submission(self, competition: str, message: str) -> dict[str, str] | None:
        if not self.submitted:
            _would(f"ListSubmissions {competition}: is one described {message!r} there already?")
            return None
        _would(f"ListSubmissions {competition}, until it is scored")
        return {"status": "complete", "error": "", "public": "", "private": ""}

    def submit(self, competition: str, kernel: str, version: int, message: str) -> None:
        _would(f"CreateCodeSubmission to {competition}: submission.zip of {kernel}, version {version}")
        self.submitted = True


class State:
    """What is done already: `<run_dir>/submit/state.json`, readable by its owner alone; not `kept` in a dry run."""

    def __init__(self, path: Path, kept: bool):
        self.path, self.kept = path, kept
        self.values: dict[str, Any] = read_json(path) if kept and path.is_file() else {}
        self.values.setdefault("uploads", {})

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, **values: Any) -> None:
        self.values.update(values)
        self.save()

    def save(self) -> None:
        if self.kept:
            with atomic_path(self.path) as temporary:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    json.dump(self.values, file, indent=2)


def main(config: SubmitConfig) -> None:
    """Submits the run and prints its score.

    Raises BadInput for an embedding that is wider than the competition takes; as `package.build` and `check.main`,
    which run before anything is uploaded; Kaggle refuses; a wait times out.
    """
    if (dim := config.run.embedder.embedding_dim) > LARGEST_DIM:
        mend = "train with embedder.embedding_dim=64 to submit"
        raise BadInput(f"embedder.embedding_dim={dim}: the competition takes at most {LARGEST_DIM} numbers: {mend}")
    run = package.with_names(config.run)
    folder = Path(run.run_dir) / "submit"
    there = f"{run.submit.dataset} and {run.submit.kernel}"
    print(f"submit: reads {run.run_dir}/submission.zip, writes {folder} and, on Kaggle, {there}")
    packed = package.build(run)
    state = State(folder / "state.json", kept=not config.dry_run)
    checked = [packed.dataset_fingerprint, config.scorer]
    if state.get("checked") != checked:
        submission = str(Path(run.run_dir) / "submission.zip")
        check.main(dataclasses.replace(check.CheckConfig((submission,)), scorer=config.scorer))
        state.set(checked=checked)
    kaggle = Rehearsal() if config.dry_run else Kaggle(state.values["uploads"], state.save)
    version = send_dataset(kaggle, run, packed, state)
    kernel_version = run_kernel(kaggle, run, packed, version, state)
    scores = score(kaggle, run, packed, version, kernel_version, state)
    if config.dry_run:
        print("submit: dry run: every call is shown above, none was made")
        return
    private = scores["private"] or "not told"
    print(f"submit: {run.submit.competition}: public {scores['public']}, private {private}")


def send_dataset(kaggle: Any, run: Run, packed: package.Package, state: State) -> int:
    """Uploads the dataset unless its newest version is this; waits until it is processed. Returns its version."""
    name = run.submit.dataset
    current = kaggle.dataset_version(name)
    sent = [name, packed.dataset_fingerprint, current]
    if current is None or state.get("dataset") != sent:
        metadata = read_json(packed.dataset / package.DATASET_METADATA)
        files = sorted(path for path in packed.dataset.iterdir() if path.name != package.DATASET_METADATA)
        note = f"guie {packed.dataset_fingerprint}"
        current = kaggle.upload_dataset(metadata, files, note, current)
        state.set(dataset=[name, packed.dataset_fingerprint, current])
    else:
        print(f"submit: {name} version {current} holds this content already")

    def ready() -> tuple[bool, str]:
        status = kaggle.dataset_status(name)
        if status in ("failed", "deleted"):
            state.set(dataset=None)
            raise BadInput(f"Kaggle could not make the dataset {name} ({status}): run the same command again")
        return status == "ready", f"{name} version {current}: {status}"

    wait(ready, run)
    return current


def run_kernel(kaggle: Any, run: Run, packed: package.Package, dataset_version: int, state: State) -> int:
    """Pushes the notebook unless it has been pushed for this dataset; waits until it has run. Returns its version."""
    name = run.submit.kernel
    wanted = [name, packed.kernel_fingerprint, dataset_version]
    pushed = state.get("kernel")
    if not pushed or pushed[:3] != wanted:
        pushed = [*wanted, kaggle.push_kernel(packed.kernel, name)]
        state.set(kernel=pushed)
    else:
        print(f"submit: {name} version {pushed[3]} is this notebook already")

    def through() -> tuple[bool, str]:
        status, message = kaggle.kernel_status(name)
        if status in ("error", "cancel_requested", "cancel_acknowledged"):
            state.set(kernel=None)
            raise BadInput(f"the notebook {name} version {pushed[3]} ended with {status}: {message or 'see its log'}")
        return status == "complete", f"{name} version {pushed[3]}: {status}"

    wait(through, run)
    return int(pushed[3])


def score(
    kaggle: Any, run: Run, packed: package.Package, dataset_version: int, kernel_version: int, state: State
) -> dict[str, str]:
    """Submits the notebook's output unless that is done; waits for the scores and returns them."""
    competition = run.submit.competition
    content = [packed.dataset_fingerprint, packed.kernel_fingerprint, dataset_version, kernel_version]
    message = f"{run.submit.message or run.name} [guie {fingerprint(content)}]"
    earlier = kaggle.submission(competition, message)
    if earlier is None or earlier["status"] == "error":
        kaggle.submit(competition, run.submit.kernel, kernel_version, message)
    else:
        print("submit: submitted already")
    found: dict[str, str] = {}

    def scored() -> tuple[bool, str]:
        entry = kaggle.submission(competition, message) or {"status": "pending", "error": ""}
        if entry["status"] == "error":
            raise BadInput(f"Kaggle could not score the submission: {entry['error'] or 'no reason given'}")
        found.update(entry)
        return entry["status"] == "complete", f"submission: {entry['status']}"

    wait(scored, run)
    state.set(scores={key: found[key] for key in ("public", "private")})
    return found


def wait(finished: Callable[[], tuple[bool, str]], run: Run) -> None:
    """Asks every `poll_seconds` until it is finished; prints the status when it changes, and once a minute.

    Raises BadInput: not finished after `timeout_hours`.
    """
    started, printed, printed_at = time.monotonic(), "", 0.0
    while True:
        done, status = finished()
        waited = time.monotonic() - started
        if status != printed or waited - printed_at >= 60:
            print(f"submit: {status} ({int(waited // 60)}:{int(waited % 60):02d})", flush=True)
            printed, printed_at = status, waited
        if done:
            return
        if waited > run.submit.timeout_hours * 3600:
            raise BadInput(f"{status} after {run.submit.timeout_hours:g} h: run the same command again to wait longer")
        time.sleep(run.submit.poll_seconds)


def _would(what: str) -> None:
    print(f"submit: would call {' '.join(what.split())}")
