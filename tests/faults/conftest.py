"""The world that edits start from, once a process."""

import pytest

from tests.faults.reruns import Reruns
from tests.faults.world import made


@pytest.fixture(scope="package")
def reruns(tmp_path_factory) -> Reruns:
    folder = tmp_path_factory.mktemp("edits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_DETERMINISTIC_OPS", "1")
        return Reruns(made(folder / "world"))
