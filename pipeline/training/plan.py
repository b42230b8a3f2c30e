"""COMMAND plan: training config → what it needs: parameters, FLOPs, memory a replica, images a second, hours.

guie plan CONFIG [KEY=VALUE …] [--on NAME …] [--share 0.35] [--images N] [--classes N]
configs/*.yaml, <run_dir>/records/labels.json where it is built → a table on the screen

Nothing is built and nothing is downloaded. Peaks are the makers' bfloat16 figures; `--share` of them is what a step is
taken to reach. Features that a phase before has left in the cache are not counted again. Not counted: validation,
checkpoints, reading records, padding of tiles on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import config, files
from pipeline.config import Phase, Run
from pipeline.errors import BadInput
from pipeline.models import catalogue
from pipeline.training import accelerators, checkpoints, costs
from pipeline.training.accelerators import Accelerator
from pipeline.training.costs import EncoderCosts, StepCosts
from pipeline.training.phase_keys import asks_start, asks_teacher, geometry, head_start, sees_features
from tfrecords.sources import find_layout

GIB = 2.0**30
HEADROOM = 0.95  # of HBM; the runtime keeps some for itself
SCORED_IMAGES, SCORED_HOURS = 205_000, 9  # the competition's queries and index, and its limit


@dataclass(frozen=True)
class Options:
    run: Run
    on: tuple[str, ...] = ()  # accelerators; empty: accelerators.SHOWN
    share: float = 0.35
    images: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class SetSize:
    """Training images and classes; `counts` is None where only totals are known."""

    images: int
    classes: int
    origin: str
    counts: list[int] | None = None


@dataclass(frozen=True)
class Estimate:
    """One phase on one accelerator. `memory` is in bytes a replica, see `costs.memory_bytes`."""

    images: int  # of a batch, a replica
    memory: dict[str, float]
    before: float  # bytes at most between the phase before and the first step, when both phases' weights are there
    other_activations: float  # with checkpointing where the config has none, without where it has
    hbm_bytes: float
    images_per_second: float
    hours: float

    @property
    def fits(self) -> bool:
        return max(self.before, sum(self.memory.values())) <= HEADROOM * self.hbm_bytes


@dataclass(frozen=True)
class PhasePlan:
    phase: Phase
    image_size_px: int
    on_features: bool
    costs: StepCosts
    drawn: int  # images an epoch
    steps: int
    features_px: tuple[int, ...]  # sizes of the images whose features it takes from the cache
    passes: tuple[EncoderCosts, ...]  # of the encoder over every image that fill the cache, before the first step
    host_bytes: float  # of the machine's own memory, for features
    estimates: dict[str, Estimate]


def main(options: Options) -> None:
    """Prints the plan; BadInput: no phases; sizes that are neither built, known nor given; an unknown encoder."""
    run = options.run
    checkpoints.expect_phases(run)
    size = set_size(run, options.images, options.classes)
    encoder = encoder_costs(run.encoder)
    devices = [accelerators.find(name) for name in options.on or accelerators.SHOWN]
    oversampled = any(phase.min_images_per_class > 1 for phase in run.train.phases)
    too_few = "; min_images_per_class adds to that, unknown before records are built"
    origin = size.origin + (too_few if oversampled and size.counts is None else "")
    print(f"plan: {run.name}, {run.encoder.name}: {size.images:,} images of {size.classes:,} classes ({origin})")
    head = encoder.width * run.embedder.embedding_dim
    centres = size.classes * run.train.loss.subcenters * run.embedder.embedding_dim
    print(f"parameters: encoder {encoder.parameters:,}, head {head:,}, class centres {centres:,}")
    print(f"{options.share:.0%} of the makers' peak reached; memory in GiB a replica")
    plans = [plan_phase(run, number, size, options.share, devices) for number in range(len(run.train.phases))]
    for planned in plans:
        print(*_lines(planned, run.encoder.checkpointing), sep="\n")
    print("", _served(run), _disk(run, size, plans), "", sep="\n")
    for device in devices:
        each = [planned.estimates[device.name] for planned in plans]
        hours, fits = sum(e.hours for e in each), all(e.fits for e in each)
        found = f"{hours:{'.1f' if hours >= 1 else '.2g'}} h, {'fits' if fits else 'does not fit'}"
        print(f"plan: {device.name} {found}; {device.needs}{_sessions(device, hours)}")


def plan_phase(
    run: Run, number: int, size: SetSize, share: float, devices: Sequence[Accelerator] | None = None
) -> PhasePlan:
    """Costs of phase `number` on every accelerator; without `devices` on those that are shown."""
    devices = devices or [accelerators.find(name) for name in accelerators.SHOWN]
    phase = run.train.phases[number]
    encoder = encoder_costs(run.encoder, phase.image_size_px, phase.patch_overlap_px)
    on_features, passes = sees_features(phase), _passes(run, number)
    each = costs.step(encoder, run, phase, size.classes, on_features)
    drawn = _drawn(size, phase)
    steps = max(1, round(phase.epochs * drawn / phase.batch_size))
    averaged, kept = phase.average_from is not None, asks_start(phase)
    once = size.images * sum(each_pass.flops for each_pass in passes)
    estimates = {}
    for device in devices:
        compute = 2 if device.chip.bfloat16 and run.devices.precision != "float32" else 4
        images = -(-phase.batch_size // device.replicas)
        held = _sharded(each, run, phase, size.classes, device.replicas) if run.train.loss.sharded else each
        memory, other = (
            costs.memory_bytes(held, run.train.optimizer, images, checkpointing, compute, averaged)
            for checkpointing in (run.encoder.checkpointing, not run.encoder.checkpointing)
        )
        memory["weights"] += 4.0 * encoder.parameters * kept  # the encoder as the run started, beside the tuned one
        encoding = max((one.forward_elements for one in passes), default=0.0)
        memory["activations"] = max(memory["activations"], 64 / device.replicas * compute * encoding)
        before = 4.0 * held.parameters + memory["optimizer"] + 4.0 * _replaced(run, number)
        rate = share * device.chip.peak_flops * device.replicas
        seconds = (once + steps * phase.batch_size * each.flops) / rate
        speed, hours = steps * phase.batch_size / seconds, seconds / 3600
        hbm = device.chip.hbm_gib * GIB
        estimates[device.name] = Estimate(images, memory, before, other["activations"], hbm, speed, hours)
    side = encoder.image_size_px
    features_px = tuple(dict.fromkeys(asked or side for _, _, asked in _asked(run, number)))
    host = costs.host_bytes(size.images, encoder.width, _from_features(run, number)) if features_px else 0.0
    return PhasePlan(phase, side, on_features, each, drawn, steps, features_px, passes, host, estimates)


def _replaced(run: Run, number: int) -> int:
    """Parameters of the encoder that the phase before leaves, where this one's is of another size."""
    if number == 0:
        return 0
    before, here = run.train.phases[number - 1], run.train.phases[number]
    if geometry(run, before) == geometry(run, here):
        return 0
    return encoder_costs(run.encoder, before.image_size_px, before.patch_overlap_px).parameters


