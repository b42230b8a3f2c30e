"""A phase of training: its numbers, and what it trains (embedder, class centres, optimizer), built and filled."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from pipeline import config
from pipeline.config import Run
from pipeline.config.phase_keys import asks_start, expect_phase, geometry, sees_features
from pipeline.data import folds, sampler
from pipeline.data.records import RecordSet
from pipeline.data.sampler import Order
from pipeline.errors import BadInput
from pipeline.models import embedder as embedders
from pipeline.models import encoders
from pipeline.models import head as heads
from pipeline.models.embedder import Embedder, named_variables
from pipeline.training import checkpoints, class_centers, optimizers, starts
from pipeline.training.class_centers import ClassCenters
from pipeline.training.devices import Found
from pipeline.training.distillation import source_shares, teachers
from pipeline.training.distillation.teachers import Teachers
from pipeline.training.losses import Margin


@dataclass(frozen=True)
class Classes:
    """The trained classes, counted from 0, and the sources that they come from."""

    labels: np.ndarray  # int64 [C], in the records
    of_records: np.ndarray  # int64 [N], each record's class
    record_domains: np.ndarray  # str [N], each record's source; "" where the shards' names do not tell it
    domains: np.ndarray  # int32 [C], each class's source, counted from 0 in the order of their names
    record_shards: np.ndarray | None = None  # int32 [N], each record's shard

    @property
    def sources(self) -> list[str]:
        """The records' sources, in the order of their numbers."""
        return np.unique(self.record_domains).tolist()

    @classmethod
    def of(cls, records: RecordSet) -> "Classes":
        labels, of_records = np.unique(records.labels, return_inverse=True)
        _, of_source = np.unique(records.domains, return_inverse=True)
        # Counted from 0 without a gap: a source may have no class of its own.
        _, domains = np.unique(folds.class_sources(of_records, of_source), return_inverse=True)
        return cls(labels, of_records.astype(np.int64), records.domains, domains.astype(np.int32), records.shard)


@dataclass(frozen=True)
class Phase:
    """One phase in numbers."""

    number: int
    options: config.Phase
    loss: config.Loss
    order: Order  # which records each batch holds
    steps_per_epoch: float
    steps: int
    margin: Margin
    on_features: bool  # the encoder is frozen and sees the same pixels every time: its features are computed once
    domains: int = 1  # sources that classes are of, each with a teacher where there are any


class RecordFeatures(Protocol):
    """Features of records: `feature_cache.Encodings`, or the cache itself."""

    def of(self, records: RecordSet, what: str) -> np.ndarray: ...


@dataclass
class Built:
    """What a phase leaves to the next: the weights, without the optimizer's moments."""

    embedder: Embedder
    centers: ClassCenters
    geometry: tuple[int | None, int]  # image size (None: the encoder's own) and patch overlap of the embedder, in px
    teachers: Teachers | None = field(default=None, kw_only=True)


