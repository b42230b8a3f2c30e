"""docs/accelerators.md: which of the mission's configs fits where, how long it takes and what disk it needs.

python -m tests.benchmarks.accelerators

By `guie plan`'s arithmetic, which tests/planning/test_plan.py holds against built models; a second, no accelerator. The
page keeps what stands around the table.
"""

from pathlib import Path

from pipeline import config, files
from pipeline.config import Run
from pipeline.planning import accelerators, estimates
from pipeline.planning.plan import disk_bytes

PAGE = Path("docs/accelerators.md")
PLACES = ("first", "second", "fourth", "fifth", "sixth")
CONFIGS = ("vit_h14_arcface_tpu", *(f"vit_h14_{place}_place" for place in PLACES), "siglip_so400m_probe")
NAMES = ("v3-8", "v4-8", "v5e-8", "v6e-8", "2xT4", "L4", "A100", "A100-80", "H100", "8xH100", "H200")
BEGIN, END = "<!-- made by tests/benchmarks/accelerators.py -->", "<!-- to here -->"


def table() -> list[str]:
    devices = [accelerators.find(name) for name in NAMES]
    cells: dict[str, list[str]] = {name: [] for name in NAMES}
    disks = []
    for name in CONFIGS:
        run = config.load(Run, Path(f"configs/{name}.yaml"))
        size = estimates.set_size(run)
        phases = range(len(run.train.phases))
        plans = [estimates.plan_phase(run, number, size, 0.35, devices) for number in phases]
        disks.append(f"{sum(disk_bytes(run, size, plans).values()) / 1e9:.0f}")
        for device in devices:
            each = [planned.estimates[device.name] for planned in plans]
            most = max(max(e.before, sum(e.memory.values())) for e in each) / estimates.GIB
            hours = sum(e.hours for e in each)
            shown = f"{hours:.0f}" if hours >= 100 else f"{hours:.2g}"
            verdict = f"{shown} h" if all(e.fits for e in each) else "no"
            cells[device.name].append(f"{verdict}, {most:.1f}")
    rows = [["", "GiB", *(f"`{name}`" for name in CONFIGS)], ["---"] * (2 + len(CONFIGS))]
    rows += [[device.name, f"{device.chip.hbm_gib:g}", *cells[device.name]] for device in devices]
    rows.append(["disk, GB", "", *disks])
    return ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    files.write_text(PAGE, "\n".join([f"{before}{BEGIN}", *table(), END]) + rest.partition(END)[2])
    print(f"→ {PAGE}")


if __name__ == "__main__":
    main()
