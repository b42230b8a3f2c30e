"""A whole run, once a process; each test gets a copy."""

import pytest

from tests.stages.tiny_world import World, made


@pytest.fixture(scope="package")
def whole(tmp_path_factory) -> World:
    world = made(tmp_path_factory.mktemp("whole"))
    assert world.guie("run") == 0
    return world


@pytest.fixture
def world(whole, tmp_path) -> World:
    copied = whole.copied(tmp_path / "world")
    assert copied.guie("run") == 0  # config.yaml, and the page that shows it, say where the run lies
    return copied
