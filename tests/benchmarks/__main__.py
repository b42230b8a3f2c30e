"""Every benchmark, one process after another: `make bench`, or `python -m tests.benchmarks build search`."""

import subprocess
import sys
from pathlib import Path


def main(wanted: list[str]) -> int:
    folder = Path(__file__).parent
    names = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted or names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.benchmarks.bench_{name}"]).returncode:
            failed.append(name)
    print(
        f"benchmarks: {len(wanted or names) - len(failed)} ran" + (f", failed: {', '.join(failed)}" if failed else "")
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
