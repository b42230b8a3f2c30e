# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A universal image embedding, submitted
#
# This notebook writes `submission.zip`: a model that turns any image into 64 numbers of unit length, so that images of
# the same object lie near each other. For Google's Universal Image Embedding competition the score is mean Precision@5:
# of the five nearest index images of each query, how many show its object.
#
# It runs without internet, on a GPU or the CPU, within minutes. It needs the dataset that `guie submit` uploads; when
# that holds a trained head alone, the encoder is attached as a Kaggle model.
#
# 1. install the project from its wheel
# 2. take the finished submission, or put the head on the encoder
# 3. check it against the competition's contract
# 4. look at what it finds, and score it on a few images
# 5. show its model card
#
# The project is `guie`; `docs/kaggle.md` of its repository tells these steps one by one.

# %% [markdown]
# ## Edit here
#
# All that one changes. The rest runs as it is.

# %%
# Yours to look at: folders of class folders, or shards (*.tfrec). Empty: attached shards, else drawn images.
IMAGES: list[str] = []
CLASSES, IMAGES_PER_CLASS = 12, 6  # of them
TIMED_IMAGES = 5  # that the check of the contract times

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
from pathlib import Path

INPUT = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING", "/kaggle/working"))

wheels = sorted(INPUT.rglob("guie-*.whl"))
assert wheels, f"attach the dataset of `guie submit`: no guie-*.whl anywhere in {INPUT}"
package = wheels[-1].parent
packages = tempfile.mkdtemp(prefix="guie-packages-")  # before the image's own on sys.path
install = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links", str(package), "--target", packages]
listed = ["-r", str(package / "wheels-gpu.txt"), str(wheels[-1])]
installing = subprocess.run([sys.executable, "-m", *install, *listed], capture_output=True, text=True)
assert installing.returncode == 0, f"Python {sys.version.split()[0]}: {installing.stderr}"
sys.path.insert(0, packages)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.filterwarnings("ignore", message="IProgress|pkg_resources")
print("\n".join(f"{path.stat().st_size:>14,}  {path.name}" for path in sorted(package.rglob("*")) if path.is_file()))

# %% [markdown]
# ## 2. The submission
#
# Kaggle unpacks the zips of a dataset; packing the files again gives the same bytes, so the fingerprint is the same.

# %%
from pipeline.evaluation.submission_zip import zip_submission
from pipeline.files import file_sha256

submission = WORKING / "submission.zip"
mark = json.loads((package / "fingerprint.json").read_text())
unpacked = [folder for folder in (package / "submission", package) if (folder / "saved_model.pb").is_file()]

if (package / "head.safetensors").is_file():
    from export.head import attach
    from export.saved_model import save_embedder
    from pipeline.config import Run, load
    from pipeline.models.weights.variables import weights_digest

    presets = sorted(INPUT.rglob("model.weights.*"))
    assert presets, "attach the encoder as a Kaggle model: the dataset holds the head alone"
    config = load(Run, package / "config.yaml", [f"encoder.weights=preset:{presets[0].parent}"])
    embedder = attach(config, package / "head.safetensors")
    found = weights_digest(embedder.model.weights)
    assert found == mark["weights_sha256"], (
        f"the encoder of {presets[0].parent} is not the one that the head was trained on (weights {found[:16]}…, "
        f"expected {mark['weights_sha256'][:16]}…): attach that one, or leave submit.encoder_model out"
    )
    model = Path(tempfile.mkdtemp()) / "saved_model"
    save_embedder(config, embedder, model)
    zip_submission(model, submission)
    print(f"the head on the encoder of {presets[0].parent}")
else:
    if (package / "submission.zip").is_file():
        submission.write_bytes((package / "submission.zip").read_bytes())
    else:
        assert unpacked, f"{package} holds neither submission.zip, nor a SavedModel, nor head.safetensors"
        folder = Path(tempfile.mkdtemp())
        shutil.copy(unpacked[0] / "saved_model.pb", folder)
        shutil.copytree(unpacked[0] / "variables", folder / "variables")
        zip_submission(folder, submission)
    found = file_sha256(submission)
    assert found == mark["submission_sha256"], f"damaged on the way: {found}, expected {mark['submission_sha256']}"
    print(f"the packed submission, sha256 {found[:16]}…")
print(f"{submission}: {submission.stat().st_size / 1e6:,.1f} MB")

# %% [markdown]
# ## 3. The contract
#
# The checks of `guie check`, in a separate process that sees the file and nothing of the project.

# %%
report = Path(tempfile.mkdtemp()) / "check.json"
command = [sys.executable, "-m", "pipeline.cli", "check", str(submission)]
checking = subprocess.run(
    [*command, "--out", str(report), "--images", str(TIMED_IMAGES)],
    env={**os.environ, "PYTHONPATH": packages},
    capture_output=True,
    text=True,
)
assert report.is_file(), checking.stderr
checks = json.loads(report.read_text())[str(submission)]

# %%
from IPython.display import Markdown, display

signs = {True: "✓", False: "✗", None: "–"}
lines = [f"| {signs[row['ok']]} | {row['check']} | {row['detail']} |" for row in checks["checks"]]
display(Markdown("\n".join(["| | check | found |", "|---|---|---|", *lines])))
assert checks["passed"], checking.stderr

# %% [markdown]
# ## 4. What it finds
#
# At the left an image that is searched, beside it its five nearest among the others, with their distance. mP@5 of so
# few images tells whether it works, not how well.

# %%
from IPython.display import HTML

from pipeline.quiet import import_quietly

embedders, samples = import_quietly("pipeline.evaluation.embedders"), import_quietly("pipeline.pages.samples")
attached = sorted({f"{path.parent}/*-test-*.tfrec" for path in INPUT.rglob("*-test-*.tfrec")})
sample = samples.take(IMAGES or attached, CLASSES, IMAGES_PER_CLASS)
vectors = samples.embedded(sample, embedders.load(str(submission)))
of = "attached shards" if attached else "drawn images, for want of attached ones"
of = ", ".join(IMAGES) or of
display(Markdown(f"{samples.line(sample, vectors)}: {of}"), HTML(samples.neighbour_rows(sample, vectors)))

# %% [markdown]
# ## 5. The model

# %%
display(Markdown((package / "model_card.md").read_text().split("## Recipe")[0].replace("# ", "### ")))
