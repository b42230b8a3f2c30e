"""COMMAND  a submission → whether the competition's scorer would accept it.

guie check SUBMISSION … [--scorer kaggle] [--out report.json]
submission.zip or SavedModel folder → a table on the screen, exit code 0 or 2; --out: the same as JSON

Reads what each submission would do before anything of it is loaded: one that reaches files, the network or Python is
refused. Loads the others in a clean process. `--scorer kaggle` does so again under TensorFlow 2.6.4 (PyTorch 1.11.0),
in a separate environment, and compares the embeddings of the two versions.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.scorer_env import python_of
from pipeline.console import table
from pipeline.errors import BadInput
from pipeline.evaluation import submission_zip, untrusted
from pipeline.evaluation.untrusted import torchscript
from pipeline.files import write_json
from pipeline.quiet import import_quietly

PROBE = Path(__file__).with_name("contract_probe.py")
SCORED_IMAGES = 205_000  # 5,000 queries and 200,000 index images
AGREEMENT = 1e-5  # largest difference between the scorer's version and the current one
Row = dict[str, Any]


@dataclass(frozen=True)
class CheckConfig:
    submissions: tuple[str, ...]
    scorer: str = "here"  # here | kaggle
    images: int = 20
    budget_hours: float = 9.0
    max_seconds_per_image: float | None = None  # None: by the budget, and on a CPU a warning only
    memory_gb: float = 13.0
    timeout_seconds: float = 3600.0
    out: str = ""


def main(config: CheckConfig) -> None:
    """Checks every submission and prints a table of each. Raises BadInput: one is refused."""
    reports: dict[str, list[Row]] = {name: [] for name in config.submissions}
    with tempfile.TemporaryDirectory(prefix="guie-check-") as temporary:
        folders: dict[str, dict[str, str]] = {submission_zip.TENSORFLOW: {}, submission_zip.TORCH: {}}
        for number, name in enumerate(reports):
            print(f"check: reads {name}")
            try:
                kind, folder = _unpacked(Path(name), Path(temporary) / str(number))
            except BadInput as error:
                reports[name].append({"check": "layout", "ok": False, "detail": str(error)})
                continue
            reports[name] += [{"check": "layout", "ok": True, "detail": kind}, harmless(kind, folder)]
            if reports[name][-1]["ok"]:
                folders[kind][str(folder)] = name
        for kind, named in folders.items():
            if named:
                _probe_all(config, kind, named, reports)
    failed = {name: [row for row in rows if row["ok"] is False] for name, rows in reports.items()}
    for name, rows in reports.items():
        verdicts = {True: "ok", False: "FAIL", None: "note"}
        cells = [[verdicts[row["ok"]], row["check"], row["detail"]] for row in rows]
        print(f"\n{name}\n{table(['', 'check', 'found'], cells, left=3)}")
    if config.out:
        report = {name: {"passed": not failed[name], "checks": rows} for name, rows in reports.items()}
        write_json(Path(config.out), report)
    reasons = [f"{name}: {row['detail']}" for name, rows in failed.items() for row in rows]
    if reasons:
        raise BadInput(f"{sum(map(bool, failed.values()))} of {len(failed)} refused: " + "; ".join(reasons))
    scorer = " under the scorer's version too" if config.scorer == "kaggle" else ""
    print(f"check: {', '.join(reports)}: all of {sum(map(len, reports.values()))} checks passed{scorer}")


def harmless(kind: str, folder: Path) -> Row:
    """Whether the model reaches nothing outside itself, by its files; nothing is loaded or run."""
    try:
        if kind == submission_zip.TORCH:
            found, read = torchscript.reaching(folder / "saved_model.pt", "the model")
        else:
            # Imports TensorFlow: it alone knows its ops and its protobufs.
            module = import_quietly("pipeline.evaluation.untrusted.saved_model")
            found, read = module.reaching(str(folder), "the model")
    except BadInput as error:
        return {"check": "harmless", "ok": False, "detail": str(error)}
    what = f"{read:,} {'files of code' if kind == submission_zip.TORCH else 'nodes'} read"
    if not found:
        return {"check": "harmless", "ok": True, "detail": f"{what}, none reaches files, the network or Python"}
    reaches = f"holds {untrusted.listed(found)}, which could reach files, the network or Python: not loaded"
    return {"check": "harmless", "ok": False, "detail": reaches}


def probe(python: Path | str, folders: list[str], images: int, timeout_seconds: float) -> dict[str, list[Row]]:
    """Runs contract_probe.py in a clean process; returns each folder's rows.

    Where the process dies or runs out of time, the folder that it was at and those after it get a failed row
    "survives".
    """
    rows: dict[str, list[Row]] = {folder: [] for folder in folders}
    # -I: neither this folder nor PYTHONPATH is on the path, so the model cannot use guie.
    command = [str(python), "-I", str(PROBE), *folders, "--images", str(images)]
    # Without oneDNN, which commands turn on (`import_quietly`): TensorFlow 2.6.4 dies of SIGFPE with it.
    env = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    with tempfile.TemporaryDirectory() as elsewhere:
        out, chatter = Path(elsewhere) / "out", Path(elsewhere) / "chatter"
        with out.open("w") as stdout, chatter.open("w") as stderr:
            try:
                code = subprocess.run(
                    command, stdout=stdout, stderr=stderr, cwd=elsewhere, env=env, timeout=timeout_seconds
                ).returncode
                why = "the process was killed: most likely out of memory" if code == -9 else ""
            except subprocess.TimeoutExpired:
                code, why = 1, f"not done after {timeout_seconds:,.0f} s"
        for line in out.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"folder"'):
                row = json.loads(line)
                rows[row.pop("folder")].append(row)
        last = [line for line in chatter.read_text(errors="replace").splitlines() if line.strip()][-1:]
    if code:
        why = why or f"ended with code {code}: {last[0].strip() if last else 'no message'}"
        at = next((folder for folder in reversed(folders) if rows[folder]), folders[0])
        for folder in folders[folders.index(at) :]:
            detail = why if folder == at else "not reached: see the one before"
            rows[folder].append({"check": "survives", "ok": False, "detail": detail})
    return rows


def judged(row: Row, config: CheckConfig) -> Row:
    """Turns a measurement into a verdict: ok, a warning (None) or a failure."""
    detail = row["detail"]
    if row["check"] == "seconds per image":
        seconds, device = detail["seconds"], detail["device"]
        hours = seconds * SCORED_IMAGES / 3600
        limit = config.max_seconds_per_image or config.budget_hours * 3600 / SCORED_IMAGES
        strict = config.max_seconds_per_image is not None or device != "cpu"
        ok = True if seconds <= limit else (False if strict else None)
        note = "" if ok else f", limit {limit:.4f} s" + ("" if strict else "; the scorer has a GPU, this is a CPU")
        text = f"{seconds:.4f} s, {hours:.1f} h for {SCORED_IMAGES:,} images on this {device}"
        return {**row, "ok": ok, "detail": text + note if ok else f"too slow: {text}{note}"}
    if row["check"] == "peak memory":
        ok = detail["gigabytes"] <= config.memory_gb
        text = f"{detail['gigabytes']:.2f} GB" + ("" if ok else f", more than {config.memory_gb:g} GB")
        return {**row, "ok": ok, "detail": text if ok else f"peak memory {text}"}
    return row


def disagreement(here: dict[str, list[float]], there: dict[str, list[float]]) -> float:
    """Largest difference of any number of any embedding, over the images that are named by their size.

    The extreme images are left out: the embedding of a flat one can be nearly zero before it is scaled to unit length,
    which magnifies rounding errors.
    """
    names = [name for name in here.keys() & there.keys() if name[0].isdigit()]
    return max(float(np.abs(np.subtract(here[name], there[name])).max()) for name in names)


def _probe_all(config: CheckConfig, kind: str, named: dict[str, str], reports: dict[str, list[Row]]) -> None:
    environments = {"": Path(sys.executable)}
    if config.scorer == "kaggle":
        environments["scorer: "] = python_of(kind)
    embeddings: dict[str, list[dict[str, list[float]]]] = {folder: [] for folder in named}
    for prefix, python in environments.items():
        print(f"check: {len(named)} {kind} submission(s) in a process of {python}", flush=True)
        for folder, rows in probe(python, list(named), config.images, config.timeout_seconds).items():
            for row in rows:
                if row["check"] == "embeddings":
                    embeddings[folder].append(row["detail"])
                else:
                    row = judged(row, config)
                    detail = row["detail"].replace(folder, named[folder])
                    reports[named[folder]].append({**row, "check": prefix + row["check"], "detail": detail})
    for folder, found in embeddings.items():
        if len(found) == 2:
            off = disagreement(*found)
            row = {"check": "scorer: same embeddings", "ok": off <= AGREEMENT}
            row["detail"] = f"the two versions differ by {off:.1e} (limit {AGREEMENT:g})"
            reports[named[folder]].append(row)


def _unpacked(path: Path, into: Path) -> tuple[str, Path]:
    """("tensorflow" or "torch", the folder of the model); unpacks a zip."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return submission_zip.kind_of(names, str(path)), path.resolve()
    into.mkdir()
    return submission_zip.unpack(path, into), into