@dataclass
class State(Built):
    """What is trained, and all that a checkpoint holds."""

    optimizer: keras.optimizers.Optimizer
    trained: list[keras.Variable]  # what the phase changes; the optimizer holds state for exactly these
    head_start: list[keras.Variable]  # the head's weights as the phase started them, where it interpolates
    finished: bool = False  # the phase's last step is done: weights are as they are exported

    @property
    def built(self) -> Built:
        return Built(self.embedder, self.centers, self.geometry, teachers=self.teachers)

    @property
    def variables(self) -> dict[str, Any]:
        found = {
            **self.embedder.variables,
            **named_variables("centers", [self.centers.variable]),
            **named_variables("teachers", self.teachers.variables if self.teachers else []),
            **named_variables("optimizer", self.optimizer.variables),
            **named_variables("head_start", self.head_start),
        }
        return {name: self.centers.whole(variable) for name, variable in found.items()}

    def trained_beside(self, start: Embedder) -> list[tuple[keras.Variable, keras.Variable]]:
        """The encoder's weights that the phase trains, each with the one of the same place in `start`."""
        trained = {id(variable) for variable in self.trained}
        pairs = zip(self.embedder.encoder.model.variables, start.encoder.model.variables, strict=True)
        return [(now, then) for now, then in pairs if id(now) in trained]

    def begin(self) -> None:
        """Keeps the head as the phase starts it, where that is asked for; sources are counted anew."""
        if self.teachers:
            source_shares.begin(self.teachers)
        for kept, now in zip(self.head_start, self.embedder.head.trainable_weights, strict=False):
            kept.assign(now)

    def finish(self, phase: "Phase", start: Embedder | None) -> None:
        """Puts the averaged weights in place, then those between the starting weights and the tuned (WiSE).

        `start`: the embedder as the run starts, for a phase that interpolates the encoder.

        Source of WiSE: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
        """
        self._put_averages()
        share = phase.options.interpolation
        if start is not None and share < 1.0:
            for tuned, before in self.trained_beside(start):
                tuned.assign(share * tuned + (1.0 - share) * before)
        share = phase.options.head_interpolation
        for kept, tuned in zip(self.head_start, self.embedder.head.trainable_weights, strict=False):
            tuned.assign(share * tuned + (1.0 - share) * kept)
        self.finished = True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights for a while, where the run keeps them."""
        averages = self.optimizer.use_ema and not self.finished
        trained = [self.centers.whole(v) for v in self.optimizer._trainable_variables] if averages else []
        kept = [np.array(variable) for variable in trained]
        if averages:
            self._put_averages()
        try:
            yield
        finally:
            for variable, value in zip(trained, kept, strict=True):
                variable.assign(value)

    def _put_averages(self) -> None:
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.optimizer._trainable_variables)


def plan_phase(run: Run, found: Found, classes: Classes, number: int) -> Phase:
    """Phase `number` of the config; BadInput as `expect_phase` and `sampler.order`, or classes of several sources."""
    options = run.train.phases[number]
    expect_phase(run, options, found.strategy.num_replicas_in_sync)
    loss = options.loss or run.train.loss
    counts = np.bincount(classes.of_records)
    draws = None
    if options.min_images_per_class > counts.min():  # small classes are drawn more often
        draws = np.maximum(-(-options.min_images_per_class // counts), 1)[classes.of_records]
    domains, seed = classes.record_domains, run.train.seed + number
    order = sampler.order(classes.of_records, domains, seed, options.sampling, draws, classes.record_shards)
    if source_shares.by_losses(options.sampling):
        expect_own_classes(classes)
    steps_per_epoch = len(order) / options.batch_size
    steps = max(1, round(options.epochs * steps_per_epoch))
    on_features = sees_features(options) and not run.devices.rehearse
    margin = Margin.of(loss, options, counts, steps)
    count = int(classes.domains.max()) + 1
    return Phase(number, options, loss, order, steps_per_epoch, steps, margin, on_features, count)


def expect_own_classes(classes: Classes) -> None:
    """Raises BadInput where a source shares classes with another: its teacher's loss would be of both."""
    names, of_records = np.unique(classes.record_domains, return_inverse=True)
    if (wrong := np.flatnonzero(classes.domains[classes.of_records] != of_records)).size:
        source = names[of_records[wrong[0]]]
        why = f"source {source} has classes that are of another, too (records.merge_classes)"
        raise BadInput(f"sampling.domains=losses: expected every class in one source, {why}: use equal or size")


def prepare(
    run: Run, found: Found, phase: Phase, classes: int, previous: Built | None, checkpoint: Path | None = None
) -> State:
    """The phase's state: of a checkpoint of this phase, of the phase before, or as training starts."""
    options = phase.options
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
        centers = previous.centers if previous else _random_centers(run, found, classes)
        taught = previous.teachers if previous else None
        if run.train.teachers.dim and not previous:
            numbers = phase.domains, classes, model.encoder.width, run.train.seed + 2
            taught = teachers.build(run.train.teachers, *numbers)
        trained, factors = optimizers.trained_variables(model, centers, options, taught.trained if taught else [])
        rate = optimizers.schedule(options, phase.steps, phase.steps_per_epoch)
        average_from = None if options.average_from is None else int(options.average_from * phase.steps)
        optimizer = optimizers.build(run.train.optimizer, rate, trained, factors, average_from)
        kept = model.head.trainable_weights if options.head_interpolation < 1.0 else []
        head_start = [keras.Variable(v, trainable=False, name=v.name) for v in kept]
        state = State(model, centers, (size, overlap), optimizer, trained, head_start, teachers=taught)
        if checkpoint:
            checkpoints.restore(checkpoint, state.variables)
        elif previous is None and starts_from:
            checkpoints.restore(starts_from, model.variables)
    return state


