"""Records and an encoder that several tests of training share."""

import pytest

from tests.training.tiny_runs import TinyRuns


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyRuns:
    return TinyRuns.made(tmp_path_factory.mktemp("tiny"))
