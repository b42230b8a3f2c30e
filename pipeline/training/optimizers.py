"""What a phase trains and how: variables with their learning-rate factors, Keras optimizers, the schedule."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from pipeline import config
from pipeline.config.phase_keys import trained_blocks
from pipeline.errors import BadInput
from pipeline.models.embedder import Embedder
from pipeline.training.class_centers import PER_REPLICA, ClassCenters, is_per_replica

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.Adam,  # decay is decoupled here for all, see RateFactors
    "adafactor": keras.optimizers.Adafactor,
    "sgd": keras.optimizers.SGD,
}


class RateFactors(keras.optimizers.Optimizer):
    """Mixed into a Keras optimizer: each variable's own learning rate, and weight decay that follows it.

    Keras decays all weights at the full rate; an encoder trained at ×0.001 would be decayed away. Biases, scales and
    tokens are not decayed. Gradients come summed over replicas (`step.make_run_steps`): Keras would sum those of
    per-replica variables, too.

    Source of a first moment in bfloat16: Zhai et al., Scaling Vision Transformers, CVPR 2022.
    """

    factors: dict  # variable key → (factor, decay)
    moments = "float32"  # dtype of the first moment; the second is float32, of which bfloat16 would lose 1 − β₂
    average_from: int | None = None  # the mean of the weights after this step and all later ones; None: Keras' decay

    def update_step(self, gradient, variable, learning_rate):
        factor, decay = self.factors[self._var_key(variable)]
        rate = tf.cast(learning_rate, variable.dtype) * factor
        if decay:
            variable.assign_sub(variable * (rate * decay))
        return super().update_step(gradient, variable, rate)

    def assign_add(self, variable, value):
        if variable.dtype == value.dtype:
            return super().assign_add(variable, value)
        return self.assign(variable, keras.ops.add(variable, value))  # rounded once, where Keras rounds the addend, too

    def _update_model_variables_moving_average(self, trainable_variables):
        if self.average_from is None:
            return super()._update_model_variables_moving_average(trainable_variables)
        earlier = tf.cast(tf.maximum(self.iterations.value - self.average_from, 0), tf.float32)  # steps in the mean
        kept = earlier / (earlier + 1.0)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            average.assign(kept * average + (1.0 - kept) * variable)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        dtype = self.moments if name == "momentum" else reference_variable.dtype
        placed = PER_REPLICA if is_per_replica(reference_variable) else {}
        if not placed and dtype == reference_variable.dtype:
            return super().add_variable_from_reference(reference_variable, name, initializer)
        with keras.name_scope(self.name, caller=self):
            slot = keras.Variable(
                initializer, shape=reference_variable.shape, dtype=dtype, trainable=False,
                name=f"{reference_variable.path.replace('/', '_')}_{name}", **placed,
            )  # fmt: skip
        self._track_variable(slot)
        return slot


def trained_variables(
    model: Embedder, centers: ClassCenters, phase: config.Phase, teachers: Sequence[keras.Variable] = ()
) -> tuple[list[keras.Variable], list[float]]:
    """What a phase trains, and each variable's factor of the learning rate.

    `head` is the projection, the class centres and the variables of `teachers`, centres last; `encoder` is the encoder
    alone, with all of these locked; `all` is everything; `last N blocks` and `last N %` are the head's and the last
    part of the encoder's blocks. The i-th of n entries of `encoder.blocks` (the stem is the first) has the factor
    encoder_rate_factor · layer_decay^(n − 1 − i), centres have centers_rate_factor.
    """
    head = [*model.head.trainable_variables, centers.variable]
    head_factors = [*([1.0] * (len(head) - 1)), phase.centers_rate_factor]
    if teachers:
        head += teachers
        head_factors += [*([1.0] * (len(teachers) - 1)), phase.centers_rate_factor]
    blocks = model.encoder.blocks
    deepest = max(len(blocks) - 1, 0)
    trained = trained_blocks(phase, deepest)
    if phase.trainable == "head":
        return head, head_factors
    first = deepest + 1 - trained
    depth_of = {id(v): depth for depth, layers in enumerate(blocks) for layer in layers for v in layer.variables}
    kept, factors = [], []
    for variable in model.encoder.model.trainable_variables:
        depth = depth_of.get(id(variable), deepest)
        if depth >= first:
            kept.append(variable)
            factors.append(phase.encoder_rate_factor * phase.layer_decay ** (deepest - depth))
    if phase.trainable == "encoder":
        return kept, factors
    return [*kept, *head], [*factors, *head_factors]


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


def build(
    options: config.Optimizer, learning_rate, variables: list, factors: list[float], average_from: int | None = None
):
    """An optimizer with state for exactly `variables`; `factors` of the learning rate (or schedule), one a variable.

    `average_from`: the step from which weights are averaged evenly, instead of by `options.ema`.

    Raises BadInput: adafactor for per-replica variables.
    """
    if options.name == "adafactor" and any(map(is_per_replica, variables)):
        why = "adafactor keeps sums over all classes, which no replica has"
        raise BadInput(f"train.loss.sharded: {why}; use adamw, adam or sgd")
    base = OPTIMIZERS[options.name]
    momentum = {"momentum": options.momentum, "nesterov": False} if options.name == "sgd" else {}
    average = {"use_ema": True, "ema_momentum": options.ema or 0.0} if options.ema or average_from is not None else {}
    # Named, as checkpoints hold its variables by name: Keras would number the second optimizer of a process.
    kind = type(base.__name__, (RateFactors, base), {"moments": options.moments})
    optimizer = kind(learning_rate=learning_rate, name=options.name, **momentum, **average)
    optimizer.average_from = average_from
    decay = 0.0 if options.name == "adam" else options.weight_decay
    optimizer.factors = {
        optimizer._var_key(variable): (factor, decay if _decays(variable) else 0.0)
        for variable, factor in zip(variables, factors, strict=True)
    }
    optimizer.build(variables)
    return optimizer


def _decays(variable: keras.Variable) -> bool:
    """Whether weight decay is for it: attention's biases have two dimensions, so the name decides."""
    name = variable.path.rsplit("/", 1)[-1]
    return name.endswith("kernel") or name in ("embeddings", "class_centers", "teacher_centers")
