"""COMMAND train: shards → checkpoint.

guie train CONFIG [KEY=VALUE …]
<run_dir>/records/*.tfrec → <run_dir>/checkpoints/step-*.safetensors, metrics.jsonl, tensorboard/

Where it starts: the newest whole checkpoint of the run folder; else `train.init_from`; else the encoder's weights.

`main` goes through the phases (`phases.py` says how long each is, builds and fills what it trains), `batches` feeds
them, `step.py` is the step, `train_phase` runs, logs, validates and saves.
"""

import gc
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline import config, files
from pipeline.config import Run
from pipeline.config.phase_keys import asks_teacher, expect_phases, head_start, holds_start
from pipeline.console import Progress
from pipeline.data.batches import damage_is_bad_input, open_records
from pipeline.errors import BadInput, Stopped
from pipeline.guards import stage_log
from pipeline.guards.locks import one_at_a_time
from pipeline.models.embedder import Embedder
from pipeline.planning import config_checks
from pipeline.retrieval.precisions import precisions
from pipeline.training import checkpoints, devices, inputs, metrics_log, rehearsal
from pipeline.training.devices import Found
from pipeline.training.distillation import source_shares
from pipeline.training.feature_cache import Encodings, FeatureCache
from pipeline.training.metrics_log import MetricsLog, Work
from pipeline.training.phases import (
    Phase,
    State,
    fit_pca,
    plan_phase,
    prepare,
    start_at_random,
    start_from_features,
    starting_embedder,
)  # fmt: skip
from pipeline.training.step import make_run_steps
from pipeline.training.stopping import Stopping
from pipeline.training.training_data import Data, batches, open_data

PRECISIONS = "precisions.npy"  # float64 [Q], each query's precision@5 at the last validation


@one_at_a_time
@damage_is_bad_input()
def main(run: Run) -> None:
    """Trains every phase that is not done yet.

    Raises BadInput: no phases or records; devices that are not here; a checkpoint of another recipe or architecture; a
    loss that is not finite.
    """
    stopping = Stopping(run.train.hours)
    expect_phases(run)
    if run.devices.rehearse:
        rehearsal.main(run)
        return
    config_checks.before_training(run)
    folder = Path(run.run_dir)
    resumed = checkpoints.state_of(run)
    there = checkpoints.newest(checkpoints.folder_of(run.run_dir))
    if resumed.get("finished") and not any(map(files.matching, run.in_run_dir(run.train.records))):
        print(f"train: done already, {there}; its records are gone")
        return
    if not resumed.get("finished"):
        found = devices.connect(run.devices)  # before records are asked for: what is not here is said first
        print(f"train: {found.description}")
    records = open_records(run.in_run_dir(run.train.records))
    if there and resumed:
        inputs.expect_same(run, there, resumed, records)
    if resumed.get("finished"):
        checkpoints.mark_whole(run)
        if rows := resumed.get("metrics"):  # a soup has none
            metrics_log.restore(folder, rows)
        print(f"train: done already, {there}")
        return
    steps = found.of_all_hosts(resumed.get("step", 0))
    if len(set(steps)) > 1:
        mend = "run_dir must be one folder that all hosts see, or hold the same checkpoint everywhere"
        raise BadInput(f"the hosts' newest checkpoints are of different steps ({', '.join(map(str, steps))}): {mend}")
    mark = {"recipe": inputs.recipe(run), "inputs": inputs.held(run, records, resumed.get("inputs", {}))}
    data = open_data(run, records)
    # All of them before the first is trained: what cannot be is said at once.
    phases = [plan_phase(run, found, data.classes, number) for number in range(len(run.train.phases))]
    if found.is_chief:
        files.write_text(folder / "config.yaml", config.to_yaml(run))
    log = MetricsLog(folder, resumed.get("step", 0), found.is_chief, resumed.get("metrics", ()))
    writer = checkpoints.Writer(
        checkpoints.folder_of(run.run_dir), run.train.checkpoints_kept, writes=found.is_chief, mark=mark
    )
    start, built, first = checkpoints.newest(writer.folder), None, resumed.get("phase", 0)
    if start and not resumed["phase_step"]:  # saved between two phases: it is of the one that ended
        built = prepare(run, found, phases[first - 1], len(data.classes.labels), None, start).built
        resumed = {}
        gc.collect()  # the optimizer that was restored with it
    with stage_log.logged(folder if found.is_chief else None, "train") as work:
        work.device = found.description
        for phase in phases[first:]:
            state = prepare(run, found, phase, len(data.classes.labels), built, start if resumed else None)
            built = None  # where the embedder is of another size now, the one before goes
            gc.collect()  # models and graphs hold themselves in rings
            run_phase(run, found, data, phase, state, resumed, log, writer, stopping)
            work.images += (phase.steps - resumed.get("phase_step", 0)) * phase.options.batch_size
            built, resumed = state.built, {}
            del state
            gc.collect()  # before the next optimizer is built
    writer.wait()
    if found.is_chief:
        checkpoints.mark_whole(run)
    print(f"train: {checkpoints.newest(writer.folder)}")


