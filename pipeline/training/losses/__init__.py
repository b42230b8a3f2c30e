"""Losses as pure functions, float32 inside whatever the compute dtype.

A loss that `train.loss.name` may name is a function and a line of LOSSES (its name stands in config.training, too).
Those between images and class centres are in `class_losses`, those between the images of a batch in `pair_losses`, the
terms that keep what the encoder knew in `keeping`.
"""

from collections.abc import Callable

import tensorflow as tf

from pipeline import config
from pipeline.training.losses.class_losses import Margin, arcface, cosface, normface, proxy_nca
from pipeline.training.losses.pair_losses import PAIR_LOSSES

__all__ = ["LOSSES", "PAIR_LOSSES", "Margin"]


def _of_whole_batch(pair_loss: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A pair loss with the class losses' signature, whose examples are the whole batch."""

    def loss(embeddings, labels, centers, options: config.Loss, margin_radians=0.0, domains=None) -> tf.Tensor:
        return pair_loss(embeddings, labels, 0, embeddings, labels, options)

    return loss


LOSSES: dict[str, Callable[..., tf.Tensor]] = {  # (embeddings, labels, centers, options, margin_radians, domains) → [B]
    "arcface": arcface,
    "cosface": cosface,
    "normface": normface,
    "proxy_nca": proxy_nca,
    **{name: _of_whole_batch(pair_loss) for name, pair_loss in PAIR_LOSSES.items()},
}
