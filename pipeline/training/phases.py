"""A phase of training: its numbers, and what it trains (embedder, class centres, optimizer), built and filled."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline import config
from pipeline.config import Run
from pipeline.errors import BadInput
from pipeline.models import embedder as embedders
from pipeline.models import encoders
from pipeline.models.embedder import Embedder, named_variables
from pipeline.training import checkpoints, class_centers, optimizers, pca
from pipeline.training.class_centers import ClassCenters
from pipeline.training.devices import Found
from pipeline.training.losses import Margin


@dataclass(frozen=True)
class Phase:
    """One phase in numbers."""

    number: int
    options: config.Phase
    draws: np.ndarray | None  # int64 [N], how often each record is drawn in an epoch; None: once each
    steps_per_epoch: float
    steps: int
    margin: Margin
    on_features: bool  # the encoder is frozen and sees the same pixels every time: its features are computed once


@dataclass
class State:
    """What is trained, and all that a checkpoint holds."""

    embedder: Embedder
    centers: ClassCenters
    optimizer: keras.optimizers.Optimizer
    trained: list[keras.Variable]  # what the phase changes; the optimizer holds state for exactly these
    geometry: tuple[int | None, int]  # image size (None: the encoder's own) and patch overlap of the embedder, in px

    @property
    def variables(self) -> dict[str, Any]:
        found = {
            **self.embedder.variables,
            **named_variables("centers", [self.centers.variable]),
            **named_variables("optimizer", self.optimizer.variables),
        }
        return {name: self.centers.whole(variable) for name, variable in found.items()}

    def finish(self) -> None:
        """Puts the averaged weights in place, where the run keeps them."""
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.optimizer._trainable_variables)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights for a while, where the run keeps them."""
        variables = self.optimizer._trainable_variables if self.optimizer.use_ema else []
        trained = [self.centers.whole(variable) for variable in variables]
        kept = [np.array(variable) for variable in trained]
        self.finish()
        try:
            yield
        finally:
            for variable, value in zip(trained, kept, strict=True):
                variable.assign(value)


def plan_phase(run: Run, found: Found, labels: np.ndarray, number: int) -> Phase:
    """Phase `number` of the config; `labels` int64 [N] are the records' classes, 0 … C−1.

    Raises BadInput for a batch that does not divide by replicas and pieces.
    """
    options, pieces = run.train.phases[number], run.train.optimizer.accumulate_steps
    replicas = found.strategy.num_replicas_in_sync
    if options.batch_size % (replicas * pieces):
        by = f"{replicas} replicas × accumulate_steps {pieces}"
        raise BadInput(f"phase {options.name}: batch_size {options.batch_size} does not divide by {by}")
    counts = np.bincount(labels)
    draws = None
    if options.min_images_per_class > counts.min():  # small classes are drawn more often
        draws = np.maximum(-(-options.min_images_per_class // counts), 1)[labels]
    steps_per_epoch = (len(labels) if draws is None else int(draws.sum())) / options.batch_size
    steps = max(1, round(options.epochs * steps_per_epoch))
    plain = options.trainable == "head" and options.augment == config.Augment()
    on_features = plain and not run.devices.rehearse
    margin = Margin.of(run.train.loss, options, counts, steps)
    return Phase(number, options, draws, steps_per_epoch, steps, margin, on_features)


def prepare(
    run: Run, found: Found, phase: Phase, classes: int, previous: State | None, checkpoint: Path | None = None
) -> State:
    """The phase's state: of a checkpoint of this phase, of the phase before, or as training starts."""
    options, loss, seed = phase.options, run.train.loss, run.train.seed
    with found.strategy.scope():
        starts_from = checkpoint or (Path(run.train.init_from) if run.train.init_from else None)
        size, overlap = geometry(run, options)
        if previous and previous.geometry == (size, overlap):
            model = previous.embedder
        else:
            model = embedders.build(run, size, overlap, fill=not (starts_from or previous))
            if previous:
                encoders.transfer(previous.embedder.encoder, model.encoder)
                model.head.set_weights(previous.embedder.head.get_weights())
        if previous:
            centers = previous.centers
        else:
            centers = class_centers.build(
                classes, loss.subcenters, run.embedder.embedding_dim, seed + 1, loss.sharded, found.strategy
            )
        trained, factors = optimizers.trained_variables(model, centers, options)
        rate = optimizers.schedule(options, phase.steps, phase.steps_per_epoch)
        optimizer = optimizers.build(run.train.optimizer, rate, trained, factors)
        state = State(model, centers, optimizer, trained, (size, overlap))
        if checkpoint:
            checkpoints.restore(checkpoint, state.variables)
        elif previous is None and starts_from:
            checkpoints.restore(starts_from, model.variables)
    return state


def start_from_features(run: Run, state: State, features: np.ndarray, labels: np.ndarray) -> None:
    """The head as PCA of the training features float32 [N, width], the centres as means of the classes int64 [N]."""
    rows = np.asarray(features)
    state.embedder.head.set_weights([pca.head_kernel(rows, run.embedder.embedding_dim)])
    embeddings = state.embedder.head.predict(rows, batch_size=1024, verbose=0)
    state.centers.assign(pca.class_centers(embeddings, labels, run.train.loss.subcenters, run.train.seed))


def geometry(run: Run, options: config.Phase) -> tuple[int | None, int]:
    """A phase's image size (None: the encoder's own) and patch overlap, in px."""
    overlap = options.patch_overlap_px
    side = options.image_size_px or run.encoder.image_size_px
    return side, run.encoder.patch_overlap_px if overlap is None else overlap
