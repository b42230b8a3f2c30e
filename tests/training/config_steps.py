"""Run by test_hosts.py in a process of its own: losses of a training config's phase, through `phases.prepare`.

Arguments: a config, which of its phases, how many steps, KEY=VALUE …; prints JSON.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.data.batches import open_records
from pipeline.training import devices, phases


def main() -> None:
    path, number, steps, *overrides = sys.argv[1:]
    run = config.load(config.Run, path, overrides)
    found = devices.connect(run.devices)
    records = open_records(run.train.records)
    classes, labels = np.unique(records.labels, return_inverse=True)
    setting = phases.Setting(run, found, records, labels.astype(np.int64), classes, None)
    phase = phases.prepare(setting, int(number), None)
    losses = phase.run_steps(iter(phase.batches(0)), tf.constant(0), tf.constant(int(steps))).numpy()
    weights = {
        name: float(np.square(np.array(value)).sum()) for name, value in phase.embedder.variables.items()
    }
    print(
        json.dumps(
            {"replicas": found.strategy.num_replicas_in_sync, "losses": losses.tolist(), "weights": weights}
        )
    )


if __name__ == "__main__":
    main()
