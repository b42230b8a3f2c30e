"""The console script `guie`: runs one command of `pipeline.commands`, or answers the shell that completes one."""

import os
import sys

from pipeline.guards import interrupts


def main(argv: list[str] | None = None) -> int:
    """Runs one command, `argv` or the words of this process, and returns the exit code, see `command_line.run`.

    Only the words of this process are interrupted as `interrupts` says, from before the first import on.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if argv is not None:
        return _run(list(argv))
    with interrupts.handled():
        return _run(sys.argv[1:])


def _run(arguments: list[str]) -> int:
    from pipeline.command_line import run  # after the signals are handled: a tenth of a second
    from pipeline.commands import guie

    if os.environ.get("_GUIE_COMPLETE"):
        guie.main(prog_name="guie")  # prints the completions and exits
    return run(guie, "guie", arguments) if arguments else run(guie, "guie", ["--help"]) or 2


if __name__ == "__main__":
    sys.exit(main())
