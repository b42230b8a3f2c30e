"""Keras optimizers with a learning-rate factor a variable, decoupled weight decay, and the phases' schedule."""

import keras
import tensorflow as tf

from pipeline import config
from tfrecords.errors import BadInput

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.Adam,  # decay is decoupled here for all, see RateFactors
    "adafactor": keras.optimizers.Adafactor,
    "sgd": keras.optimizers.SGD,
}


class RateFactors(keras.optimizers.Optimizer):
    """Mixed into a Keras optimizer: each variable's own learning rate, and weight decay that follows it.

    Keras decays all weights at the full rate; an encoder trained at ×0.001 would be decayed away. Vectors (biases,
    normalisation scales) are not decayed.
    """

    factors: dict  # variable key → (factor, decay)

    def update_step(self, gradient, variable, learning_rate):
        factor, decay = self.factors[self._var_key(variable)]
        rate = tf.cast(learning_rate, variable.dtype) * factor
        if decay:
            variable.assign_sub(variable * (rate * decay))
        return super().update_step(gradient, variable, rate)


def schedule(phase: config.Phase, steps: int, steps_per_epoch: float):
    """Linear warm-up, then cosine from `learning_rate` to `end_learning_rate` at the phase's last step."""
    warmup = min(int(phase.warmup_epochs * steps_per_epoch), max(steps - 1, 0))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else phase.learning_rate,
        decay_steps=max(steps - warmup, 1),
        alpha=phase.end_learning_rate / phase.learning_rate if phase.learning_rate else 0.0,
        warmup_target=phase.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def build(options: config.Optimizer, learning_rate, variables: list, factors: list[float]):
    """An optimizer with state for exactly `variables`.

    Args:
        learning_rate: a float or Keras schedule.
        variables: trainable Keras variables. factors: of the learning rate, one a variable.

    Raises:
        BadInput: unknown optimizer.
    """
    if options.name not in OPTIMIZERS:
        raise BadInput(f"train.optimizer.name: expected one of {', '.join(OPTIMIZERS)}, got {options.name!r}")
    base = OPTIMIZERS[options.name]
    own = {"momentum": options.momentum, "nesterov": False} if options.name == "sgd" else {}
    average = {"use_ema": True, "ema_momentum": options.ema} if options.ema else {}
    # Named, as checkpoints hold its variables by name: Keras would number the second optimizer of a process.
    kind = type(base.__name__, (RateFactors, base), {})
    optimizer = kind(learning_rate=learning_rate, name=options.name, **own, **average)
    decay = 0.0 if options.name == "adam" else options.weight_decay
    optimizer.factors = {
        optimizer._var_key(variable): (factor, decay if len(variable.shape) > 1 else 0.0)
        for variable, factor in zip(variables, factors, strict=True)
    }
    optimizer.build(variables)
    return optimizer
