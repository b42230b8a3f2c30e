"""What a training config needs, in numbers: each phase's parameters, FLOPs, memory a replica, images a second, hours.

For `plan.py`, which prints them. Nothing is built and nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import config, files
from pipeline.config import Phase, Run
from pipeline.config.phase_keys import asks_start, asks_teacher, geometry, head_start, holds_start, sees_features
from pipeline.errors import BadInput
from pipeline.models import catalogue
from pipeline.planning import accelerators, costs
from pipeline.planning.accelerators import Accelerator
from pipeline.planning.costs import EncoderCosts, StepCosts
from tfrecords.sources import find_layout

GIB = 2.0**30
HEADROOM = 0.95  # of HBM; the runtime keeps some for itself
_built: dict[str, EncoderCosts] = {}  # of encoders that must be built to be known


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
    before: float  # bytes before the first step, when weights of the phase before or of the run's start are there
    other_activations: float  # with checkpointing where the config has none, without where it has
    hbm_bytes: float
    images_per_second: float
    hours: float
    once_hours: float = 0.0  # of them, for features: no checkpoint is written within

    @property
    def peak(self) -> float:
        """Bytes at most, a replica."""
        return max(self.before, sum(self.memory.values()))

    @property
    def fits(self) -> bool:
        return self.peak <= HEADROOM * self.hbm_bytes


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
    averaged = phase.average_from is not None
    once = size.images * sum(each_pass.flops for each_pass in passes) + _pca_flops(run, number, size)
    estimates = {}
    for device in devices:
        compute = 2 if device.chip.bfloat16 and run.devices.precision != "float32" else 4
        images = -(-phase.batch_size // device.replicas)
        held = _sharded(each, run, phase, size.classes, device.replicas) if run.train.loss.sharded else each
        memory, other = (
            costs.memory_bytes(held, run.train.optimizer, images, again, compute, averaged, device.chip.is_tpu)
            for again in (run.encoder.checkpointing, not run.encoder.checkpointing)
        )
        memory["weights"] += 4.0 * encoder.parameters * holds_start(phase)  # as the run started, beside the tuned ones
        encoding = max((one.forward_elements for one in passes), default=0.0)
        memory["activations"] = max(memory["activations"], 64 / device.replicas * compute * encoding)
        beside = max(_replaced(run, number), encoder.parameters * asks_start(phase))
        before = 4.0 * (held.parameters + beside) + memory["optimizer"]
        rate = share * device.chip.peak_flops * device.replicas
        seconds = (once + steps * phase.batch_size * each.flops) / rate
        speed, hours = steps * phase.batch_size / seconds, seconds / 3600
        hbm = device.chip.hbm_gib * GIB
        estimates[device.name] = Estimate(
            images, memory, before, other["activations"], hbm, speed, hours, once / rate / 3600
        )
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


def _pca_flops(run: Run, number: int, size: SetSize) -> float:
    """Of the features that the head's PCA is fitted on when a phase ends whose encoder has been trained."""
    if run.embedder.trained_dim is None or sees_features(run.train.phases[number]):
        return 0.0
    side, overlap = geometry(run, run.train.phases[number])
    given: list[int | None] = [*run.embedder.sizes_px] or [side]
    each = sum(encoder_costs(run.encoder, one, overlap).flops for one in given)
    return min(size.images, run.embedder.pca_images) * each


def _sharded(each: StepCosts, run: Run, phase: Phase, classes: int, replicas: int) -> StepCosts:
    """What a replica holds where the class centres are split over all."""
    a_class = run.train.loss.subcenters * run.embedder.loss_dim
    spared = (classes - -(-classes // replicas)) * a_class
    trained = each.trained_parameters - spared * (phase.trainable != "encoder")
    return replace(each, parameters=each.parameters - spared, trained_parameters=trained)


def encoder_costs(
    encoder: config.Encoder, image_size_px: int | None = None, patch_overlap_px: int | None = None, built: Any = None
) -> EncoderCosts:
    """Costs of the config's encoder, at another size or overlap where one is given.

    `built`: that encoder, an `encoders.ImageEncoder`, where it is built already.
    """
    if is_transformer(encoder):
        entry = catalogue.find(encoder.name, encoder.architecture)
        side = image_size_px or encoder.image_size_px or entry.image_size_px
        overlap = encoder.patch_overlap_px if patch_overlap_px is None else patch_overlap_px
        return costs.transformer(entry, side, encoder.pooling or entry.pooling, overlap)
    from pipeline.models import encoders  # TensorFlow, for what only a built network tells

    if built:
        return costs.built(built.model, built.preprocess.image_size_px, built.blocks)
    options = replace(encoder, weights="none", image_size_px=image_size_px or encoder.image_size_px)
    if repr(options) not in _built:
        found = encoders.build(options)
        _built[repr(options)] = costs.built(found.model, found.preprocess.image_size_px, found.blocks)
    return _built[repr(options)]


def is_transformer(encoder: config.Encoder) -> bool:
    """Whether blocks may be computed again, and costs are known without building it; BadInput for an unknown name."""
    if encoder.name.startswith("keras_file:"):
        return False
    return catalogue.find(encoder.name, encoder.architecture).facts.transformer


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
    for source in run.records.trained_sources:
        share = 1.0 if source.split else split.train
        published = find_layout(source.layout).size(source.options)
        if published is None or published.classes is None:
            why = f"the size of a {source.layout!r} is known only once its records are built"
            raise BadInput(f"source {source.name}: {why}: run `guie tfrecords`, or give --images N --classes N")
        cap = run.records.cap_per_class if source.cap_per_class is None else source.cap_per_class
        total_classes += published.classes * (share if split.by == "class" else 1.0)
        total_images += min(published.images, cap * published.classes) * share
    return SetSize(images or round(total_images), classes or round(total_classes), f"{given}at most, by known sizes")


def _drawn(size: SetSize, phase: Phase) -> int:
    """Images an epoch: at most so many of a class, small classes drawn more often; see `phases.plan_phase`."""
    cap, least = phase.sampling.cap_per_class, phase.min_images_per_class
    if size.counts is None:
        return size.images if cap is None else min(size.images, cap * size.classes)
    kept = [count if cap is None else min(cap, count) for count in size.counts]
    return sum(max(-(-least // count), 1) * drawn for count, drawn in zip(size.counts, kept, strict=True))
