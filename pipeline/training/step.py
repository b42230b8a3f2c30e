"""The training step: loss and gradients on each replica, their sum, the update; the same for CPU, GPU and TPU."""

from collections.abc import Callable

import tensorflow as tf

from pipeline.config import Run
from pipeline.data.preprocessing import normalize
from pipeline.data.stateless_rng import dropout
from pipeline.models import encoders
from pipeline.models.embedder import Embedder
from pipeline.training.class_centers import is_per_replica
from pipeline.training.devices import Found
from pipeline.training.losses import keeping
from pipeline.training.phases import Classes, Phase, State


def make_run_steps(
    run: Run, found: Found, phase: Phase, state: State, classes: Classes, started: Embedder | None
) -> Callable:
    """Builds `run_steps(iterator, first_step, count) -> float32 [count]`, the mean loss of each step.

    A plain loop under `tf.distribute`, the same for CPU, GPU and TPU. A replica takes its batch in
    `accumulate_steps` pieces, to save activations' memory. XLA compiles loss and gradients; collectives cannot stand
    in what it compiles, so with centres sharded over the replicas, or pairs across them, it compiles what is between.
    With teachers it adds up their losses in `Teachers.measured`, too.
    """
    train, strategy, trained, keep = run.train, found.strategy, state.trained, phase.options.keep
    replicas, pieces = strategy.num_replicas_in_sync, train.optimizer.accumulate_steps
    batch_size, clip_norm = phase.options.batch_size, train.optimizer.clip_norm
    values = [variable.value for variable in trained]
    per_replica = [is_per_replica(variable) for variable in trained]  # shards of centres: never summed
    compiled = bool(run.devices.rehearse) or found.jit(train.compile)
    parts, norm_moves = state.embedder.parts, phase.options.trainable != "encoder"
    norm_crosses = parts.norm is not None and norm_moves and replicas > 1
    teachers, centers_cross = state.teachers, state.centers.crosses_replicas(phase.loss)
    crosses = norm_crosses or centers_cross or (teachers is not None and teachers.crosses_replicas(replicas))
    # Whether the teachers' terms end at the head: where the encoder is frozen they do anyway.
    ends = teachers is not None and not teachers.options.through_encoder and phase.options.trainable != "head"
    domains = classes.domains if phase.loss.own_domain else None
    sources = teachers.sources if teachers else 0
    pairs = state.trained_beside(started) if keep.weights and started else []
    kept = [(now.value, then.value) for now, then in pairs]

    def encode(batch, step, replica):  # → float32 [b, width]
        if "features" in batch:
            return tf.cast(batch["features"], tf.float32)
        pixels = normalize(batch["images"], state.embedder.preprocess)
        with encoders.step_seed(tf.stack([train.seed, step]), replica * pixels.shape[0]):
            features = state.embedder.encoder.model(pixels, training=phase.options.trainable != "head")
        # A compiled part has the gradient of all that it holds, asked for or not: a frozen encoder's is a waste.
        return tf.cast(tf.stop_gradient(features) if phase.options.trainable == "head" else features, tf.float32)

    def project(features, step, replica):  # → [b, D]
        seen = dropout(features, run.embedder.dropout, train.seed, step, replica)
        return (parts.projection or parts.trained)(seen, training=True)

    def embed(batch, step, replica):  # → features, embeddings, and those that teachers are compared with
        features = encode(batch, step, replica)
        seen = parts.norm(features, training=norm_moves) if parts.norm else features
        embeddings = project(seen, step, replica)
        return features, embeddings, project(tf.stop_gradient(seen), step, replica) if ends else embeddings

    def loss_of(embeddings, labels, margin):  # → [b]
        return state.centers.losses(embeddings, labels, phase.loss, margin, compiled, domains)

    def by_xla(function, wanted):
        return tf.function(function, jit_compile=True) if compiled and wanted else function

    loss_of = by_xla(loss_of, crosses and not centers_cross)
    if norm_crosses:
        encode, project = by_xla(encode, True), by_xla(project, True)
    else:
        embed = by_xla(embed, crosses)

    def piece_gradients(batch, step, replica):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            features, embeddings, compared = embed(batch, step, replica)
            labels, margin = batch["labels"], phase.margin.at(step)
            each, measured = loss_of(embeddings, labels, margin), tf.zeros([2, 0])
            if teachers:
                classifiers = state.centers.variable.value, phase.loss, margin, classes.domains, compiled
                each, measured = teachers.losses(features, compared, each, labels, *classifiers)
            if keep.features:
                each += keep.features * keeping.feature_distance(features, batch["teacher"])
            if keep.similarities:
                apart = keeping.similarity_divergence(embeddings, batch["teacher"], keep.temperature)
                each += keep.similarities * apart
            loss = tf.reduce_sum(each) / batch_size
            if kept:
                loss += keep.weights * keeping.weight_distance(*zip(*kept, strict=True)) / (replicas * pieces)
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients], measured

    def replica_gradients(batch, step, replica):
        if pieces == 1:
            return piece_gradients(batch, step, replica)
        split = {name: tf.reshape(rows, [pieces, -1, *rows.shape[1:]]) for name, rows in batch.items()}
        total = [tf.zeros([]), [tf.zeros(value.shape, value.dtype) for value in values], tf.zeros([2, sources])]
        # Collectives cannot stand in a graph's loop either.
        for piece in range(pieces) if crosses else tf.range(pieces):
            # Dropout's mask differs between pieces: each counts as a replica.
            rows = {name: split[name][piece] for name in split}
            added = piece_gradients(rows, step, replica * pieces + piece)
            total = tf.nest.map_structure(tf.add, total, list(added))
        return tuple(total)

    if compiled and not crosses:
        replica_gradients = tf.function(replica_gradients, jit_compile=True)

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        replica = tf.convert_to_tensor(context.replica_id_in_sync_group)
        # Several hosts' datasets come without their batch size; XLA and the masks want it.
        share = batch_size // replicas
        batch = {name: tf.ensure_shape(rows, [share, *rows.shape[1:]]) for name, rows in batch.items()}
        loss, gradients, measured = replica_gradients(batch, step, replica)
        if replicas > 1:
            shared = [g for g, alone in zip(gradients, per_replica, strict=True) if not alone]
            summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, [*shared, *([measured] if teachers else [])]))
            gradients = [g if alone else next(summed) for g, alone in zip(gradients, per_replica, strict=True)]
            measured = next(summed, measured)
        if teachers:
            teachers.measured.assign(teachers.measured + measured / batch_size)
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