def run_phase(
    run: Run, found: Found, data: Data, phase: Phase, state: State, resumed: dict, log: MetricsLog,
    writer: checkpoints.Writer, stopping: Stopping,
) -> None:  # fmt: skip
    """Fills and trains a phase, or goes on where `resumed` says."""
    started = starting_embedder(run, found, phase)
    teacher = _teacher(run, found, data, phase, started)
    if not holds_start(phase.options):
        started = None
        gc.collect()
    features = FeatureCache(run, found, state.embedder) if phase.on_features else None
    init = head_start(run, phase.number)
    if init == "random" and not resumed:
        start_at_random(run, found, state)
    elif init and not resumed:
        known = features or FeatureCache(run, found, state.embedder)
        start_from_features(run, state, init, known.of(data.records, "train"), data.classes)
    if not resumed:
        state.begin()
    else:
        print(f"train: goes on in phase {phase.options.name} at step {resumed['phase_step']:,} of {phase.steps:,}")
    with stopping:  # elsewhere SIGTERM ends the process at once: there is nothing to save
        train_phase(run, found, data, phase, state, started, teacher, features, resumed, log, writer, stopping)


def train_phase(
    run: Run, found: Found, data: Data, phase: Phase, state: State, started: Embedder | None,
    teacher: np.ndarray | None, features: FeatureCache | None, resumed: dict, log: MetricsLog,
    writer: checkpoints.Writer, stopping: Stopping,
) -> None:  # fmt: skip
    """Runs, logs, validates and saves until the phase ends; BadInput for a loss that is not finite; see `Stopped`."""
    train, name, size = run.train, phase.options.name, phase.options.batch_size
    done, before = resumed.get("phase_step", 0), resumed.get("step_before", log.step)
    run_steps = make_run_steps(run, found, phase, state, data.classes, started)
    iterator = iter(batches(run, found, data, phase, state, features, teacher, done))
    validate_every = max(1, round(train.validate_every_epochs * phase.steps_per_epoch))
    # Where no interval ends within a phase, the end of the last phase is what matters.
    ends_validated = validate_every <= phase.steps or phase.number == len(train.phases) - 1
    # Where shares follow losses, what comes is not known beyond the step that sets them.
    sampling, taught = phase.options.sampling, state.teachers
    renewed_every = [sampling.losses_every_steps] if taught and source_shares.by_losses(sampling) else []
    pauses = (train.log_every_steps, train.checkpoint_every_steps, validate_every, *renewed_every)
    # Of an encoder that is being trained: nothing is kept.
    reduced, looked_at = state.embedder.parts.pca is not None, data.validation is not None
    measured = features or (Encodings(run, found, state.embedder) if looked_at or reduced else None)
    work = Work.of(run, found, phase, state.embedder.encoder, len(data.classes.labels))
    progress = Progress(f"train {name}", phase.steps * size, "images", done * size)
    longest, first = 0.0, done  # s between two pauses; the step that this process begins with
    while done < phase.steps:
        began = timed = time.monotonic()
        stop = min(phase.steps, *((done // every + 1) * every for every in pauses))
        losses, compiled = np.zeros(0, np.float32), {}
        if done == first:  # this step compiles: it is timed apart, so that rates and the ETA are of training
            losses = run_steps(iterator, tf.constant(done), tf.constant(1)).numpy()
            timed = time.monotonic()
            compiled = {"compile_seconds": round(timed - began, 2)}
            print(f"train {name}: compiled in {timed - began:.1f} s, the first step included", flush=True)
            progress.add(size, timed=False)
        if rest := stop - done - len(losses):
            more = run_steps(iterator, tf.constant(done + len(losses)), tf.constant(rest)).numpy()
            losses = np.concatenate([losses, more])
        rates = work.rates(rest * size, time.monotonic() - timed) if rest else {}
        if not np.isfinite(losses).all():
            wrong = int(np.argmin(np.isfinite(losses)))
            where = f"at step {done + wrong} (steps {done}…{stop} ran together)"
            mend = "the checkpoint before it is kept: lower the learning rate or the margin"
            raise BadInput(f"phase {name}: the loss is {losses[wrong]} {where}; {mend}")
        done, last = stop, stop == phase.steps
        if last:
            state.finish(phase, started)
        log.step = before + done
        used = f", MFU {rates['mfu']:.0%}" if "mfu" in rates else ""
        achieved = f", {rates['teraflops_per_replica']:.3g} TFLOP/s a replica{used}" if rates else ""
        if rest:
            progress.add(rest * size, f"loss {losses.mean():.3f}{achieved}")
        rate = float(state.optimizer._learning_rate(done))
        row = {"phase": name, "loss": float(losses.mean()), "learning_rate": rate, **rates, **compiled}
        validated = looked_at and (done % validate_every == 0 or (last and ends_validated))
        if measured and reduced and (validated or last):
            with state.averaged():
                fit_pca(run, state.embedder, measured, data.records)
        if measured and validated:
            each = validate(data, state, measured)
            row |= data.validation_row(each)
            if found.is_chief:
                files.write_array(Path(run.run_dir) / PRECISIONS, each)
            speed = f", {progress.rate:,.0f} images/s" if progress.rate else ""
            print(
                f"train {name}: step {done:,} of {phase.steps:,}, loss {row['loss']:.3f}, {data.said(each)}{speed}",
                flush=True,
            )
        if taught and renewed_every and done % renewed_every[0] == 0:
            shares = source_shares.renew(phase.order, taught, sampling, done)
            row |= {f"share/{name}": float(share) for name, share in zip(data.classes.sources, shares, strict=True)}
            if not last:
                iterator = iter(batches(run, found, data, phase, state, features, teacher, done))
        log.write(row, images_per_second=progress.rate)
        longest = max(longest, time.monotonic() - began)
        why = "" if last else _asked_to_stop(found, stopping, 2 * longest)
        if done % train.checkpoint_every_steps == 0 or last or why:
            at = {
                "phase": phase.number + last,
                "phase_step": 0 if last else done,
                "step_before": log.step if last else before,
                "image_size_px": state.embedder.preprocess.image_size_px,
                "patch_overlap_px": state.geometry[1],
                "pca_fitted": reduced and (validated or last),
                "metrics": log.rows,
                "finished": last and phase.number == len(train.phases) - 1,
            }
            writer.save(log.step, state.variables, at)
        if why:
            writer.wait()
            where = f"phase {name} at step {done:,} of {phase.steps:,}"
            raise Stopped(f"{why}: stopped in {where}, saved in {writer.folder}")
    writer.wait()
    if phase.number < len(train.phases) - 1 and (why := _asked_to_stop(found, stopping, 2 * longest)):
        raise Stopped(f"{why}: stopped at the end of phase {name}, saved in {writer.folder}")


def _asked_to_stop(found: Found, stopping: Stopping, seconds: float) -> str:
    """Why all hosts stop here: one that is asked to is enough, and they leave the same step's collectives together."""
    why = stopping.due(seconds)
    if found.hosts > 1 and any(found.of_all_hosts(int(bool(why)))):
        return why or "another host stops"
    return why


def validate(data: Data, state: State, features: FeatureCache | Encodings) -> np.ndarray:
    """float64 [N]: precision@5 of every validation record, leave-one-out; 0 for one without another of its class.

    It is of what would be served: the averaged weights where the run keeps them, at every size of the embedder.
    """
    assert data.validation is not None
    records = data.validation
    with state.averaged():
        embeddings = state.embedder.head(np.asarray(features.of(records, "validation"))).numpy()
    each = np.zeros(len(records))
    for index in data.indexes or (np.arange(len(records)),):
        each[index] = precisions((embeddings[index], records.labels[index]))
    return each


def _teacher(run: Run, found: Found, data: Data, phase: Phase, started: Embedder | None) -> np.ndarray | None:
    """float32 [N, width]: the starting encoder's features of every record, uncropped; None where no term asks."""
    if started is None or not asks_teacher(phase.options):
        return None
    taught = replace(started, sizes_px=tuple(phase.options.keep.sizes_px) or started.sizes_px)
    return FeatureCache(run, found, taught).of(data.records, "train, as the encoder starts")
