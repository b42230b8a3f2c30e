"""Run by test_pair_losses.py as a process: pair losses and gradients over four logical CPU replicas; prints JSON.

Its argument: {"embeddings": [B, D], "labels": [B], "scale": …}.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # quicker to compile, the same graph

import tensorflow as tf

from pipeline import config
from pipeline.training import class_centers, devices
from pipeline.training.losses import PAIR_LOSSES

REPLICAS = 4


def over_replicas(centers, loss: config.Loss, compiled: bool, embeddings, labels) -> dict:
    strategy, rows = centers.strategy, len(labels) // REPLICAS

    @tf.function
    def run():
        def replica():
            number = tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
            mine = tf.ensure_shape(embeddings[number * rows : (number + 1) * rows], [rows, embeddings.shape[1]])
            own = tf.ensure_shape(labels[number * rows : (number + 1) * rows], [rows])
            with tf.GradientTape() as tape:
                tape.watch(mine)
                each = centers.losses(mine, own, loss, 0.0, compiled)
                total = tf.reduce_sum(each)
            return each, tape.gradient(total, mine)

        return [strategy.gather(values, axis=0) for values in strategy.run(replica)]

    each, gradient = run()
    return {"losses": each.numpy().tolist(), "gradient": gradient.numpy().tolist()}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    found = devices.connect(config.Devices(kind="cpu", replicas=REPLICAS))
    with found.strategy.scope():
        built = class_centers.build(3, 1, 4, 0, False, found.strategy)
    assert not built.crosses_replicas(config.Loss(name="cosface"))
    inputs = tf.constant(asked["embeddings"], tf.float32), tf.constant(asked["labels"])
    answers = {}
    for name in PAIR_LOSSES:
        options = config.Loss(name=name, scale=asked["scale"])
        assert built.crosses_replicas(options)
        answers[name] = [over_replicas(built, options, compiled, *inputs) for compiled in (False, True)]
    print(json.dumps(answers))
