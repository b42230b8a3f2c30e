"""Run by test_step.py in a process of its own: the losses of a few steps, for replicas × options; prints JSON."""

import json
import sys

import keras
import tensorflow as tf

from pipeline import config
from pipeline.models.embedder import named_variables
from pipeline.training import class_centers, devices, optimizers, step

BATCH, WIDTH, CLASSES, STEPS = 16, 24, 6, 12


def run(
    replicas: int, compiled: bool, optimizer: dict, sharded: bool = False, steps: int = STEPS
) -> list[float]:
    found = devices.connect(config.Devices(kind="cpu", replicas=replicas))
    options = config.Optimizer(**optimizer)
    with found.strategy.scope():
        inputs = keras.Input([WIDTH])
        start = keras.initializers.GlorotUniform(seed=1)
        hidden = keras.layers.Dense(32, activation="gelu", kernel_initializer=start)(inputs)
        head = keras.Model(
            inputs, keras.layers.UnitNormalization()(keras.layers.Dense(8, kernel_initializer=start)(hidden))
        )
        centers = class_centers.build(CLASSES, 2, 8, 2, sharded, found.strategy)
        variables = [*head.trainable_variables, centers.variable]
        rate = optimizers.schedule(config.Phase(learning_rate=1e-2, warmup_epochs=1.0), steps, 3.0)
        built = optimizers.build(options, rate, variables, [0.5] * 2 + [1.0] * (len(variables) - 2))
    assert named_variables("optimizer", built.variables)

    def losses_of(batch, at_step, replica):
        kept = step.drop_features(batch["images"], 0.25, 3, at_step, replica)
        return centers.losses(head(kept, training=True), batch["labels"], 16.0, 0.3, compiled)

    kinds, labels = tf.random.stateless_normal([CLASSES, WIDTH], [9, 9]), tf.range(BATCH) % CLASSES

    def of_host(_):
        def one(number):
            noise = tf.random.stateless_normal([BATCH, WIDTH], tf.stack([7, tf.cast(number, tf.int32)]))
            return {"images": tf.gather(kinds, labels) + 0.5 * noise, "labels": labels}

        return tf.data.Dataset.counter().map(one).rebatch(BATCH // replicas, drop_remainder=True)

    run_steps = step.make_run_steps(
        found.strategy,
        losses_of,
        variables,
        built,
        BATCH,
        compiled and not sharded,
        options.clip_norm,
        options.accumulate_steps,
    )
    iterator = iter(found.strategy.distribute_datasets_from_function(of_host))
    first = run_steps(iterator, tf.constant(0), tf.constant(5)).numpy()
    return [*first.tolist(), *run_steps(iterator, tf.constant(5), tf.constant(steps - 5)).numpy().tolist()]


if __name__ == "__main__":
    devices._split_cpu(4)  # one number of replicas a process: TensorFlow keeps its collective groups
    asked = json.loads(sys.argv[1])
    print(json.dumps([run(*each) for each in asked]))
