# Every target makes the environment it needs: .venv/ in this checkout.
PYTHON ?= python3
GUIE_DATA ?= $(wildcard ../shared/data)
export GUIE_DATA
BIN := .venv/bin
CONFIG ?= configs/demo.yaml
RUN ?= runs/$(basename $(notdir $(CONFIG)))
# Further KEY=VALUE overrides: make train ARGS="train.seed=1"
ARGS ?=
# Its graphs, files and compiler; what else these rooms test is Python of ours, and is tested once.
OWN_PYTHON := data/test_far_disks data/test_open_data data/test_sampler data/test_array_cache training/test_bucket \
	export/test_submit export/test_notebooks export/test_kaggle_images
TOUCH_TENSORFLOW := $(addprefix tests/,data models training evaluation export) $(OWN_PYTHON:%=--ignore=tests/%.py)

# Whole files, in the order that tests/conftest.py gives them.
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all faults test-tf220 test-kaggle tfrecords train train-tpu score submission bench ablation lint docs clean

# One stamp an extra: an environment grows, and is made anew when setup.py changes. Of open_clip_torch the base takes
# the vocabulary of CLIP's texts alone (zero-shot, captions, staged): no torch.
.venv/base.stamp: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m pip install --quiet --no-deps open_clip_torch==3.3.0
	touch $@

# The CPU build of torch where the index has one: open_clip asks for torch and would take the CUDA build.
.venv/%.stamp: .venv/base.stamp
	$(if $(filter clip test bench,$*),$(BIN)/python -m pip install --quiet "torch==2.13.0")
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

demo: .venv/base.stamp
	$(BIN)/guie run configs/demo.yaml $(ARGS)

test: .venv/test.stamp
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow" $(ARGS)

# The browser that tests look at pages with. Where it cannot be had, they skip with a reason, and fail in CI.
.venv/chromium.stamp: .venv/test.stamp tests/browser/chromium.py
	$(BIN)/python -m pip install --quiet --editable ".[browser]" && $(BIN)/python -m tests.browser.chromium && touch $@ \
		|| echo "chromium: not installed, tests/browser skip"

# With two hosts, eight replicas, killed runs, pages in a browser and the commands of README and docs/.
test-all: .venv/test.stamp .venv/chromium.stamp
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

# Kills, damage, hostile files, stale results, the slow ones too: how many were tried and held, by kind.
faults: .venv/test.stamp
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m faults $(ARGS)

# What touches TensorFlow, on the older one that is served: the last with wheels for a TPU.
.venv-tf220/stamp: setup.py
	$(PYTHON) -m venv --clear .venv-tf220
	.venv-tf220/bin/python -m pip install --quiet --upgrade pip
	.venv-tf220/bin/python -m pip install --quiet "torch==2.13.0"
	.venv-tf220/bin/python -m pip install --quiet --editable ".[test]" "tensorflow==2.20.*"
	touch $@

test-tf220: .venv-tf220/stamp
	.venv-tf220/bin/python -m pytest $(SIDE_BY_SIDE) -m "not slow" $(TOUCH_TENSORFLOW) $(ARGS)

# Both notebooks in environments of Kaggle's images, .venv-kaggle-*: needs a Python 3.12, makes what is missing.
test-kaggle: .venv/test.stamp
	GUIE_KAGGLE_IMAGES=1 $(BIN)/python -m pytest tests/export/test_kaggle_images.py $(ARGS)

tfrecords: .venv/base.stamp
	$(BIN)/guie tfrecords $(CONFIG) $(ARGS)

train: .venv/base.stamp
	$(BIN)/guie train $(CONFIG) $(ARGS)

# An environment of its own: the stock TensorFlow and that for TPUs write the same files. tensorflow-text asks for the
# stock one, which then goes, and what it shared with the other is written anew.
TPU_PYTHON := .venv-tpu/bin/python
define TPU_CHECK_PYTHON
import platform, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13) or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    came = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    sys.exit(f"train-tpu: expected Python 3.11, 3.12 or 3.13 on Linux x86_64, got {came}: tensorflow-tpu has wheels "
             "for no other; make train-tpu PYTHON=python3.12")
endef
define TPU_CHECK_BUILD
import sys
from importlib.metadata import distributions
from pipeline.attached import tensorflow_build
stock = {each.name for each in distributions()} & {"tensorflow", "tensorflow-cpu"}
if stock:
    sys.exit(f"train-tpu: {', '.join(stock)} was installed over tensorflow-tpu's files: rm -r .venv-tpu, and again")
if not tensorflow_build().startswith("tensorflow-tpu 2.20"):
    sys.exit(f"train-tpu: expected tensorflow-tpu 2.20 in .venv-tpu, found {tensorflow_build()}: rm -r .venv-tpu, and again")
print(f"train-tpu: .venv-tpu has {tensorflow_build()}, Python {sys.version.split()[0]}")
endef
export TPU_CHECK_PYTHON TPU_CHECK_BUILD

.venv-tpu/stamp: setup.py
	@$(PYTHON) -c "$$TPU_CHECK_PYTHON"
	$(PYTHON) -m venv --clear .venv-tpu
	$(TPU_PYTHON) -m pip install --quiet --upgrade pip
	$(TPU_PYTHON) -m pip install --quiet --editable ".[tpu,remote]"
	$(TPU_PYTHON) -m pip uninstall --quiet --yes tensorflow
	$(TPU_PYTHON) -m pip install --quiet --force-reinstall --no-deps \
		$$($(TPU_PYTHON) -m pip freeze | grep "^tensorflow[-_]tpu==")
	touch $@

train-tpu: .venv-tpu/stamp
	@$(TPU_PYTHON) -c "$$TPU_CHECK_BUILD"
	.venv-tpu/bin/guie train configs/vit_h14_arcface_tpu.yaml $(ARGS)

score: .venv/base.stamp
	$(BIN)/guie run $(CONFIG) $(ARGS)

submission: .venv/base.stamp
	$(BIN)/guie export $(CONFIG) $(ARGS)
	$(BIN)/guie check $(RUN)/submission.zip

bench: .venv/test.stamp .venv/bench.stamp
	$(BIN)/python -m tests.benchmarks $(ARGS)

ablation: .venv/test.stamp
	$(BIN)/python -m tests.benchmarks.ablation $(ARGS)

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The pages as a site, below site/; a broken link fails.
docs: .venv/docs.stamp
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-* .partial-* build site *.egg-info
