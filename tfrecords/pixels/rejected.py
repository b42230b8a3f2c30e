"""Why an image is left out: the one exception of this room, and a decoder's errors turned into it."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import reason


class Rejected(ValueError):
    """An image that cannot be read or stored; the message is the reason, for rejects.csv."""


# Pillow's plugins raise these on damaged data, as fuzzing them shows.
DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError,
    ZeroDivisionError, RuntimeError, AssertionError, struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def errors_rejected(what: str) -> Iterator[None]:
    """Turns a decoder's error into Rejected: `what: its reason`."""
    try:
        yield
    except Rejected:
        raise
    except DECODER_ERRORS as error:
        raise Rejected(f"{what}: {reason(error)}") from None
