"""The world that edits start from, once a process."""

import gc
from collections.abc import Iterator

import pytest

from tests.faults.reruns import Reruns
from tests.faults.world import made


@pytest.fixture(scope="package")
def reruns(tmp_path_factory) -> Iterator[Reruns]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_DETERMINISTIC_OPS", "1")
        yield Reruns(made(tmp_path_factory.mktemp("edits") / "world"))
    gc.unfreeze()  # what `World.guie` froze
