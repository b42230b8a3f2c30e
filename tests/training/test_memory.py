"""What a training holds: one phase's optimizer at a time, and one trace of the validation."""

import json
import weakref

import pytest

from pipeline.training import feature_cache, train
from tests.training.tiny_runs import TUNE

SIZES = {"one": 16, "two": 16, "three": 24, "four": 24}
PHASES = [{**TUNE, "name": n, "epochs": 1, "keep": {"features": 1.0}, "image_size_px": s} for n, s in SIZES.items()]


@pytest.mark.slow
def test_a_phase_is_freed_before_the_next_is_built(tiny, monkeypatch):
    held, replaced, alive, started, prepare = [], [], [], train.starting_embedder, train.prepare

    left, make_run_steps = [], train.make_run_steps

    def watched(*given):
        alive.append([reference for reference in held if reference() is not None])
        state = prepare(*given)
        held.extend(weakref.ref(variable.value) for variable in state.optimizer.variables)
        if given[4] and given[4].embedder is not state.embedder:
            replaced.extend(weakref.ref(variable.value) for variable in given[4].embedder.model.variables)
        return state

    def watched_start(*given):
        embedder = started(*given)
        held.extend(weakref.ref(variable.value) for variable in embedder.model.variables)
        return embedder

    def watched_steps(*given):
        left.append(sum(reference() is not None for reference in replaced))
        return make_run_steps(*given)

    monkeypatch.setattr(train, "prepare", watched)
    monkeypatch.setattr(train, "make_run_steps", watched_steps)
    monkeypatch.setattr(train, "starting_embedder", watched_start)
    tiny.train("freed", f"train.phases={json.dumps(PHASES)}")
    assert alive == [[], [], [], []] and len(held) > 30
    assert left == [0, 0, 0, 0] and len(replaced) > 3


@pytest.mark.parametrize("sizes", [[16], [16, 24]])
def test_validation_is_traced_once_a_phase(tiny, monkeypatch, sizes):
    traces, normalize = [], feature_cache.normalize
    monkeypatch.setattr(feature_cache, "normalize", lambda *given: traces.append(given) or normalize(*given))
    phases = json.dumps([{**TUNE, "epochs": 3}])
    folder = f"traced {len(sizes)}"
    run = tiny.train(
        folder, f"train.phases={phases}", "train.fold=classes 1/2", "train.validate_every_epochs=1",
        f"embedder.sizes_px={json.dumps(sizes)}",
    )  # fmt: skip
    assert sum("validation/mP@5" in row for row in run.rows()) == 3
    assert len(traces) == len(sizes)
