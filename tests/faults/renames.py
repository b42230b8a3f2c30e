"""A command that ends at a rename, as a kill there: nothing that comes after it runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest


class Killed(BaseException):
    pass


@contextmanager
def ends_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[int]]:
    """Ends the block at its rename `number`, counted from 0, and at any later one; gives those, none where it ran."""
    renames, ended, replace = iter(range(number)), list[int](), os.replace

    def dying(source, target):
        if next(renames, None) is None:
            ended.append(number)
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(os, "replace", dying)
        yield ended
