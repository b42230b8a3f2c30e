"""Run by test_hosts.py as a process: losses of a training config's phase, by `train.make_run_steps`.

Arguments: a config, which of its phases, how many steps, KEY=VALUE …; prints JSON.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # quicker to compile, the same graph

import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.data.records import open_records
from pipeline.training import devices, phases, train
from pipeline.training.feature_cache import FeatureCache


def main() -> None:
    path, number, steps, *overrides = sys.argv[1:]
    run = config.load(config.Run, path, overrides)
    found = devices.connect(run.devices)
    data = train.open_data(run, open_records(run.train.records))
    phase = phases.plan_phase(run, found, data.classes, int(number))
    state = phases.prepare(run, found, phase, len(data.classes.labels), None)
    features = FeatureCache(run, found, state.embedder) if phase.on_features else None
    started = phases.starting_embedder(run, found, phase)
    # As in a rehearsal: one feature for all, so that the teacher is not what is compared.
    teacher = np.broadcast_to(np.float32(1.0), (len(data.records), state.embedder.encoder.width)) if started else None
    iterator = iter(train.batches(run, found, data, phase, state, features, teacher, 0))
    run_steps = train.make_run_steps(run, found, phase, state, data.classes, started)
    losses = run_steps(iterator, tf.constant(0), tf.constant(int(steps))).numpy()
    weights = {name: float(np.square(np.array(value)).sum()) for name, value in state.embedder.variables.items()}
    print(json.dumps({"replicas": found.strategy.num_replicas_in_sync, "losses": losses.tolist(), "weights": weights}))


if __name__ == "__main__":
    main()
