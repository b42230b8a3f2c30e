"""Run by test_configs.py in a process of its own: `guie train` for several configs, one after the other.

Its argument is JSON, config → overrides. All must ask for the same number of replicas: TensorFlow keeps the
collective groups of the first that a process uses.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # quicker to compile, the same graph

from pipeline import cli


def main() -> None:
    for config, overrides in json.loads(sys.argv[1]).items():
        print(f"== {config}", flush=True)
        print(f"exit code {cli.main(['train', config, *overrides])}", flush=True)


if __name__ == "__main__":
    main()
