"""What somebody else's model would do, read from its files before it is loaded or run.

A model is a program. Whatever reaches files, the network, Python or other processes is found by name and refused.
"""

from collections.abc import Sequence

SHOWN = 3


def listed(found: Sequence[str]) -> str:
    """The findings as part of one line: the first few and how many more.

    >>> listed(["ReadFile (serve/r)", "a", "b", "c"])
    'ReadFile (serve/r), a, b and 1 more'
    """
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")
