"""Sampling by the teachers' losses: a source's share is its teacher's mean cross-entropy over the sum of all.

What it needs stands in the checkpoint: a run that was killed draws the same batches when it goes on.

Source: Ypsilantis et al., UDON, NeurIPS 2024 (arXiv 2406.08332), and its released code: a source that was not drawn
keeps its share, before all are made to sum to 1.
"""

import numpy as np

from pipeline.config import Sampling
from pipeline.data.domain_batches import OneDomain, Shares
from pipeline.data.sampler import ClassGroups, Order
from pipeline.training.distillation.teachers import Teachers


def by_losses(sampling: Sampling) -> bool:
    return sampling.domains == "losses"


def begin(teachers: Teachers) -> None:
    """For a phase that begins: shares go on from the phase before, what was measured and drawn does not."""
    for variable in (teachers.measured, teachers.batches):
        variable.assign(np.zeros(variable.shape, variable.dtype))


def order_from(order: Order, teachers: Teachers, sampling: Sampling, step: int) -> Order:
    """The order by the shares that hold at `step` of the phase. It is right up to the next time they are set."""
    assert isinstance(order, OneDomain | ClassGroups)
    return order.renewed(_shares(teachers, sampling, step))


def renew(order: Order, teachers: Teachers, sampling: Sampling, step: int) -> np.ndarray:
    """Sets the shares after `step` steps of the phase, by the losses since they were last set; float32 [T]."""
    current = order_from(order, teachers, sampling, step - 1)
    if isinstance(current, OneDomain):
        teachers.batches.assign(current.batches_before(step))
    summed, images = np.array(teachers.measured, np.float64)
    before = np.array(teachers.shares, np.float64)
    before = before if before.any() else np.full(len(before), 1.0 / len(before))
    found = shares_of(summed, images, before).astype(np.float32)
    teachers.shares.assign(found)
    teachers.measured.assign(np.zeros(teachers.measured.shape, np.float32))
    return found


def shares_of(summed: np.ndarray, images: np.ndarray, before: np.ndarray) -> np.ndarray:
    """float64 [T] that sum to 1: mean losses over their sum; without images the share before, then all scaled.

    >>> shares_of(np.array([6.0, 1.0, 0.0]), np.array([2.0, 1.0, 0.0]), np.array([0.2, 0.3, 0.5])).tolist()
    [0.5, 0.16666666666666666, 0.3333333333333333]
    """
    seen = images > 0
    means = summed[seen] / images[seen]
    found = before.astype(np.float64)
    found[seen] = means / means.sum() if means.sum() > 0 else found[seen]
    return found / found.sum()


def _shares(teachers: Teachers, sampling: Sampling, step: int) -> Shares:
    weights = np.array(teachers.shares, np.float64)
    first = step // sampling.losses_every_steps * sampling.losses_every_steps
    return Shares(weights if weights.any() else None, first, np.array(teachers.batches))