def _from_features(run: Run, number: int) -> bool:
    """Whether a phase starts the head from features."""
    return head_start(run, number) not in (None, "random")


def _asked(run: Run, number: int) -> list[tuple]:
    """The features that a phase takes from the cache: to train on, to start the head from, and to keep near to.

    Each is (the last phase that trained the encoder, −1: none; the encoder's size and overlap; the image size).
    """
    phase = run.train.phases[number]
    here = geometry(run, phase)
    sizes: list[int | None] = [*run.embedder.sizes_px] or [here[0]]
    trained = [before for before in range(number) if run.train.phases[before].trainable != "head"]
    asked: list[tuple] = []
    if sees_features(phase) or _from_features(run, number):
        asked += [(max(trained, default=-1), here, size) for size in sizes]
    if asks_teacher(phase):
        asked += [(-1, here, size) for size in phase.keep.sizes_px or sizes]
    return list(dict.fromkeys(asked))


def _passes(run: Run, number: int) -> tuple[EncoderCosts, ...]:
    """The encoder at each size whose features a phase is the first to ask for."""
    earlier = [features for before in range(number) for features in _asked(run, before)]
    new = [features for features in _asked(run, number) if features not in earlier]
    return tuple(encoder_costs(run.encoder, size, overlap) for _, (_, overlap), size in new)


