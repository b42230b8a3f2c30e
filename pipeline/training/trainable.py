"""The phase's word `trainable`: head | encoder | all | last N blocks."""

import keras

from pipeline import config
from pipeline.models.embedder import Embedder
from pipeline.training import costs
from pipeline.training.class_centers import ClassWeights


def variables(
    model: Embedder, centers: ClassWeights, phase: config.Phase
) -> tuple[list[keras.Variable], list[float]]:
    """What a phase trains, and each variable's factor of the learning rate.

    `head` is the projection and the class centres; `encoder` is the encoder alone, with both locked; `all` is
    everything; `last N blocks` is head, centres and the encoder's N last blocks. The i-th of n entries of
    `encoder.blocks` (the stem is the first) has the factor encoder_rate_factor · layer_decay^(n − 1 − i).

    Raises:
        BadInput: see `costs.trained_blocks`.
    """
    head = [*model.head.trainable_variables, centers.variable]
    blocks = model.encoder.blocks
    deepest = max(len(blocks) - 1, 0)
    trained = costs.trained_blocks(phase, deepest)
    if phase.trainable == "head":
        return head, [1.0] * len(head)
    first = 0 if phase.trainable in ("encoder", "all") else deepest - trained + 1
    place_of = {
        id(v): place for place, layers in enumerate(blocks) for layer in layers for v in layer.variables
    }
    kept, factors = [], []
    for variable in model.encoder.model.trainable_variables:
        place = place_of.get(id(variable), deepest)
        if place >= first:
            kept.append(variable)
            factors.append(phase.encoder_rate_factor * phase.layer_decay ** (deepest - place))
    if phase.trainable == "encoder":
        return kept, factors
    return [*kept, *head], [*factors, *([1.0] * len(head))]
