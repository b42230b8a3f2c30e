"""One phase of training made ready: what is trained, on what, at which rates and margin."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.data.batches import RecordSet, train_batches
from pipeline.data.preprocessing import normalize
from pipeline.errors import BadInput
from pipeline.models import embedder, encoders
from pipeline.models.embedder import Embedder, named_variables
from pipeline.training import (
    checkpoints,
    class_centers,
    feature_cache,
    losses,
    optimizers,
    pca,
    step,
    trainable,
)
from pipeline.training.class_centers import ClassWeights
from pipeline.training.devices import Found


@dataclass(frozen=True)
class Setting:
    """What all phases share.

    Attributes:
        labels: int64 [N], each record's class counted from 0 among the trained ones.
        classes: int64 [C], their labels in the records.
        validation: records of classes never trained on, or None.
    """

    run: config.Run
    found: Found
    records: RecordSet
    labels: np.ndarray
    classes: np.ndarray
    validation: RecordSet | None


@dataclass
class Phase:
    """
    Attributes:
        variables: everything that a checkpoint holds: embedder, class centres, optimizer.
        run_steps: see `step.make_run_steps`.
        batches: first step → the batches from there on.
        embed_validation: records → float32 [V, D].
    """

    number: int
    options: config.Phase
    embedder: Embedder
    centers: ClassWeights
    optimizer: keras.optimizers.Optimizer
    batch_size: int
    steps_per_epoch: float
    steps: int
    run_steps: Callable = field(repr=False)
    batches: Callable = field(repr=False)
    embed_validation: Callable = field(repr=False)

    def finish(self) -> None:
        """Puts the averaged weights in place, where the run keeps them."""
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.optimizer._trainable_variables)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place for a while, where the run keeps them."""
        trained = [
            self.centers.whole(v) for v in self.optimizer._trainable_variables if self.optimizer.use_ema
        ]
        kept = [np.array(variable) for variable in trained]
        self.finish()
        try:
            yield
        finally:
            for variable, value in zip(trained, kept, strict=True):
                variable.assign(value)

    @property
    def variables(self) -> dict[str, Any]:
        return _state(self.embedder, self.centers, self.optimizer)

    def learning_rate(self, at_step: int) -> float:
        return float(self.optimizer._learning_rate(at_step))


