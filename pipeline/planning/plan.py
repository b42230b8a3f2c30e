"""COMMAND plan: training config → what it needs: parameters, FLOPs, memory a replica, images a second, hours.

guie plan CONFIG [KEY=VALUE …] [--on NAME …] [--share 0.35] [--images N] [--classes N]
configs/*.yaml, <run_dir>/records/labels.json where it is built → a table on the screen

Nothing is built and nothing is downloaded. Peaks are the makers' bfloat16 figures; `--share` of them is what a step is
taken to reach. Features that a phase before has left in the cache are not counted again. Not counted: validation,
checkpoints, reading records, padding of tiles on the device.
"""

from dataclasses import dataclass

from pipeline.config import Run
from pipeline.config.phase_keys import expect_phases, geometry, stored_px
from pipeline.guards.masked import shown
from pipeline.planning import accelerators, costs, remedies
from pipeline.planning.accelerators import Accelerator
from pipeline.planning.estimates import GIB, Estimate, PhasePlan, SetSize, encoder_costs, plan_phase, set_size

SCORED_IMAGES, SCORED_HOURS = 205_000, 9  # the competition's queries and index, and its limit


@dataclass(frozen=True)
class Options:
    run: Run
    on: tuple[str, ...] = ()  # accelerators; empty: accelerators.SHOWN
    share: float = 0.35
    images: int | None = None
    classes: int | None = None


def main(options: Options) -> None:
    """Prints the plan; BadInput: no phases; sizes that are neither built, known nor given; an unknown encoder."""
    run = options.run
    expect_phases(run)
    size = set_size(run, options.images, options.classes)
    encoder = encoder_costs(run.encoder)
    devices = [accelerators.find(name) for name in options.on or accelerators.SHOWN]
    oversampled = any(phase.min_images_per_class > 1 for phase in run.train.phases)
    too_few = "; min_images_per_class adds to that, unknown before records are built"
    origin = size.origin + (too_few if oversampled and size.counts is None else "")
    print(f"plan: {shown(run.name)}, {run.encoder.name}: {size.images:,} images of {size.classes:,} classes ({origin})")
    head = encoder.width * run.embedder.loss_dim
    centres = size.classes * run.train.loss.subcenters * run.embedder.loss_dim
    taught = costs.teacher_parameters(encoder, run, size.classes)
    beside = f", teachers {taught:,}" if taught else ""
    print(f"parameters: encoder {encoder.parameters:,}, head {head:,}, class centres {centres:,}{beside}")
    print(f"{options.share:.0%} of the makers' peak reached; memory in GiB a replica")
    print(f"for (devices.kind={run.devices.kind}): {accelerators.FOR[run.devices.kind]}")
    plans = [plan_phase(run, number, size, options.share, devices) for number in range(len(run.train.phases))]
    for planned in plans:
        print(*_lines(planned, run.encoder.checkpointing), sep="\n")
    print("", _served(run), _disk(run, size, plans), *_stored(run, plans), "", sep="\n")
    for device in devices:
        print(_verdict(run, size, options.share, device, [planned.estimates[device.name] for planned in plans]))


def _verdict(run: Run, size: SetSize, share: float, device: Accelerator, each: list[Estimate]) -> str:
    """Hours and GiB on one accelerator, what drives it; where it does not fit, the cheapest change that does."""
    hours, most = sum(e.hours for e in each), max(e.peak for e in each)
    of = f"{most / GIB:.1f} of {device.chip.hbm_gib:g} GiB"
    if all(e.fits for e in each):
        return f"plan: {device.name} {_hours(hours)}, fits, {of}; {device.needs}{_sessions(device, each)}"
    remedy = remedies.find(run, size, share, device)
    if remedy is None:
        mend = "nothing that keeps the encoder does"
    else:
        mend = f"{' '.join(remedy.overrides)} does: {remedy.bytes / GIB:.1f} GiB, {_hours(remedy.hours)}"
    return f"plan: {device.name} {_hours(hours)}, does not fit, {of}: {mend}"


def _hours(hours: float) -> str:
    return f"{hours:{'.1f' if hours >= 1 else '.2g'}} h"


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


def _stored(run: Run, plans: list[PhasePlan]) -> list[str]:
    """A line where records hold fewer pixels than a phase's crops need."""
    needed, name = max((stored_px(p.phase, p.image_size_px), p.phase.name) for p in plans)
    if not run.records.sources or needed <= run.records.image_size_px:
        return []
    held = f"records.image_size_px={run.records.image_size_px}"
    return [f"records: phase {name} enlarges some of its crops: {held} stores less than the {needed} px that they need"]


def disk_bytes(run: Run, size: SetSize, plans: list[PhasePlan]) -> dict[str, float]:
    """What the run folder holds at most, but for records: checkpoints, features and what is exported."""
    state = costs.optimizer_bytes(run.train.optimizer) + 4 * (run.train.optimizer.ema is not None)
    largest = max(
        4.0 * p.costs.parameters + (state + 4 * (p.phase.average_from is not None)) * p.costs.trained_parameters
        for p in plans
    )
    encoder = encoder_costs(run.encoder)
    return {
        "checkpoints": (run.train.checkpoints_kept + 1) * largest,  # the newest is whole before the oldest goes
        "features": 4.0 * size.images * encoder.width * sum(len(p.passes) for p in plans),
        "export": 2 * 4.0 * encoder.parameters,  # the SavedModel and its zip
    }


def _disk(run: Run, size: SetSize, plans: list[PhasePlan]) -> str:
    held, count = disk_bytes(run, size, plans), run.train.checkpoints_kept + 1
    total, one = sum(held.values()), held["checkpoints"] / count
    said = (
        f"disk: {count} checkpoints of {one / 1e9:.1f} GB, features {held['features'] / 1e9:.1f} GB, export "
        f"{held['export'] / 1e9:.1f} GB: {total / 1e9:.1f} GB"
    )
    if total > accelerators.KAGGLE_DISK:
        said += f", Kaggle's working folder holds {accelerators.KAGGLE_DISK / 1e9:.0f}"
        if count > 2:
            said += f"; with train.checkpoints_kept=1 {(total - (count - 2) * one) / 1e9:.1f}"
    return said


def _sessions(device: Accelerator, each: list[Estimate]) -> str:
    """How often a run must go on where sessions end."""
    limit = accelerators.KAGGLE_HOURS.get(device.name)
    if limit is None or sum(e.hours for e in each) <= limit:
        return ""
    once = max(e.once_hours for e in each)
    if once >= limit:
        return f"; Kaggle's sessions end after {limit} h, and the features alone take {_hours(once)}: not there"
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
