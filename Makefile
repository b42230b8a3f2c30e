# Every target makes the environment it needs: .venv/ in this checkout.
PYTHON ?= python3
GUIE_DATA ?= $(wildcard ../shared/data)
export GUIE_DATA
BIN := .venv/bin
CONFIG ?= configs/demo.yaml
RUN ?= runs/$(basename $(notdir $(CONFIG)))
# Further KEY=VALUE overrides: make train ARGS="train.seed=1"
ARGS ?=
TOUCH_TENSORFLOW := tests/data tests/models tests/training tests/export

.PHONY: demo test test-all test-tf220 tfrecords train train-tpu score submission bench ablation lint clean

# One stamp an extra: an environment grows, and is made anew when setup.py changes.
.venv/base.stamp: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# The CPU build of torch where the index has one: open_clip asks for torch and would take the CUDA build.
.venv/%.stamp: .venv/base.stamp
	$(if $(filter clip test bench,$*),$(BIN)/python -m pip install --quiet "torch==2.13.0")
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

demo: .venv/base.stamp
	$(BIN)/guie run configs/demo.yaml $(ARGS)

test: .venv/test.stamp
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow" $(ARGS)

# With two hosts, eight replicas, killed runs and the README's own commands.
test-all: .venv/test.stamp
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

# What touches TensorFlow, on the older one that is served: the last with wheels for a TPU.
.venv-tf220/stamp: setup.py
	$(PYTHON) -m venv --clear .venv-tf220
	.venv-tf220/bin/python -m pip install --quiet --upgrade pip
	.venv-tf220/bin/python -m pip install --quiet "torch==2.13.0"
	.venv-tf220/bin/python -m pip install --quiet --editable ".[test]" "tensorflow==2.20.*"
	touch $@

test-tf220: .venv-tf220/stamp
	.venv-tf220/bin/python -m pytest --numprocesses auto --dist loadfile -m "not slow" $(TOUCH_TENSORFLOW) $(ARGS)

tfrecords: .venv/base.stamp
	$(BIN)/guie tfrecords $(CONFIG) $(ARGS)

train: .venv/base.stamp
	$(BIN)/guie train $(CONFIG) $(ARGS)

# An environment of its own: the stock TensorFlow and that for TPUs write the same files.
.venv-tpu/stamp: setup.py
	$(PYTHON) -m venv --clear .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --upgrade pip
	.venv-tpu/bin/python -m pip install --quiet --editable ".[tpu]"
	.venv-tpu/bin/python -m pip uninstall --quiet --yes tensorflow
	.venv-tpu/bin/python -m pip install --quiet --force-reinstall --no-deps \
		$$(.venv-tpu/bin/python -m pip freeze | grep "^tensorflow[-_]tpu==")
	touch $@

train-tpu: .venv-tpu/stamp
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

clean:
	rm -rf .venv .venv-tpu build *.egg-info
