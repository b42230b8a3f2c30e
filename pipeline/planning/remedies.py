"""What makes a config fit that does not: the cheapest change that does. No TensorFlow for transformers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from pipeline.config import Run
from pipeline.config.training import PAIR_LOSSES
from pipeline.planning import estimates
from pipeline.planning.accelerators import Accelerator
from pipeline.planning.estimates import SetSize

FRACTIONS = (1, 2, 4, 8, 16, 32)  # of a batch, which a remedy may cut


@dataclass(frozen=True)
class Remedy:
    overrides: tuple[str, ...]  # as the command line takes them
    bytes: float  # at most, a replica
    hours: float


def find(run: Run, size: SetSize, share: float, device: Accelerator) -> Remedy | None:
    """The first of `candidates` that fits; None where none does."""
    for changed, overrides in candidates(run, device.replicas):
        plans = [
            estimates.plan_phase(changed, number, size, share, [device]) for number in range(len(run.train.phases))
        ]
        each = [planned.estimates[device.name] for planned in plans]
        if all(estimate.fits for estimate in each):
            return Remedy(overrides, max(e.peak for e in each), sum(e.hours for e in each))
    return None


def candidates(run: Run, replicas: int) -> Iterator[tuple[Run, tuple[str, ...]]]:
    """Changed runs and the overrides that make them, cheapest first.

    A first moment in bfloat16 takes no time, blocks that are computed again take a third more; a batch in pieces holds
    the gradients twice; a smaller batch is another recipe.
    """
    train, optimizer = run.train, run.train.optimizer
    halves = optimizer.moments == "float32" and not list(replace(optimizer, moments="bfloat16").rules())
    again = estimates.is_transformer(run.encoder) and not run.encoder.checkpointing
    compares = any((phase.loss or train.loss).name in PAIR_LOSSES for phase in train.phases)
    compares |= train.teachers.dim is not None and train.teachers.similarities > 0
    for fraction, pieces, checkpointing, half in product(FRACTIONS, (True, False), (False, again), (False, halves)):
        if fraction == 1 and not (checkpointing or half):
            continue
        overrides = ["train.optimizer.moments=bfloat16"] * half + ["encoder.checkpointing=true"] * checkpointing
        chosen = replace(optimizer, moments="bfloat16") if half else optimizer
        phases = train.phases
        if fraction > 1 and pieces:
            chosen = replace(chosen, accumulate_steps=optimizer.accumulate_steps * fraction)
            if (
                compares
                or run.embedder.batch_norm
                or any(phase.batch_size % (replicas * chosen.accumulate_steps) for phase in phases)
            ):
                continue
            overrides.append(f"train.optimizer.accumulate_steps={chosen.accumulate_steps}")
        elif fraction > 1:
            cut = [n for n, phase in enumerate(phases) if phase.trainable != "head"]
            if any(phases[n].batch_size % (replicas * fraction * optimizer.accumulate_steps) for n in cut):
                continue
            phases = [
                replace(p, batch_size=p.batch_size // (fraction if n in cut else 1)) for n, p in enumerate(phases)
            ]
            overrides += [f"train.phases.{n}.batch_size={phases[n].batch_size}" for n in cut]
        encoder = replace(run.encoder, checkpointing=run.encoder.checkpointing or checkpointing)
        changed = replace(run, encoder=encoder, train=replace(train, optimizer=chosen, phases=phases))
        yield changed, tuple(overrides)
