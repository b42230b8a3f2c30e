"""README's commands, run as they stand there, in its order, in one folder; small overrides keep them short."""

import contextlib
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipeline import cli

ROOT = Path(__file__).parents[1]

FEW_BIRDS = (
    "records.sources=[{layout: cub200, name: cub200, root: CUB_200_2011}] records.cap_per_class=4 "
    "records.split.left_out=[] train.phases.0.epochs=1 train.phases.1.epochs=1 train.validate_every_epochs=1"
)
TINY = "hidden_dim: 32, num_layers: 1, num_heads: 2, intermediate_dim: 64, projection_dim: 16"
TINY_CLIP, TINY_TEXT = f"architecture={{patch_size: 16, {TINY}}}", f"text_architecture={{{TINY}}}"
FEW_TRIPLETS = " ".join(
    [
        "index.0.cap_per_class=4 queries.0.cap_per_class=2 pictures=3 triplets.sets.0.epochs=1",
        "triplets.sets.0.train.0.cap_per_class=4 triplets.sets.0.validation.0.cap_per_class=2",
    ]
)
# What README says → what is run: placeholders filled, overrides added. `|` parts words that hold spaces.
RUN = {
    "guie run configs/real_images.yaml": f"run configs/real_images.yaml {FEW_BIRDS}",
    "guie run CONFIG train.seed=1 run_dir=runs/b": (
        f"run configs/real_images.yaml train.seed=1 run_dir=runs/b {FEW_BIRDS}"
    ),
    "guie score runs/demo/submission.zip --index FOLDER_OF_CLASS_FOLDERS": (
        "score runs/demo/submission.zip --index FOLDER"
    ),
    "guie embed runs/demo/submission.zip FOLDER --out vectors": "embed runs/demo/submission.zip FOLDER --out vectors",
    "guie browse vectors FOLDER": "browse vectors FOLDER --port 0",
    "guie status runs/demo": "status runs/demo",
    "guie tfrecords configs/real_images.yaml": f"tfrecords configs/real_images.yaml {FEW_BIRDS}",
    "guie verify runs/real_images/records": "verify runs/real_images/records",
    "guie tfrecords CONFIG records.cap_per_class=50 records.near_duplicates=true": (
        "tfrecords configs/demo.yaml records.cap_per_class=50 records.near_duplicates=true run_dir=runs/near "
        "records.sources.0.options.classes=6 records.sources.0.options.images_per_class=4"
    ),
    "guie plan configs/vit_h14_arcface_tpu.yaml": "plan configs/vit_h14_arcface_tpu.yaml",
    "guie export CONFIG": "export configs/demo.yaml",
    "guie check SUBMISSION …": "check runs/demo/submission.zip --images 2",
    "guie zero-shot configs/zero_shot_cub200.yaml first=200": (
        f"zero-shot configs/zero_shot_cub200.yaml first=20 templates=one models.0.encoder.{TINY_CLIP} "
        f"models.0.{TINY_TEXT} models.0.encoder.image_size_px=32"
    ),
    "guie captions configs/captions.yaml": (
        f"captions configs/captions.yaml model.encoder.{TINY_CLIP} model.{TINY_TEXT} model.encoder.image_size_px=32"
    ),
    "guie staged build configs/staged_cifar10.yaml": "staged build configs/staged_cifar10.yaml index.0.cap_per_class=5",
    "guie staged predict IMAGE --stage all": "staged predict IMAGE --stage all",
    "guie staged perf --stage all --time": "staged perf --stage all --time queries.0.cap_per_class=2",
    "guie staged perf --stage third --num 2 --batch-size 3 --display-freq 1 --time": (
        "staged perf --stage third --num 2 --batch-size 3 --display-freq 1 --time"
    ),
    "guie similar train configs/similar_cub200.yaml": f"similar train configs/similar_cub200.yaml {FEW_TRIPLETS}",
    "guie similar search configs/similar_cub200.yaml method=embedder": (
        f"similar search configs/similar_cub200.yaml method=embedder {FEW_TRIPLETS}"
    ),
    "guie similar search configs/similar_products10k.yaml IMAGE": (
        "similar search configs/similar_products10k.yaml IMAGE index.0.cap_per_class=2"
    ),
}
BEAM = "records.runner=beam records.beam_options='[--runner=FlinkRunner,--flink_master=HOST:PORT]'"
NOT_RUN = {  # why
    "guie run CONFIG --redo": "tests/faults/test_edits_of_records.py runs it after every edit that is refused",
    "guie train configs/vit_h14_arcface_tpu.yaml devices.rehearse=8": "tests/test_configs.py rehearses it narrowed",
    "guie import-weights open_clip_model.safetensors --encoder clip_vit_h_14 --out vit_h14.safetensors": (
        "tests/models/test_weights_open_clip.py imports a narrow model; the file has 4 GB"
    ),
    "guie import-weights --parity": "minutes and 10 GB; tests/models/test_weights_parity.py compares narrow models",
    "guie submit CONFIG [--dry-run]": "tests/export/test_submit.py, against a server of its own",
    f"guie tfrecords CONFIG {BEAM}": "needs a cluster; tests/tfrecords/test_records_build.py runs Beam in a process",
}


def commands_of(text: str) -> list[str]:
    """The `guie` lines of the code blocks, without comments and explanations, each once."""
    blocks = text.split("```")[1::2]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("guie ")]
    stripped = (re.split(r"\s+#|\s{3,}", line.strip())[0] for line in lines)
    return list(dict.fromkeys(" ".join(line.split()) for line in stripped))


def words_of(command: str, folder: Path) -> list[str]:
    """Splits at spaces outside brackets; FOLDER and IMAGE become what lies in `folder`."""
    words = re.findall(r"(?:[^\s\[{]|\[.*?\](?=\s|$)|\{[^}]*\})+", command)
    image = next((folder / "photos").rglob("*.jpg"))
    return [{"FOLDER": str(folder / "photos"), "IMAGE": str(image)}.get(word, word) for word in words]


def test_every_command_of_the_readme_is_run_or_says_why_not():
    listed = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted({**RUN, **NOT_RUN}), "README and this file list other commands"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared) -> Path:
    """Where README's reader stands: configs, the demo's run (a small one) and a folder of class folders."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "photos").symlink_to(shared / "data" / "cifar10" / "test")
    small = "records.sources.0.options.classes=12 records.sources.0.options.images_per_class=6 train.compile=false"
    epochs = "train.phases.0.epochs=0.5 train.phases.1.epochs=0.5 train.phases.1.warmup_epochs=0"
    with contextlib.chdir(folder):
        assert cli.main(["run", "configs/demo.yaml", *small.split(), *epochs.split()]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_readme_works(command: str, folder: Path, shared, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GUIE_DATA", str(shared / "data"))
    words = words_of(RUN[command], folder)
    if command.startswith("guie browse"):
        browse(words, folder)
        return
    code = cli.main(words)
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert shown.out.strip().splitlines()[-1]  # its last line names the result


def browse(words: list[str], folder: Path) -> None:
    script = [sys.executable, "-m", "pipeline.cli", *words]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        script, stdout=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address and "<img" in urllib.request.urlopen(address[0], timeout=60).read().decode()
        finally:
            process.terminate()
