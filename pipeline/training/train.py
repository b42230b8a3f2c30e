"""STAGE  shards → checkpoint.

guie train CONFIG [KEY=VALUE …]
<run_dir>/records/*.tfrec → <run_dir>/checkpoints/step-*.safetensors, metrics.jsonl, tensorboard/

Where it starts: the newest whole checkpoint of the run folder; else `train.init_from`; else the encoder's weights.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline import config, files
from pipeline.config import Run
from pipeline.console import Progress
from pipeline.data.batches import RecordSet, damage_is_bad_input, open_records
from pipeline.errors import BadInput
from pipeline.retrieval.metrics import mean_precision_at_5, neighbour_hits
from pipeline.retrieval.search import nearest
from pipeline.training import checkpoints, devices, phases, recipe
from pipeline.training.phases import Setting


@damage_is_bad_input()
def main(run: Run) -> None:
    """Trains every phase that is not done yet.

    Raises:
        BadInput: a value that cannot be; no records; devices that are not here; a checkpoint of another recipe or
            architecture; a loss that is not finite.
    """
    recipe.check(run)
    folder = Path(run.run_dir)
    state = recipe.state_of(run)
    if state.get("finished") and not run.devices.rehearse:
        print(f"train: done already, {checkpoints.newest(checkpoints.folder_of(run.run_dir))}")
        return
    found = devices.connect(run.devices)
    print(f"train: {found.description}")
    steps = found.of_all_hosts(state.get("step", 0))
    if len(set(steps)) > 1:
        raise BadInput(
            f"the hosts' newest checkpoints are of different steps ({', '.join(map(str, steps))}): run_dir must be one "
            "folder that all hosts see, or hold the same checkpoint everywhere"
        )
    records = open_records(run.in_run_dir(run.train.records))
    classes, labels = np.unique(records.labels, return_inverse=True)
    validation = _open_validation(run)
    print(
        f"train: {len(records):,} images of {len(classes):,} classes; {_described(validation, records, classes)} → "
        f"{folder}/checkpoints"
    )
    setting = Setting(run, found, records, labels.astype(np.int64), classes, validation)
    if run.devices.rehearse:
        rehearse(setting)
        return
    if found.is_chief:
        files.write_text(folder / "config.yaml", config.to_yaml(run))
    log = _Log(folder, state.get("step", 0), found.is_chief)
    writer = checkpoints.Writer(
        checkpoints.folder_of(run.run_dir), run.train.checkpoints_kept, writes=found.is_chief
    )
    start = checkpoints.newest(writer.folder)
    first, previous, resumed = state.get("phase", 0), None, state
    if start and not state["phase_step"]:  # between two phases: the checkpoint is of the one that ended
        previous, resumed = phases.prepare(setting, first - 1, None, start), {}
    for number in range(first, len(run.train.phases)):
        phase = phases.prepare(setting, number, previous, start if resumed else None)
        if resumed:
            print(
                f"train: goes on in phase {phase.options.name} at step {resumed['phase_step']:,} of {phase.steps:,}"
            )
        run_phase(setting, phase, resumed, log, writer)
        previous, resumed = phase, {}
    writer.wait()
    print(f"train: {checkpoints.newest(writer.folder)}")


def run_phase(
    setting: Setting, phase: phases.Phase, resumed: dict, log: "_Log", writer: checkpoints.Writer
) -> None:
    """Steps, logs, validates and saves until the phase ends."""
    train = setting.run.train
    done, before = resumed.get("phase_step", 0), resumed.get("step_before", log.step)
    iterator = iter(phase.batches(done))
    validate_every = max(1, round(train.validate_every_epochs * phase.steps_per_epoch))
    progress = Progress(
        f"train {phase.options.name}", phase.steps * phase.batch_size, "images", done * phase.batch_size
    )
    while done < phase.steps:
        stop = min(
            phase.steps,
            *(
                (done // every + 1) * every
                for every in (train.log_every_steps, train.checkpoint_every_steps, validate_every)
            ),
        )
        losses = phase.run_steps(iterator, tf.constant(done), tf.constant(stop - done)).numpy()
        if not np.isfinite(losses).all():
            wrong = done + int(np.argmin(np.isfinite(losses)))
            raise BadInput(
                f"phase {phase.options.name}: the loss is {losses[wrong - done]} at step {wrong} (steps "
                f"{done}…{stop} ran together); the checkpoint before it is kept: lower the learning rate or the margin"
            )
        done = stop
        if done == phase.steps:
            phase.finish()
        log.step = before + done
        progress.add(len(losses) * phase.batch_size, f"loss {losses.mean():.3f}")
        row = {
            "phase": phase.options.name,
            "loss": float(losses.mean()),
            "learning_rate": phase.learning_rate(done),
        }
        if setting.validation and (done % validate_every == 0 or done == phase.steps):
            found = row["validation/mP@5"] = validate(setting.validation, phase)
            print(
                f"train {phase.options.name}: step {done:,} of {phase.steps:,}, loss {row['loss']:.3f}, "
                f"mP@5 on unseen classes {found:.3f}, {progress.rate:,.0f} images/s",
                flush=True,
            )
        log.write(row, images_per_second=progress.rate)
        if done % train.checkpoint_every_steps == 0 or done == phase.steps:
            last = done == phase.steps
            state = {
                "recipe": recipe.fingerprint(setting.run),
                "phase": phase.number + last,
                "phase_step": 0 if last else done,
                "step_before": log.step if last else before,
                "image_size_px": phase.embedder.preprocess.image_size_px,
                "patch_overlap_px": phases.geometry(setting.run, phase.options)[1],
                "finished": last and phase.number == len(train.phases) - 1,
            }
            writer.save(log.step, phase.variables, state)
    writer.wait()


def validate(records: RecordSet, phase: phases.Phase) -> float:
    """mP@5, leave-one-out, on classes that were never trained on; of the averaged weights where the run keeps them."""
    with phase.averaged():
        embeddings = phase.embed_validation(records)
    neighbours, _ = nearest(embeddings, embeddings, 5, leave_one_out=True)
    labels = records.labels
    return mean_precision_at_5(*neighbour_hits(neighbours, labels, labels, leave_one_out=True))


def rehearse(setting: Setting) -> None:
    """A few steps of every phase, compiled by XLA on logical CPU replicas; nothing is written."""
    previous = None
    for number in range(len(setting.run.train.phases)):
        started = time.monotonic()
        phase = phases.prepare(setting, number, previous)
        count = setting.run.devices.rehearse_steps
        losses = phase.run_steps(iter(phase.batches(0)), tf.constant(0), tf.constant(count)).numpy()
        if not np.isfinite(losses).all():
            raise BadInput(f"phase {phase.options.name}: losses {losses.tolist()} are not all finite")
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        print(f"rehearsal {phase.options.name}: losses {shown} ({time.monotonic() - started:.0f} s)")
        previous = phase
    print(
        f"rehearsal: {len(setting.run.train.phases)} phase(s) × {count} steps on {setting.found.description}: done"
    )


def _open_validation(run: Run) -> RecordSet | None:
    globs = run.in_run_dir(run.train.validation)
    if not any(map(files.matching, globs)):
        return None
    return open_records(globs)


def _described(validation: RecordSet | None, records: RecordSet, trained: np.ndarray) -> str:
    """What validation is made of.

    Raises:
        BadInput: a shard that is trained on, too.
    """
    if validation is None:
        return "no validation"
    if shared := sorted(
        {path.resolve() for path in validation.shards} & {p.resolve() for p in records.shards}
    ):
        raise BadInput(
            f"train.validation: {shared[0].name} is among train.records, too ({len(shared)} shard(s)): validation "
            "must be of classes that are never trained on"
        )
    classes = np.unique(validation.labels)
    known = int(np.isin(classes, trained).sum())
    what = "classes never trained on" if not known else f"classes, {known:,} of them trained on"
    return f"validation {len(validation):,} images of {len(classes):,} {what}"


class _Log:
    """metrics.jsonl and TensorBoard. Rows after the checkpoint that a run resumes from are dropped: they come again."""

    def __init__(self, folder: Path, step: int, chief: bool):
        self.step, self.chief, self.path = step, chief, folder / "metrics.jsonl"
        if chief:
            old = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            kept = [line for line in old if _step_of(line) <= step]
            files.write_text(self.path, "".join(line + "\n" for line in kept))
            self.board = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, row: dict, images_per_second: float) -> None:
        if not self.chief:
            return
        full = {"step": self.step, **row, "images_per_second": round(images_per_second, 1)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(full) + "\n")
        with self.board.as_default(step=self.step):
            for name, value in full.items():
                if isinstance(value, float):
                    tf.summary.scalar(name, value)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # half a line, from a kill
