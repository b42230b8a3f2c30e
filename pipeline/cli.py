"""The console script `guie`: runs one command of `pipeline.commands`, or answers the shell that completes one."""

import os
import sys

from pipeline.command_line import run
from pipeline.commands import guie


def main(argv: list[str] | None = None) -> int:
    """Runs one command, `argv` or the words of this process, and returns the exit code, see `command_line.run`."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if argv is None and os.environ.get("_GUIE_COMPLETE"):
        guie.main(prog_name="guie")  # prints the completions and exits
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(guie, "guie", arguments) if arguments else run(guie, "guie", ["--help"]) or 2


if __name__ == "__main__":
    sys.exit(main())