def prepare(setting: Setting, number: int, previous: Phase | None, checkpoint: Path | None = None) -> Phase:
    """Builds phase `number` with the weights of `previous`, or of a checkpoint of this phase, or the starting ones.

    Raises:
        BadInput: `checkpoints.restore`'s; unknown `trainable`, a batch that does not divide by the replicas, an
            optimizer that is not there.
    """
    run, found = setting.run, setting.found
    options = run.train.phases[number]
    replicas = found.strategy.num_replicas_in_sync
    pieces = replicas * run.train.optimizer.accumulate_steps
    if run.train.loss.name != "arcface":
        raise BadInput(
            f"train.loss.name: expected arcface, got {run.train.loss.name!r} (triplets: `guie similar train`)"
        )
    if options.batch_size % pieces:
        raise BadInput(
            f"phase {options.name}: batch_size {options.batch_size} does not divide by {replicas} replicas × "
            f"accumulate_steps {run.train.optimizer.accumulate_steps}"
        )
    sampling = _sampling(setting.labels, options.min_images_per_class)
    drawn = len(setting.labels) if sampling is None else int(sampling.sum())
    steps_per_epoch = drawn / options.batch_size
    steps = max(1, round(options.epochs * steps_per_epoch))
    with found.strategy.scope():
        starts_from = checkpoint or (Path(run.train.init_from) if run.train.init_from else None)
        model = _embedder_for(run, options, previous, fill=starts_from is None)
        centers = previous.centers if previous else _centers(setting)
        variables, factors = trainable.variables(model, centers, options)
        rate = optimizers.schedule(options, steps, steps_per_epoch)
        optimizer = optimizers.build(run.train.optimizer, rate, variables, factors)
        if checkpoint:  # here, before anything is computed from the weights
            checkpoints.restore(checkpoint, _state(model, centers, optimizer))
        elif previous is None and starts_from:
            checkpoints.restore(starts_from, model.variables)
    frozen = options.trainable == "head" and options.augment == config.Augment() and not run.devices.rehearse
    cache = feature_cache.cache(setting, model) if frozen else None
    if run.embedder.init != "random" and not (previous or starts_from or run.devices.rehearse):
        _start_from_features(setting, options, model, centers, cache)
    margin = _margin(setting, options, steps)

    compiled = bool(run.devices.rehearse) or found.jit(run.train.compile)

    def embeddings_of(batch, at_step, replica):
        if cache:
            found_features = batch["images"]
        else:
            pixels = normalize(batch["images"], model.preprocess)
            with encoders.step_seed(tf.stack([run.train.seed, at_step]), replica * pixels.shape[0]):
                found_features = model.encoder.model(pixels, training=options.trainable != "head")
        found_features = step.drop_features(
            tf.cast(found_features, tf.float32), run.embedder.dropout, run.train.seed, at_step, replica
        )
        return model.head(found_features, training=True)

    # Collectives cannot stand in a compiled function: with sharded classes, what is between them is compiled.
    embed = tf.function(embeddings_of, jit_compile=True) if compiled and centers.sharded else embeddings_of

    def losses_of(batch, at_step, replica):
        embeddings = embed(batch, at_step, replica)
        return centers.losses(embeddings, batch["labels"], run.train.loss.scale, margin(at_step), compiled)

    run_steps = step.make_run_steps(
        found.strategy, losses_of, variables, optimizer, options.batch_size,
        compiled=compiled and not centers.sharded,
        clip_norm=run.train.optimizer.clip_norm, accumulate_steps=run.train.optimizer.accumulate_steps,
    )  # fmt: skip

    def batches(first_step: int):
        each = options.batch_size // replicas

        def of_host(context):
            seed = run.train.seed + number
            # One pipeline a host, also where one process feeds all hosts of a TPU pod.
            host = (context.input_pipeline_id, context.num_input_pipelines)
            if cache:
                dataset = feature_cache.batches(
                    cache(setting.records, "train"),
                    setting.labels,
                    options.batch_size,
                    seed,
                    first_step,
                    host,
                    sampling,
                )
            else:
                dataset = train_batches(
                    setting.records, model.preprocess, options.augment, options.batch_size, seed, first_step, host,
                    label_map=_label_map(setting.classes), sampling=sampling,
                )  # fmt: skip
            return dataset.rebatch(each, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

        return found.strategy.distribute_datasets_from_function(of_host)

    def embed_validation(validation: RecordSet) -> np.ndarray:
        if cache:
            return model.head(np.asarray(cache(validation, "validation"))).numpy()
        return feature_cache.encode(
            found.strategy, model.model, model.preprocess, validation, max(options.batch_size, replicas),
            compiled=found.jit(run.train.compile), what="validate",
        )  # fmt: skip

    return Phase(
        number, options, model, centers, optimizer, options.batch_size, steps_per_epoch, steps, run_steps, batches,
        embed_validation,
    )  # fmt: skip


def _state(model: Embedder, centers: ClassWeights, optimizer) -> dict[str, Any]:
    variables = {
        **model.variables,
        **named_variables("centers", [centers.variable]),
        **named_variables("optimizer", optimizer.variables),
    }
    return {name: centers.whole(variable) for name, variable in variables.items()}


def _embedder_for(run: config.Run, options: config.Phase, previous: Phase | None, fill: bool) -> Embedder:
    if previous and geometry(run, options) == geometry(run, previous.options):
        return previous.embedder
    model = embedder.build(run, *geometry(run, options), fill=fill and not previous)
    if previous:
        encoders.transfer(previous.embedder.encoder, model.encoder)
        model.head.set_weights(previous.embedder.head.get_weights())
    return model


def geometry(run: config.Run, options: config.Phase) -> tuple[int | None, int]:
    """A phase's image size (None: the encoder's own) and patch overlap, in px."""
    overlap = options.patch_overlap_px
    side = options.image_size_px or run.encoder.image_size_px
    return side, run.encoder.patch_overlap_px if overlap is None else overlap


def _centers(setting: Setting) -> ClassWeights:
    train, strategy = setting.run.train, setting.found.strategy
    return class_centers.build(
        len(setting.classes), train.loss.subcenters, setting.run.embedder.embedding_dim, train.seed + 1,
        train.loss.sharded, strategy,
    )  # fmt: skip


def _start_from_features(
    setting: Setting, options: config.Phase, model: Embedder, centers: ClassWeights, cache
) -> None:
    """The head as PCA of the training features, the centres as class means: closer to the goal than random ones."""
    init = setting.run.embedder.init
    if init != "pca":
        raise BadInput(f"embedder.init: expected random or pca, got {init!r}")
    if cache is None:
        raise BadInput(
            f"embedder.init=pca needs features: phase {options.name} must train the head alone, without augmentation"
        )
    found = np.asarray(cache(setting.records, "train"))
    model.head.set_weights([pca.head_kernel(found, setting.run.embedder.embedding_dim)])
    embeddings = model.head.predict(found, batch_size=1024, verbose=0)
    centers.assign(
        pca.class_centers(
            embeddings, setting.labels, setting.run.train.loss.subcenters, setting.run.train.seed
        )
    )


def _margin(setting: Setting, options: config.Phase, steps: int) -> Callable:
    """Step → the margin in radians, a scalar or one a class; linear over the phase."""
    loss = setting.run.train.loss
    start = loss.margin_radians if options.margin_radians is None else options.margin_radians
    end = start if options.end_margin_radians is None else options.end_margin_radians
    extra = np.float32(0.0)
    if loss.largest_margin_radians is not None:
        counts = np.bincount(setting.labels, minlength=len(setting.classes))
        extra = losses.class_margins(counts, 0.0, loss.largest_margin_radians - loss.margin_radians)

    def margin(at_step):
        share = tf.minimum(tf.cast(at_step, tf.float32) / max(steps, 1), 1.0)
        return start + (end - start) * share + extra

    return margin


def _sampling(labels: np.ndarray, min_images_per_class: int) -> np.ndarray | None:
    """How often each record is drawn in an epoch: int64 [N], or None for once each."""
    counts = np.bincount(labels)
    if min_images_per_class <= counts.min():
        return None
    return np.maximum(-(-min_images_per_class // counts), 1)[labels]


def _label_map(classes: np.ndarray) -> np.ndarray:
    """Label in the records → class counted from 0; -1 elsewhere."""
    mapped = np.full(int(classes.max()) + 1, -1, np.int64)
    mapped[classes] = np.arange(len(classes))
    return mapped
