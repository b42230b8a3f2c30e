"""Run by test_step.py as a process: the losses of a few steps, for replicas × options; prints JSON."""

import json
import os
import sys
from types import SimpleNamespace

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # quicker to compile, the same graph

import keras
import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.data.sampler import Positions
from pipeline.models.embedder import named_variables
from pipeline.models.head import Head
from pipeline.training import class_centers, devices, optimizers
from pipeline.training.distillation import teachers
from pipeline.training.losses import Margin
from pipeline.training.phases import Classes, Phase, State
from pipeline.training.step import make_run_steps

BATCH, WIDTH, CLASSES, STEPS = 16, 24, 6, 8


def losses_of(
    replicas: int, compiled: bool, optimizer: dict, sharded: bool = False, taught: bool = False, steps: int = STEPS
) -> list[float]:
    """The loss of each step; with teachers also what they measured, summed over the steps."""
    run = config.Run(
        embedder=config.Embedder(dropout=0.25),
        train=config.Train(
            loss=config.Loss(scale=16.0, sharded=sharded, own_domain=taught),
            teachers=config.Teachers(dim=5 if taught else None),
            optimizer=config.Optimizer(**optimizer),
            seed=3,
            compile=compiled,
        ),
        devices=config.Devices(kind="cpu", replicas=replicas),
    )
    found = devices.connect(run.devices)
    options = config.Phase(name="head", batch_size=BATCH, learning_rate=1e-2, warmup_epochs=1.0)
    margin = Margin.of(run.train.loss, options, np.ones(CLASSES, np.int64), steps)
    order = Positions(BATCH, 0)  # not read here: `of_host` gives the batches
    phase = Phase(0, options, run.train.loss, order, 3.0, steps, margin, True)
    with found.strategy.scope():
        inputs = keras.Input([WIDTH])
        start = keras.initializers.GlorotUniform(seed=1)
        hidden = keras.layers.Dense(32, activation="gelu", kernel_initializer=start)(inputs)
        head = keras.Model(
            inputs, keras.layers.UnitNormalization()(keras.layers.Dense(8, kernel_initializer=start)(hidden))
        )
        centers = class_centers.build(CLASSES, 2, 8, 2, sharded, found.strategy)
        online = teachers.build(run.train.teachers, 2, CLASSES, WIDTH, 4) if taught else None
        variables = [*head.trainable_variables, centers.variable, *(online.trained if online else [])]
        rate = optimizers.schedule(options, steps, 3.0)
        factors = [0.5] * 2 + [1.0] * (len(variables) - 2)
        built = optimizers.build(run.train.optimizer, rate, variables, factors)
    assert named_variables("optimizer", built.variables)
    embedder = SimpleNamespace(parts=Head(head, head, None, None, None))
    state = State(embedder, centers, (None, 0), built, variables, [], teachers=online)

    kinds, labels = tf.random.stateless_normal([CLASSES, WIDTH], [9, 9]), tf.range(BATCH) % CLASSES

    def of_host(_):
        def one(number):
            noise = tf.random.stateless_normal([BATCH, WIDTH], tf.stack([7, tf.cast(number, tf.int32)]))
            return {"features": tf.gather(kinds, labels) + 0.5 * noise, "labels": labels}

        return tf.data.Dataset.counter().map(one).rebatch(BATCH // replicas, drop_remainder=True)

    each = np.arange(CLASSES)
    classes = Classes(each, each, each.astype(str), (each % 2).astype(np.int32))
    run_steps = make_run_steps(run, found, phase, state, classes, None)
    iterator = iter(found.strategy.distribute_datasets_from_function(of_host))
    first = run_steps(iterator, tf.constant(0), tf.constant(5)).numpy()
    rest = run_steps(iterator, tf.constant(5), tf.constant(steps - 5)).numpy()
    return [*first.tolist(), *rest.tolist(), *(np.array(online.measured).ravel().tolist() if online else [])]


if __name__ == "__main__":
    devices._split_cpu(4)  # one number of replicas a process: TensorFlow keeps its collective groups
    asked = json.loads(sys.argv[1])
    print(json.dumps([losses_of(*each) for each in asked]))
