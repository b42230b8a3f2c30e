# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Training a universal image embedding on a TPU
#
# Shards of records → a trained embedder → `submission.zip`, on whatever this machine has: a TPU, GPUs or the CPU.
# No internet. Attached are
#
# - a dataset with the project's wheel and `config.yaml` (`guie submit` makes it),
# - a dataset with `*.tfrec` shards, from `guie tfrecords` or one of the public sets,
# - the encoder as a Kaggle model.

# %% [markdown]
# ## 1. The project

# %%
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

INPUT = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING", "/kaggle/working"))

wheels = sorted(INPUT.rglob("guie-*.whl"))
assert wheels, f"attach the dataset of `guie submit`: no guie-*.whl anywhere in {INPUT}"
package = wheels[-1].parent
packages = tempfile.mkdtemp(prefix="guie-packages-")
every_wheel = [str(wheel) for wheel in package.glob("*.whl")]
install = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--target", packages, *every_wheel]
subprocess.run([sys.executable, "-m", *install], check=True)
sys.path.insert(0, packages)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.filterwarnings("ignore", message="IProgress|pkg_resources")
os.environ["KERAS_BACKEND"] = "tensorflow"

# %% [markdown]
# ## 2. What is attached

# %%
shards = sorted(INPUT.rglob("*.tfrec"))
assert shards, f"attach a dataset of shards: no *.tfrec anywhere in {INPUT}"
folders = sorted({shard.parent for shard in shards})
for folder in folders:
    print(f"{sum(shard.parent == folder for shard in shards):>6,} shards in {folder}")

overrides = [f"run_dir={WORKING / 'run'}", "records.sources=[]"]
for split in ("train", "validation", "test"):
    globs = [f"{folder}/*-{split}-*.tfrec" for folder in folders if list(folder.glob(f"*-{split}-*.tfrec"))]
    key = {"train": "train.records", "validation": "train.validation", "test": "score.index"}[split]
    overrides.append(f"{key}=[{','.join(globs)}]")

presets = sorted(INPUT.rglob("model.weights.*"))
if presets:
    overrides.append(f"encoder.weights=preset:{presets[0].parent}")
    print(f"encoder from {presets[0].parent}")
print("\n".join(overrides))

# %% [markdown]
# ## 3. Training
#
# A run that was stopped goes on from its newest checkpoint when this cell runs again.

# %%
from pipeline import cli

CONFIG = str(package / "config.yaml")
assert cli.main(["train", CONFIG, *overrides]) == 0

# %%
from IPython.display import SVG, Markdown, display

history = [json.loads(line) for line in (WORKING / "run" / "metrics.jsonl").read_text().splitlines()]
losses = [row["loss"] for row in history if "loss" in row]
low, high = min(losses), max(losses)
points = " ".join(
    f"{40 + 540 * number / max(len(losses) - 1, 1):.1f},{20 + 160 * (high - loss) / max(high - low, 1e-9):.1f}"
    for number, loss in enumerate(losses)
)
display(
    SVG(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 220" width="600" font-family="sans-serif" '
        f'font-size="12"><rect width="600" height="220" fill="white"/>'
        f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="2"/>'
        f'<text x="4" y="24">{high:.2f}</text><text x="4" y="184">{low:.2f}</text>'
        f'<text x="300" y="210" text-anchor="middle">loss over {len(losses)} logged steps</text></svg>'
    )
)

# %% [markdown]
# ## 4. Submission and score

# %%
assert cli.main(["export", CONFIG, *overrides]) == 0
submission = WORKING / "run" / "submission.zip"
copied = (WORKING / "submission.zip").write_bytes(submission.read_bytes())
print(f"{copied / 1e6:,.1f} MB in {WORKING}")

# %%
tests = next(value for key, _, value in (o.partition("=") for o in overrides) if key == "score.index")
if tests != "[]":
    index = [argument for glob in tests.strip("[]").split(",") for argument in ("--index", glob)]
    metrics = WORKING / "metrics.json"
    assert cli.main(["score", str(submission), *index, "--out", str(metrics)]) == 0
    result = json.loads(metrics.read_text())
    rows = [
        f"| {name} | {domain['mP@5']:.4f} | {domain['queries']:,} | {domain['index']:,} |"
        for name, domain in result["domains"].items()
    ]
    rows.append(f"| **all** | **{result['mP@5']:.4f}** | | |")
    header = ["| domain | mP@5 | queries | index images |", "|---|---|---|---|"]
    display(Markdown("\n".join([*header, *rows])))
