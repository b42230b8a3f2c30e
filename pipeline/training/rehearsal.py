"""A rehearsal of a training on logical CPU replicas: a few steps of every phase, compiled by XLA.

guie train CONFIG devices.rehearse=8 [devices.rehearse_whole=true]

Phases, losses, sizes, sampling and optimizers are the config's. Weights are random, every feature that a phase asks for
is 1, and where no records are built, images are drawn. Nothing is written.
"""

import contextlib
import gc
import io
import math
import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import tensorflow as tf

from pipeline import config, files
from pipeline.config import Run
from pipeline.config.phase_keys import asks_teacher
from pipeline.data import folds
from pipeline.data.records import RecordSet, open_records
from pipeline.errors import BadInput
from pipeline.models import catalogue
from pipeline.planning import estimates
from pipeline.planning.accelerators import Accelerator, Chip
from pipeline.training import devices
from pipeline.training.devices import Found
from pipeline.training.phases import Classes, Phase, plan_phase, prepare, starting_embedder
from pipeline.training.step import make_run_steps
from pipeline.training.training_data import Data, batches
from tfrecords import build

BLOCKS, HEADS = 2, 2  # of a narrowed transformer
IMAGES = 4  # of a narrowed batch, a replica and piece
DRAWN = {"classes": 16, "images_per_class": 4, "image_size_px": 64}  # of each source
PROCESS_BYTES, REPLICA_BYTES = 1.5e9, 6e7  # Python and TensorFlow; a replica's graph and what XLA makes of it


def main(run: Run) -> None:
    """Rehearses every phase; BadInput: more memory than the machine has, or losses that are not finite."""
    # Read when XLA first compiles. Of the machine code alone: quicker to make, of the same graph.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    # Each replica's iterator blocks a thread: with one a core, eight took minutes to be taken down.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(2 * run.devices.rehearse))
    found = devices.connect(run.devices)
    print(f"train: {found.description}")
    with _records(run) as records:
        classes = Classes.of(records)
        numbers = range(len(run.train.phases))
        for number in numbers:
            plan_phase(run, found, classes, number)  # refuses what cannot be, before it is narrowed
        run = _with_random_weights(run if run.devices.rehearse_whole else narrowed(run))
        _expect_memory(run, len(records), len(classes.labels))
        phases = [plan_phase(run, found, classes, number) for number in numbers]
        _rehearse(run, found, Data(records, classes, None), phases)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / estimates.GIB
    steps = f"{len(phases)} phase(s) × {run.devices.rehearse_steps} steps"
    print(f"rehearsal: {steps}, {peak:.1f} GiB at most: done", flush=True)


def _rehearse(run: Run, found: Found, data: Data, phases: list[Phase]) -> None:
    built, count = None, run.devices.rehearse_steps
    for phase in phases:
        began = time.monotonic()
        state = prepare(run, found, phase, len(data.classes.labels), built)
        built = state.built
        started, teacher = starting_embedder(run, found, phase), None
        if started and asks_teacher(phase.options):
            teacher = np.broadcast_to(np.float32(1.0), (len(data.records), started.encoder.width))
        iterator = iter(batches(run, found, data, phase, state, None, teacher, 0))
        run_steps = make_run_steps(run, found, phase, state, data.classes, started)
        losses = run_steps(iterator, tf.constant(0), tf.constant(count)).numpy()
        if not np.isfinite(losses).all():
            raise BadInput(f"phase {phase.options.name}: losses {losses.tolist()} are not all finite")
        shown = ", ".join(f"{loss:.4f}" for loss in losses)
        print(f"rehearsal {phase.options.name}: losses {shown} ({time.monotonic() - began:.0f} s)", flush=True)
        del state, started, teacher, iterator, run_steps
        gc.collect()  # before the next optimizer is built


def narrowed(run: Run) -> Run:
    """The same run with fewer blocks and heads of the same width, and with smaller batches.

    Blocks that a phase counts stay, and so do networks that are no transformers.
    """
    replicas, pieces = run.devices.rehearse, run.train.optimizer.accumulate_steps
    phases = [
        replace(phase, batch_size=min(phase.batch_size, IMAGES * replicas * pieces)) for phase in run.train.phases
    ]
    run = replace(run, train=replace(run.train, phases=phases))
    if run.encoder.name.startswith("keras_file:"):
        return run
    entry = catalogue.find(run.encoder.name, run.encoder.architecture)
    if not entry.facts.transformer:
        return run
    layers, heads, width, inner = (
        int(entry.architecture[key]) for key in ("num_layers", "num_heads", "hidden_dim", "intermediate_dim")
    )
    counted = [int(last[1]) for phase in phases if (last := re.fullmatch(r"last (\d+) blocks?", phase.trainable))]
    kept = min(HEADS, heads)
    smaller = {
        "num_layers": min(layers, max(BLOCKS, *counted, 0)),
        "num_heads": kept,
        "hidden_dim": width * kept // heads,
        "intermediate_dim": inner * kept // heads,
    }
    encoder = replace(run.encoder, architecture={**run.encoder.architecture, **smaller})
    shown = ", ".join(f"{key} {value}" for key, value in smaller.items())
    print(f"rehearsal: narrowed to {shown}, {IMAGES} images a replica; devices.rehearse_whole=true takes all")
    return replace(run, encoder=encoder)


def _with_random_weights(run: Run) -> Run:
    return replace(run, encoder=replace(run.encoder, weights="none"), train=replace(run.train, init_from=""))


@contextlib.contextmanager
def _records(run: Run) -> Iterator[RecordSet]:
    """The training records of the config, without its fold; drawn ones where none are built."""
    with tempfile.TemporaryDirectory() as folder:
        patterns = run.in_run_dir(run.train.records)
        drawn = not any(map(files.matching, patterns))
        if drawn:
            patterns = [_draw(run, folder)]
        records = open_records(patterns)
        if run.train.fold:
            records = folds.split(run.train.fold, records).left
        what = "drawn images, no records are built" if drawn else "images"
        print(f"rehearsal: {len(records):,} {what}")
        yield records


def _draw(run: Run, folder: str) -> str:
    """Records of drawn images below `folder`, under the names of the sources that are trained on; → their glob."""
    names = [source.name for source in run.records.trained_sources] or ["drawn"]
    sources = [config.Source("drawn", name, options={**DRAWN, "seed": seed}) for seed, name in enumerate(names)]
    with contextlib.redirect_stdout(io.StringIO()):
        build.main(Run(run_dir=folder, records=config.Records(sources)))
    return f"{folder}/records/*.tfrec"


def _expect_memory(run: Run, images: int, classes: int) -> None:
    """Says how much memory all replicas need together, by `guie plan`'s arithmetic; BadInput where that is not here."""
    replicas = run.devices.rehearse
    cpus = Accelerator("rehearsal", replicas, Chip(math.inf, 1.0, bfloat16=False))
    size = estimates.SetSize(images, classes, "records")
    each = [
        estimates.plan_phase(run, number, size, 1.0, [cpus]).estimates["rehearsal"]
        for number in range(len(run.train.phases))
    ]
    needed = PROCESS_BYTES + replicas * (REPLICA_BYTES + max(max(e.before, sum(e.memory.values())) for e in each))
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    said = f"rehearsal: {replicas} replicas need about {needed / estimates.GIB:.1f} GiB of memory"
    if needed > there:
        mend = "fewer replicas, or narrowed: devices.rehearse_whole=false"
        raise BadInput(f"{said}, this machine has {there / estimates.GIB:.1f}: {mend}")
    print(said, flush=True)