def start_at_random(run: Run, found: Found, state: State) -> None:
    """The head, the centres and the teachers as they are where training starts without features."""
    with found.strategy.scope():
        fresh = heads.build(run.embedder, state.embedder.encoder.width, run.train.seed).served
        centers = _random_centers(run, found, state.centers.classes)
    state.embedder.head.set_weights(fresh.get_weights())
    state.centers.assign(np.array(centers.whole(centers.variable)))
    if state.teachers:
        state.teachers.assign(*teachers.random_values(state.teachers, run.train.seed + 2))


def start_from_features(run: Run, state: State, name: str, features: np.ndarray, classes: Classes) -> None:
    """The head as `starts.start` has it from the training features float32 [N, width], the centres as class means.

    The teachers, where there are any, as `Teachers.start` has them.
    """
    parts = state.embedder.parts
    kernel, bias = starts.start(run.embedder, name, features, classes.of_records, classes.domains)
    if parts.norm and parts.projection:
        mean, variance = starts.statistics(features)
        parts.norm.set_weights([mean, variance])
        # The same projection behind batch norm: x = mean + √(variance + ε) · x̂.
        scale = np.sqrt(variance + heads.EPSILON / len(variance))
        parts.projection.set_weights([kernel * scale[:, None], bias + mean @ kernel])
    else:
        parts.trained.set_weights([kernel, bias])
    seed, subcenters = run.train.seed, run.train.loss.subcenters
    embeddings = _embedded(state.embedder, features)
    state.centers.assign(starts.class_centers(embeddings, classes.of_records, subcenters, seed))
    if state.teachers:
        state.teachers.start(features, classes.of_records)


def fit_pca(run: Run, embedder: Embedder, features: RecordFeatures, records: RecordSet) -> None:
    """Fits the head's PCA to the embeddings of the training records, at most `pca_images` of them, drawn by the seed.

    They have unit length, are centred, and have unit length again behind it. A head without PCA stays as it is.
    """
    pca, most = embedder.parts.pca, run.embedder.pca_images
    if pca is None:
        return
    if len(records) > most:
        rows = np.sort(np.random.default_rng(run.train.seed).choice(len(records), most, replace=False))
        whole = records.whole or records  # whose features are kept
        records = whole.part(rows if records.rows is None else records.rows[rows])
    found = _embedded(embedder, np.asarray(features.of(records, "train")))
    mean, axes = starts.axes(found, run.embedder.embedding_dim)
    pca.set_weights([axes, -mean @ axes])


def _embedded(embedder: Embedder, features: np.ndarray) -> np.ndarray:
    """float32 [N, width] → float32 [N, T] of unit length, what losses see."""
    pieces = np.array_split(features, -(-len(features) // 4096))
    return np.concatenate([embedder.parts.trained(np.asarray(piece)).numpy() for piece in pieces])


def starting_embedder(run: Run, found: Found, phase: Phase) -> Embedder | None:
    """The embedder as the run starts, at the phase's size: what the phase's terms keep; None where it has none."""
    if not asks_start(phase.options):
        return None
    here = geometry(run, phase.options)
    with found.strategy.scope():
        started = embedders.build(run, *here, fill=not run.train.init_from)
        if run.train.init_from:
            first = geometry(run, run.train.phases[0])  # which the checkpoint has, or the run would not have started
            given = started if first == here else embedders.build(run, *first, fill=False)
            checkpoints.restore(Path(run.train.init_from), given.variables)
            if given is not started:
                encoders.transfer(given.encoder, started.encoder)
    return started


def _random_centers(run: Run, found: Found, classes: int) -> ClassCenters:
    """Call it in the strategy's scope."""
    loss, seed = run.train.loss, run.train.seed + 1
    return class_centers.build(classes, loss.subcenters, run.embedder.loss_dim, seed, loss.sharded, found.strategy)
