"""What the keys of a phase mean, for training and for `guie plan`. No TensorFlow."""

import math
import re

from pipeline import config
from pipeline.config import Phase, Run
from pipeline.config.training import PAIR_LOSSES
from pipeline.errors import BadInput


def expect_phases(run: Run) -> None:
    """Raises BadInput where there is nothing to train, or an encoder is trained towards what is random and stays so."""
    if not run.train.phases:
        raise BadInput("train.phases: expected at least one phase, got none")
    head, centers = bool(run.train.init_from), False  # whether they are more than random
    for number, phase in enumerate(run.train.phases):
        if start := head_start(run, number):
            head = centers = start != "random"
        compares = (phase.loss or run.train.loss).name in PAIR_LOSSES
        if phase.trainable == "encoder" and not (head and (centers or compares)):
            what = "class centres" if head else "head"
            mend = "train it before (trainable: head) or with the encoder (all), or start it (init: pca or lda)"
            raise BadInput(f"phase {phase.name}: trainable: encoder leaves a random {what} as it is: {mend}")
        head, centers = (known or phase.trainable != "encoder" for known in (head, centers))


def expect_phase(run: Run, phase: Phase, replicas: int) -> None:
    """Raises BadInput where a phase's keys do not go together.

    A batch that does not divide by replicas and pieces; centres of another form than train.loss's; terms that need the
    encoder's features where it is not trained; averages of batch norm.
    """
    pieces, named = run.train.optimizer.accumulate_steps, f"phase {phase.name}"
    if phase.batch_size % (replicas * pieces):
        by = f"{replicas} replicas × accumulate_steps {pieces}"
        raise BadInput(f"{named}: batch_size {phase.batch_size} does not divide by {by}")
    loss, base = phase.loss or run.train.loss, run.train.loss
    if (loss.subcenters, loss.sharded) != (base.subcenters, base.sharded):
        raise BadInput(f"{named}: loss: subcenters and sharded must be those of train.loss, all phases' own")
    if phase.trainable == "encoder" and phase.head_interpolation < 1.0:
        raise BadInput(f"{named}: head_interpolation is for phases that train the head")
    if phase.trainable == "head" and asks_start(phase):
        raise BadInput(f"{named}: keep and interpolation are for phases that train the encoder")
    if run.embedder.batch_norm and pieces > 1:
        why = f"batch_norm is of a whole batch, which its {pieces} pieces do not see"
        raise BadInput(f"embedder.batch_norm: {why}: use train.optimizer.accumulate_steps=1")
    averages = phase.average_from is not None or run.train.optimizer.ema is not None or phase.interpolation < 1.0
    if run.embedder.batch_norm and ((phase.trainable != "head" and averages) or phase.head_interpolation < 1.0):
        why = "its statistics are of the weights that were trained, not of an average of them"
        raise BadInput(f"{named}: embedder.batch_norm: {why}: leave average_from, ema and interpolation out")


def geometry(run: Run, phase: Phase) -> tuple[int | None, int]:
    """A phase's image size (None: the encoder's own) and patch overlap, in px."""
    overlap = run.encoder.patch_overlap_px if phase.patch_overlap_px is None else phase.patch_overlap_px
    return phase.image_size_px or run.encoder.image_size_px, overlap


def head_start(run: Run, number: int) -> str | None:
    """How phase `number` starts the head, a name of `config.training.STARTS`; None where it goes on."""
    begins = number == 0 and not run.train.init_from
    return run.train.phases[number].init or (run.embedder.init if begins else None)


def sees_features(phase: Phase) -> bool:
    """Whether the encoder is frozen and sees the same pixels every time, so that its features are computed once."""
    return phase.trainable == "head" and phase.augment == config.Augment()


def asks_start(phase: Phase) -> bool:
    """Whether a phase needs the encoder as the run started."""
    return phase.keep != config.Keep() or phase.interpolation < 1.0


def holds_start(phase: Phase) -> bool:
    """Whether its weights are asked for at every step or at the end; its features alone are computed before."""
    return bool(phase.keep.weights) or phase.interpolation < 1.0


def asks_teacher(phase: Phase) -> bool:
    """Whether that encoder's features of every image are asked for."""
    return bool(phase.keep.features or phase.keep.similarities)


def stored_px(phase: Phase, image_size_px: int) -> int:
    """The shorter side that an image must be stored with, so that no random crop of the phase is enlarged.

    The narrowest window of the smallest area has √(area / aspect) of a side, see `augment.decode_random_crop`.

    >>> stored_px(Phase(name="crops", augment=config.Augment(crop_scale_min=0.7, crop_aspect_max=1.33)), 290)
    400
    """
    if phase.augment.crop_scale_min >= 1.0:
        return image_size_px
    return math.ceil(image_size_px / math.sqrt(phase.augment.crop_scale_min / phase.augment.crop_aspect_max))


def trained_blocks(phase: Phase, blocks: int) -> int:
    """How many of stem and `blocks`, counted from the last, a phase trains; with the stem they are `blocks` + 1.

    N % are of stem and blocks together, rounded down, at least one. Raises BadInput for another word or too many.
    """
    last = re.fullmatch(r"last (\d+) (blocks?|%)", phase.trainable)
    if not last and phase.trainable not in ("head", "encoder", "all"):
        expected = "expected head, encoder, all, `last N blocks` or `last N %`"
        raise BadInput(f"phase {phase.name}: trainable: {expected}, got {phase.trainable!r}")
    if not last:
        return 0 if phase.trainable == "head" else blocks + 1
    count = int(last[1])
    if last[2] == "%":
        if not 1 <= count <= 100:
            raise BadInput(f"phase {phase.name}: trainable: expected 1 … 100 %, got {phase.trainable!r}")
        return max((blocks + 1) * count // 100, 1)
    if not 1 <= count <= blocks:
        raise BadInput(f"phase {phase.name}: {phase.trainable!r}, but the encoder has {blocks} known blocks")
    return count
