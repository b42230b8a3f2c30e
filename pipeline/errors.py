"""The one exception that a user's input can cause."""


class BadInput(Exception):
    """Input that no rerun can mend: the message is one line that says what was expected, what came, what to do.

    `pipeline.cli` prints it and exits with code 2; a fault of ours keeps its traceback and exits with 1.
    """
