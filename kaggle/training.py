# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Training a universal image embedding
#
# Shards of records → a trained embedder → `submission.zip` and its score, on whatever this machine has: a TPU, GPUs or
# the CPU, without internet. The embedder turns any image into 64 numbers of unit length, so that images of the same
# object lie near each other; mean Precision@5 says how many of an image's five nearest show its object.
#
# Attached are
#
# - a dataset with the project's wheels and `config.yaml` (`python -m export.package CONFIG` makes it),
# - a dataset with `*.tfrec` shards, from `guie tfrecords` or one of the public sets,
# - the encoder as a Kaggle model,
# - to go on with what a version before has not finished: that version's output.
#
# The project is `guie`; `docs/kaggle.md` of its repository tells these steps one by one.

# %% [markdown]
# ## Edit here
#
# All that one changes. The rest runs as it is.

# %%
FURTHER: list[str] = []  # keys of the config, as KEY=VALUE: "train.phases.0.epochs=2"
HOURS = {"tpu": 8.5, "gpu": 11.5}  # of training, then it is saved: a session ends after 9 on a TPU, 12 without
CLASSES, IMAGES_PER_CLASS = 12, 6  # of the held-out images that are shown with their neighbours

# %% [markdown]
# ## 1. The project

# %%
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from glob import glob
from pathlib import Path

INPUT = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING", "/kaggle/working"))

wheels = sorted(INPUT.rglob("guie-*.whl"))
assert wheels, f"attach the training dataset of `python -m export.package`: no guie-*.whl anywhere in {INPUT}"
package = wheels[-1].parent
packages = tempfile.mkdtemp(prefix="guie-packages-")  # before the image's own on sys.path
install = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links", str(package), "--target", packages]
# As the TPU image says of itself, or by the files of its chips; the other image is of GPUs and of the CPU.
image = "tpu" if os.environ.get("ISTPUVM") or glob("/dev/accel*") or glob("/dev/vfio/[0-9]*") else "gpu"
assert (package / f"wheels-{image}.txt").is_file(), (
    f"{package} is not for the {image} image: attach the training dataset"
)
listed = ["-r", str(package / f"wheels-{image}.txt"), str(wheels[-1])]
installing = subprocess.run([sys.executable, "-m", *install, *listed], capture_output=True, text=True)
assert installing.returncode == 0, f"Python {sys.version.split()[0]}: {installing.stderr}"
sys.path.insert(0, packages)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.filterwarnings("ignore", message="IProgress|pkg_resources")
os.environ["KERAS_BACKEND"] = "tensorflow"

from pipeline.attached import tensorflow_build, tpu_devices

print(f"Kaggle's {image} image: Python {sys.version.split()[0]}, {tensorflow_build()}; {tpu_devices() or 'no TPU'}")

# %% [markdown]
# ## 2. What is attached

# %%
shards = sorted(INPUT.rglob("*.tfrec"))
assert shards, f"attach a dataset of shards: no *.tfrec anywhere in {INPUT}"
folders = sorted({shard.parent for shard in shards})
for folder in folders:
    print(f"{sum(shard.parent == folder for shard in shards):>6,} shards in {folder}")

# /kaggle/working holds 20 GB. The run is stopped in time for the export, or saved for the next version.
overrides = [
    *(f"run_dir={WORKING / 'run'}", "records.sources=[]", "devices.kind=auto", "train.checkpoints_kept=1"),
    f"train.features_dir={Path(tempfile.gettempdir()) / 'guie-features'}",
    f"train.hours={HOURS[image]}",
]
for split in ("train", "validation", "test"):
    globs = [f"{folder}/*-{split}-*.tfrec" for folder in folders if list(folder.glob(f"*-{split}-*.tfrec"))]
    key = {"train": "train.records", "validation": "train.validation", "test": "score.index"}[split]
    overrides.append(f"{key}=[{','.join(globs)}]")

presets = sorted(INPUT.rglob("model.weights.*"))
if presets:
    overrides.append(f"encoder.weights=preset:{presets[0].parent}")
    print(f"encoder from {presets[0].parent}")

overrides += FURTHER
print("\n".join(overrides))

# %%
from IPython.display import HTML, SVG, Markdown, display

from pipeline.quiet import import_quietly

samples = import_quietly("pipeline.pages.samples")
for folder in folders:
    shard = next(iter(sorted(folder.glob("*-train-*.tfrec")) or sorted(folder.glob("*.tfrec"))))
    display(HTML(samples.row_of(samples.take([str(shard)], classes=6, images_per_class=1))))