def _sharded(each: StepCosts, run: Run, phase: Phase, classes: int, replicas: int) -> StepCosts:
    """What a replica holds where the class centres are split over all."""
    a_class = run.train.loss.subcenters * run.embedder.embedding_dim
    spared = (classes - -(-classes // replicas)) * a_class
    trained = each.trained_parameters - spared * (phase.trainable != "encoder")
    return replace(each, parameters=each.parameters - spared, trained_parameters=trained)


def encoder_costs(
    encoder: config.Encoder, image_size_px: int | None = None, patch_overlap_px: int | None = None
) -> EncoderCosts:
    """Costs of the config's encoder, at another size or overlap where one is given."""
    if not encoder.name.startswith("keras_file:"):
        entry = catalogue.find(encoder.name, encoder.architecture)
        if entry.facts.transformer:
            side = image_size_px or encoder.image_size_px or entry.image_size_px
            overlap = encoder.patch_overlap_px if patch_overlap_px is None else patch_overlap_px
            return costs.transformer(entry, side, encoder.pooling or entry.pooling, overlap)
    from pipeline.models import encoders  # TensorFlow, for what only a built network tells

    found = encoders.build(replace(encoder, weights="none", image_size_px=image_size_px or encoder.image_size_px))
    return costs.built(found.model, found.preprocess.image_size_px, found.blocks)


def set_size(run: Run, images: int | None = None, classes: int | None = None) -> SetSize:
    """From the options, else the records as built, else what is known of the public sets; BadInput where nothing is."""
    if images and classes:
        return SetSize(images, classes, "as given")
    given = "images as given, the rest " if images else "classes as given, the rest " if classes else ""
    path = Path(run.run_dir) / "records" / "labels.json"
    if path.is_file():
        counts = [row["train"] for row in files.read_json(path)["classes"] if row.get("train", 0)]
        known = None if given else counts
        return SetSize(images or sum(counts), classes or len(counts), f"{given}from {path}", known)
    if not run.records.sources:
        raise BadInput("records.sources is empty and no records are built: give --images N --classes N")
    split, total_images, total_classes = run.records.split, 0.0, 0.0
    for source in run.records.sources:
        published = find_layout(source.layout).size(source.options)
        if published is None:
            why = f"the size of a {source.layout!r} is known only once its records are built"
            raise BadInput(f"source {source.name}: {why}: run `guie tfrecords`, or give --images N --classes N")
        cap = run.records.cap_per_class if source.cap_per_class is None else source.cap_per_class
        total_classes += published.classes * (split.train if split.by == "class" else 1.0)
        total_images += min(published.images, cap * published.classes) * split.train
    return SetSize(images or round(total_images), classes or round(total_classes), f"{given}at most, by known sizes")


def _drawn(size: SetSize, phase: Phase) -> int:
    """Images an epoch: at most so many of a class, small classes drawn more often; see `phases.plan_phase`."""
    cap, least = phase.sampling.cap_per_class, phase.min_images_per_class
    if size.counts is None:
        return size.images if cap is None else min(size.images, cap * size.classes)
    kept = [count if cap is None else min(cap, count) for count in size.counts]
    return sum(max(-(-least // count), 1) * drawn for count, drawn in zip(size.counts, kept, strict=True))


def _served(run: Run) -> str:
    """What an image costs where it is served, at all sizes and views."""
    side, overlap = geometry(run, run.train.phases[-1])
    given: list[int | None] = [*run.embedder.sizes_px] or [side]
    sizes = [encoder_costs(run.encoder, size, overlap) for size in given]
    views = run.export.crops * (2 if run.export.flip_average else 1)
    flops = views * sum(each.flops for each in sizes)
    asked = flops * SCORED_IMAGES / (SCORED_HOURS * 3600) / 1e12
    at = " and ".join(str(each.image_size_px) for each in sizes)
    return (
        f"served: {at} px, {views} view(s): {flops / 1e9:,.4g} GFLOP an image; "
        f"{SCORED_IMAGES:,} images in {SCORED_HOURS} hours ask for {asked:.2g} TFLOP/s"
    )


def _disk(run: Run, size: SetSize, plans: list[PhasePlan]) -> str:
    """What the run folder holds at most, but for records."""
    state = {"adafactor": 4, "sgd": 4}.get(run.train.optimizer.name, 8)
    state += 4 * (run.train.optimizer.ema is not None)
    largest = max(
        4.0 * p.costs.parameters + (state + 4 * (p.phase.average_from is not None)) * p.costs.trained_parameters
        for p in plans
    )
    checkpoints_held = run.train.checkpoints_kept + 1  # the newest is whole before the oldest goes
    width = encoder_costs(run.encoder).width
    features = 4.0 * size.images * width * sum(len(p.passes) for p in plans)
    exported = 2 * 4.0 * encoder_costs(run.encoder).parameters  # the SavedModel and its zip
    total = checkpoints_held * largest + features + exported
    said = (
        f"disk: {checkpoints_held} checkpoints of {largest / 1e9:.1f} GB, features {features / 1e9:.1f} GB, export "
        f"{exported / 1e9:.1f} GB: {total / 1e9:.1f} GB"
    )
    if total > accelerators.KAGGLE_DISK:
        held = f"Kaggle's working folder holds {accelerators.KAGGLE_DISK / 1e9:.0f}"
        fewer = total - (checkpoints_held - 2) * largest
        with_one = f"; with train.checkpoints_kept=1 {fewer / 1e9:.1f}" if checkpoints_held > 2 else ""
        said += f", {held}{with_one}"
    return said


def _sessions(device: Accelerator, hours: float) -> str:
    """How often a run must go on where sessions end."""
    limit = accelerators.KAGGLE_HOURS.get(device.name)
    if limit is None or hours <= limit:
        return ""
    return f"; Kaggle's sessions end after {limit} h: train.hours={limit - 0.5:g}, and again"


def _lines(planned: PhasePlan, checkpointing: bool) -> list[str]:
    phase, each = planned.phase, planned.costs
    what = "features computed once, then the head" if planned.on_features else f"{planned.image_size_px} px"
    lines = [
        "",
        f"phase {phase.name}: trains {phase.trainable}, {each.trained_parameters:,} of {each.parameters:,} parameters; "
        f"{what}",
        f"  {phase.epochs:g} epoch(s) of {planned.drawn:,} images = {planned.steps:,} steps of {phase.batch_size}; "
        f"{each.flops * phase.batch_size / 1e12:,.3g} TFLOP a step, {each.flops / 1e9:,.4g} GFLOP an image",
        f"  {'':8}images  weights  gradients  optimizer  activations ({'plain' if checkpointing else 'checkpointed'})"
        f"   sum  of HBM     images/s    hours",
    ]
    if planned.features_px:
        at, flops = " and ".join(map(str, planned.features_px)), sum(each.flops for each in planned.passes)
        made = f"computed first, {flops / 1e9:,.4g} GFLOP an image" if flops else "in the cache"
        lines.insert(2, f"  features at {at} px: {made}; {planned.host_bytes / GIB:.1f} GiB of the host's memory")
    for name, e in planned.estimates.items():
        m = {key: value / GIB for key, value in e.memory.items()}
        total = sum(m.values())
        verdict = "" if e.fits else "  does not fit"
        lines.append(
            f"  {name:8}{e.images:6d}  {m['weights']:7.2f}  {m['gradients']:9.2f}  "
            f"{m['optimizer']:9.2f}  {m['activations']:11.2f} {e.other_activations / GIB:14.2f} {total:5.2f}  "
            f"{e.hbm_bytes / GIB:6.0f}  {e.images_per_second:11,.0f}  {e.hours:7.2f}{verdict}"
        )
    return lines
