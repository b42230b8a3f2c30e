"""COMMAND train: shards → checkpoint.

guie train CONFIG [KEY=VALUE …]
<run_dir>/records/*.tfrec → <run_dir>/checkpoints/step-*.safetensors, metrics.jsonl, tensorboard/

Where it starts: the newest whole checkpoint of the run folder; else `train.init_from`; else the encoder's weights.

`main` goes through the phases (`phases.py` says how long each is, builds and fills what it trains), `batches` feeds
them, `make_run_steps` is the step (loss and gradients on each replica, their sum, the update), `train_phase` runs,
logs, validates and saves.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import config, files
from pipeline.config import Run
from pipeline.console import Progress
from pipeline.data.batches import RecordSet, damage_is_bad_input, open_records, train_batches
from pipeline.data.preprocessing import normalize
from pipeline.data.stateless_rng import dropout
from pipeline.errors import BadInput
from pipeline.models import encoders
from pipeline.retrieval.metrics import mean_precision_at_5, neighbour_hits
from pipeline.retrieval.search import nearest
from pipeline.training import checkpoints, devices
from pipeline.training.class_centers import is_per_replica
from pipeline.training.devices import Found
from pipeline.training.feature_cache import FeatureCache, encode, feature_batches
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.phases import Phase, State, plan_phase, prepare, start_from_features


@dataclass(frozen=True)
class Data:
    """What is trained and validated on."""

    records: RecordSet
    labels: np.ndarray  # int64 [N], each record's class counted from 0 among the trained ones
    classes: np.ndarray  # int64 [C], their labels in the records
    validation: RecordSet | None  # of classes never trained on


@damage_is_bad_input()
def main(run: Run) -> None:
    """Trains every phase that is not done yet.

    Raises BadInput: no phases or records; devices that are not here; a checkpoint of another recipe or architecture; a
    loss that is not finite.
    """
    checkpoints.expect_phases(run)
    folder = Path(run.run_dir)
    resumed = checkpoints.state_of(run)
    if resumed.get("finished"):
        print(f"train: done already, {checkpoints.newest(checkpoints.folder_of(run.run_dir))}")
        return
    found = devices.connect(run.devices)
    print(f"train: {found.description}")
    steps = found.of_all_hosts(resumed.get("step", 0))
    if len(set(steps)) > 1:
        mend = "run_dir must be one folder that all hosts see, or hold the same checkpoint everywhere"
        raise BadInput(f"the hosts' newest checkpoints are of different steps ({', '.join(map(str, steps))}): {mend}")
    data = open_data(run)
    if run.devices.rehearse:
        rehearse(run, found, data)
        return
    if found.is_chief:
        files.write_text(folder / "config.yaml", config.to_yaml(run))
    log = MetricsLog(folder, resumed.get("step", 0), writes=found.is_chief)
    writer = checkpoints.Writer(checkpoints.folder_of(run.run_dir), run.train.checkpoints_kept, writes=found.is_chief)
    start, state, first = checkpoints.newest(writer.folder), None, resumed.get("phase", 0)
    if start and not resumed["phase_step"]:  # saved between two phases: it is of the one that ended
        ended = plan_phase(run, found, data.labels, first - 1)
        state = prepare(run, found, ended, len(data.classes), None, start)
        resumed = {}
    for number in range(first, len(run.train.phases)):
        phase = plan_phase(run, found, data.labels, number)
        begins = state is None and not resumed and not run.train.init_from
        state = prepare(run, found, phase, len(data.classes), state, start if resumed else None)
        features = FeatureCache(run, found, state.embedder) if phase.on_features else None
        if run.embedder.init == "pca" and begins:
            if features is None:
                wanted = f"phase {phase.options.name} must train the head alone, without augmentation"
                raise BadInput(f"embedder.init=pca needs features: {wanted}")
            start_from_features(run, state, features.of(data.records, "train"), data.labels)
        if resumed:
            print(f"train: goes on in phase {phase.options.name} at step {resumed['phase_step']:,} of {phase.steps:,}")
        train_phase(run, found, data, phase, state, features, resumed, log, writer)
        resumed = {}
    writer.wait()
    print(f"train: {checkpoints.newest(writer.folder)}")


def open_data(run: Run) -> Data:
    """Opens the records of training and validation, says what they hold; BadInput for a shard of both."""
    records = open_records(run.in_run_dir(run.train.records))
    classes, labels = np.unique(records.labels, return_inverse=True)
    patterns = run.in_run_dir(run.train.validation)
    validation = open_records(patterns) if any(map(files.matching, patterns)) else None
    said = "no validation"
    if validation is not None:
        trained = {path.resolve() for path in records.shards}
        if shared := sorted({path.resolve() for path in validation.shards} & trained):
            what = f"{shared[0].name} is among train.records, too ({len(shared)} shard(s))"
            raise BadInput(f"train.validation: {what}: validation must be of classes that are never trained on")
        unseen = np.unique(validation.labels)
        known = int(np.isin(unseen, classes).sum())
        what = "classes never trained on" if not known else f"classes, {known:,} of them trained on"
        said = f"validation {len(validation):,} images of {len(unseen):,} {what}"
    print(f"train: {len(records):,} images of {len(classes):,} classes; {said} → {checkpoints.folder_of(run.run_dir)}")
    return Data(records, labels.astype(np.int64), classes, validation)


def batches(
    run: Run, found: Found, data: Data, phase: Phase, state: State, features: FeatureCache | None, step: int
) -> Any:
    """The distributed stream from global batch `step` on, without end.

    Each replica gets {"images": [b, S, S, 3] in 0…255, or "features": float32 [b, width]} and "labels": int32 [b].
    """
    size, seed = phase.options.batch_size, run.train.seed + phase.number

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # One pipeline a host, also where one process feeds all hosts of a TPU pod.
        host = (context.input_pipeline_id, context.num_input_pipelines)
        if features:
            rows = features.of(data.records, "train")
            dataset = feature_batches(rows, data.labels, size, seed, step, host, phase.draws)
        else:
            # Label in the records → trained class.
            to_class = np.full(int(data.classes.max()) + 1, -1, np.int64)
            to_class[data.classes] = np.arange(len(data.classes))
            dataset = train_batches(
                *(data.records, state.embedder.preprocess, phase.options.augment, size, seed, step, host),
                label_map=to_class,
                sampling=phase.draws,
            )
        each = size // found.strategy.num_replicas_in_sync
        return dataset.rebatch(each, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    return found.strategy.distribute_datasets_from_function(of_host)


def make_run_steps(run: Run, found: Found, phase: Phase, state: State) -> Callable:
    """Builds `run_steps(iterator, first_step, count) -> float32 [count]`, the mean loss of each step.

    A plain loop under `tf.distribute`, the same for CPU, GPU and TPU. A replica takes its batch in
    `accumulate_steps` pieces, to save activations' memory. XLA compiles loss and gradients; collectives cannot stand
    in what it compiles, so with centres sharded over the replicas it compiles what is between them.
    """
    train, strategy, trained = run.train, found.strategy, state.trained
    replicas, pieces = strategy.num_replicas_in_sync, train.optimizer.accumulate_steps
    batch_size, clip_norm = phase.options.batch_size, train.optimizer.clip_norm
    values = [variable.value for variable in trained]
    per_replica = [is_per_replica(variable) for variable in trained]  # shards of centres: never summed
    compiled = bool(run.devices.rehearse) or found.jit(train.compile)
    sharded = state.centers.sharded

    def embed(batch, step, replica):  # → [b, D]
        if "features" in batch:
            features = batch["features"]
        else:
            pixels = normalize(batch["images"], state.embedder.preprocess)
            with encoders.step_seed(tf.stack([train.seed, step]), replica * pixels.shape[0]):
                encoder = state.embedder.encoder.model
                features = encoder(pixels, training=phase.options.trainable != "head")
        features = tf.cast(features, tf.float32)
        features = dropout(features, run.embedder.dropout, train.seed, step, replica)
        return state.embedder.head(features, training=True)

    embed = tf.function(embed, jit_compile=True) if compiled and sharded else embed

    def piece_gradients(batch, step, replica):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            embeddings = embed(batch, step, replica)
            margin = phase.margin.at(step)
            each = state.centers.losses(embeddings, batch["labels"], train.loss, margin, compiled)  # [b]
            loss = tf.reduce_sum(each) / batch_size
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def replica_gradients(batch, step, replica):
        if pieces == 1:
            return piece_gradients(batch, step, replica)
        split = {name: tf.reshape(rows, [pieces, -1, *rows.shape[1:]]) for name, rows in batch.items()}
        total = [tf.zeros([], tf.float32), [tf.zeros(value.shape, value.dtype) for value in values]]
        # Collectives cannot stand in a graph's loop either.
        for piece in range(pieces) if any(per_replica) else tf.range(pieces):
            # Dropout's mask differs between pieces: each counts as a replica.
            rows = {name: split[name][piece] for name in split}
            added = piece_gradients(rows, step, replica * pieces + piece)
            total = tf.nest.map_structure(tf.add, total, list(added))
        return total[0], total[1]

    if compiled and not sharded:
        replica_gradients = tf.function(replica_gradients, jit_compile=True)

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
        # Several hosts' datasets come without their batch size; XLA and the masks want it.
        share = batch_size // replicas
        batch = {name: tf.ensure_shape(rows, [share, *rows.shape[1:]]) for name, rows in batch.items()}
        loss, gradients = replica_gradients(batch, step, replica)
        if replicas > 1:
            shared = [g for g, alone in zip(gradients, per_replica, strict=True) if not alone]
            summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, shared))
            gradients = [g if alone else next(summed) for g, alone in zip(gradients, per_replica, strict=True)]
        if clip_norm:  # by the norm of the summed gradient, where Keras would clip before the sum
            squares = [tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
            total = tf.add_n([s for s, alone in zip(squares, per_replica, strict=True) if not alone] or [0.0])
            if any(per_replica):
                of_shards = tf.add_n([s for s, alone in zip(squares, per_replica, strict=True) if alone])
                total += context.all_reduce(tf.distribute.ReduceOp.SUM, of_shards)
            factor = clip_norm / tf.maximum(tf.sqrt(total), clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        state.optimizer.apply(gradients, trained)
        return loss

    @tf.function
    def run_steps(iterator, first_step, count):
        losses = tf.TensorArray(tf.float32, size=count)
        for number in tf.range(count):
            each = strategy.run(replica_step, args=(next(iterator), first_step + number))
            losses = losses.write(number, strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None))
        return losses.stack()

    return run_steps


def train_phase(
    run: Run, found: Found, data: Data, phase: Phase, state: State, features: FeatureCache | None,
    resumed: dict, log: MetricsLog, writer: checkpoints.Writer,
) -> None:  # fmt: skip
    """Runs, logs, validates and saves until the phase ends; BadInput for a loss that is not finite."""
    train, name, size = run.train, phase.options.name, phase.options.batch_size
    done, before = resumed.get("phase_step", 0), resumed.get("step_before", log.step)
    run_steps = make_run_steps(run, found, phase, state)
    iterator = iter(batches(run, found, data, phase, state, features, done))
    validate_every = max(1, round(train.validate_every_epochs * phase.steps_per_epoch))
    pauses = (train.log_every_steps, train.checkpoint_every_steps, validate_every)
    progress = Progress(f"train {name}", phase.steps * size, "images", done * size)
    while done < phase.steps:
        stop = min(phase.steps, *((done // every + 1) * every for every in pauses))
        losses = run_steps(iterator, tf.constant(done), tf.constant(stop - done)).numpy()
        if not np.isfinite(losses).all():
            wrong = int(np.argmin(np.isfinite(losses)))
            where = f"at step {done + wrong} (steps {done}…{stop} ran together)"
            mend = "the checkpoint before it is kept: lower the learning rate or the margin"
            raise BadInput(f"phase {name}: the loss is {losses[wrong]} {where}; {mend}")
        done, last = stop, stop == phase.steps
        if last:
            state.finish()
        log.step = before + done
        progress.add(len(losses) * size, f"loss {losses.mean():.3f}")
        rate = float(state.optimizer._learning_rate(done))
        row = {"phase": name, "loss": float(losses.mean()), "learning_rate": rate}
        if data.validation and (done % validate_every == 0 or last):
            row["validation/mP@5"] = validate(run, found, data.validation, phase, state, features)
            print(
                f"train {name}: step {done:,} of {phase.steps:,}, loss {row['loss']:.3f}, "
                f"mP@5 on unseen classes {row['validation/mP@5']:.3f}, {progress.rate:,.0f} images/s",
                flush=True,
            )
        log.write(row, images_per_second=progress.rate)
        if done % train.checkpoint_every_steps == 0 or last:
            at = {
                "recipe": checkpoints.recipe_fingerprint(run),
                "phase": phase.number + last,
                "phase_step": 0 if last else done,
                "step_before": log.step if last else before,
                "image_size_px": state.embedder.preprocess.image_size_px,
                "patch_overlap_px": state.geometry[1],
                "finished": last and phase.number == len(train.phases) - 1,
            }
            writer.save(log.step, state.variables, at)
    writer.wait()


def validate(
    run: Run, found: Found, records: RecordSet, phase: Phase, state: State, features: FeatureCache | None
) -> float:
    """mP@5, leave-one-out, on classes that were never trained on; of the averaged weights where the run keeps them."""
    with state.averaged():
        if features:
            embeddings = state.embedder.head(np.asarray(features.of(records, "validation"))).numpy()
        else:
            size = max(phase.options.batch_size, found.strategy.num_replicas_in_sync)
            embeddings = encode(
                *(found.strategy, state.embedder.model, state.embedder.preprocess, records, size),
                compiled=found.jit(run.train.compile),
                what="validate",
            )
    neighbours, _ = nearest(embeddings, embeddings, 5, leave_one_out=True)
    labels = records.labels
    return mean_precision_at_5(*neighbour_hits(neighbours, labels, labels, leave_one_out=True))


def rehearse(run: Run, found: Found, data: Data) -> None:
    """A few steps of every phase, compiled by XLA on logical CPU replicas; nothing is written."""
    state, count = None, run.devices.rehearse_steps
    for number in range(len(run.train.phases)):
        started = time.monotonic()
        phase = plan_phase(run, found, data.labels, number)
        state = prepare(run, found, phase, len(data.classes), state)
        iterator = iter(batches(run, found, data, phase, state, None, 0))
        run_steps = make_run_steps(run, found, phase, state)
        losses = run_steps(iterator, tf.constant(0), tf.constant(count)).numpy()
        if not np.isfinite(losses).all():
            raise BadInput(f"phase {phase.options.name}: losses {losses.tolist()} are not all finite")
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        print(f"rehearsal {phase.options.name}: losses {shown} ({time.monotonic() - started:.0f} s)")
    print(f"rehearsal: {len(run.train.phases)} phase(s) × {count} steps on {found.description}: done")