# %% [markdown]
# ## 3. Training
#
# It goes on from the newest checkpoint of this recipe: of this session when the cell runs again, else of a version
# before, when its output is attached.

# %%
from pipeline import cli
from pipeline.config import Run, load
from pipeline.errors import BadInput
from pipeline.retrieval import intervals
from pipeline.training import checkpoints, inputs

CONFIG, run = str(package / "config.yaml"), WORKING / "run"
recipe = inputs.recipe(load(Run, CONFIG, overrides))
found = sorted(INPUT.rglob("checkpoints/step-*.safetensors"), key=lambda path: path.name)
saved = []
for path in found:
    try:
        same = checkpoints.read_state(path)["recipe"] == recipe
        print(f"{path}: {'of this recipe' if same else 'of another recipe, stays where it is'}")
        saved += [path] * same
    except BadInput as error:
        print(error)
if saved and not list(run.glob("checkpoints/step-*.safetensors")):
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(saved[-1], run / "checkpoints" / f".{saved[-1].name}")  # it gets its name when it is whole
    (run / "checkpoints" / f".{saved[-1].name}").rename(run / "checkpoints" / saved[-1].name)
    print(f"goes on from {saved[-1]}")

# %%
ended = cli.main(["train", CONFIG, *overrides])
stopped = ended == 75  # train.hours are over, or Kaggle ends the session
assert ended in (0, 75)
if stopped:
    print(f"saved in {run / 'checkpoints'}: attach this version's output to the notebook and run it again")

# %%
log = run / "metrics.jsonl"
history = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
losses = [row["loss"] for row in history if "loss" in row]
low, high = min(losses, default=0.0), max(losses, default=0.0)
points = " ".join(
    f"{40 + 540 * number / max(len(losses) - 1, 1):.1f},{20 + 160 * (high - loss) / max(high - low, 1e-9):.1f}"
    for number, loss in enumerate(losses)
)
display(
    SVG(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 220" style="width:100%;max-width:600px" '
        f'font-family="sans-serif" font-size="12"><rect width="600" height="220" fill="white"/>'
        f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="2"/>'
        f'<text x="4" y="24">{high:.2f}</text><text x="4" y="184">{low:.2f}</text>'
        f'<text x="300" y="210" text-anchor="middle">loss over {len(losses)} logged steps</text></svg>'
    )
)

# %% [markdown]
# ## 4. Submission and score
#
# Of a run that is done.

# %%
submission = run / "submission.zip"
if not stopped:
    assert cli.main(["export", CONFIG, *overrides]) == 0
    (WORKING / "submission.zip").unlink(missing_ok=True)
    os.link(submission, WORKING / "submission.zip")  # 2.5 GB at ViT-H/14, once on the disk
    print(f"{submission.stat().st_size / 1e6:,.1f} MB in {WORKING}")

# %%
tests = next(value for key, _, value in (o.partition("=") for o in overrides) if key == "score.index")
if tests != "[]" and not stopped:
    index = [argument for shards in tests.strip("[]").split(",") for argument in ("--index", shards)]
    metrics = WORKING / "metrics.json"
    assert cli.main(["score", str(submission), *index, "--out", str(metrics)]) == 0
    result = json.loads(metrics.read_text())
    shown = {name: intervals.text(each["mP@5"], each["interval"]) for name, each in result["domains"].items()}
    rows = [
        f"| {name} | {shown[name]} | {domain['queries']:,} | {domain['index']:,} |"
        for name, domain in result["domains"].items()
    ]
    rows.append(f"| **all** | **{intervals.text(result['mP@5'], result['interval'])}** | | |")
    header = ["| domain | mP@5 | queries | index images |", "|---|---|---|---|"]
    display(Markdown("\n".join([*header, *rows])))

# %% [markdown]
# ## 5. What it finds
#
# Held-out images at the left, beside each its five nearest among a sample of the others, with their distance.

# %%
from pipeline.evaluation import embedders

if tests != "[]" and not stopped:
    sample = samples.take(tests.strip("[]").split(","), CLASSES, IMAGES_PER_CLASS)
    vectors = samples.embedded(sample, embedders.load(str(submission)))
    display(Markdown(samples.line(sample, vectors)), HTML(samples.neighbour_rows(sample, vectors)))
